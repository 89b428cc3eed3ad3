"""The search space: named axes, each a list of choices or a range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from insitu.arch.declaration import WIDTHS, ExponentPolicy, Role
from insitu.arch.numbers import Rounding
from insitu.host.errors import StudyError
from insitu.host.study.reading import Reader
from insitu.models.schedules import SCHEDULES

Value = str | int | float

ROUNDINGS = {rounding.name.lower(): rounding for rounding in Rounding}
POLICIES = tuple(policy.value for policy in ExponentPolicy)
#: Roles that the axes `bits` and `rounding` set together.
BITS_ROLES = (Role.WEIGHT, Role.ACTIVATION, Role.ERROR, Role.GRADIENT)
ROUNDING_ROLES = (Role.ACTIVATION, Role.ERROR, Role.GRADIENT, Role.MASTER)
#: Roles whose exponents may move.
MOVING_ROLES = (Role.ACTIVATION, Role.ERROR, Role.GRADIENT)
#: The widths all roles of `bits` allow.
_BITS = (max(WIDTHS[r][0] for r in BITS_ROLES), min(WIDTHS[r][1] for r in BITS_ROLES))
_TEXTS: Mapping[str, tuple[str, ...] | None] = {
    "student": None,
    "core": None,
    "format": None,
    "exponents": POLICIES,
    "schedule": tuple(SCHEDULES),
    "rounding": tuple(ROUNDINGS),
}
_WHOLE: Mapping[str, tuple[int, int]] = {"bits": _BITS, "batch": (1, 65535), "epochs": (1, 100_000)}
_ROLES = ", ".join(role for role in Role if role is not Role.MOMENTUM)
KINDS = (
    "student, core, format, exponents, schedule, rounding, bits, batch, epochs, lr, a role "
    f"({_ROLES}), ROLE.rounding, ROLE.exponents, layers.NAME.ROLE, layers.NAME.ROLE.rounding"
)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One thing that is varied: by `choices`, or from `low` to `high` (`log`: evenly in the logarithm; whole numbers
    in steps of `step`)."""

    name: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: int = 1
    whole: bool = False

    @property
    def values(self) -> tuple[Value, ...]:
        """What a grid takes. Raises StudyError where there is no end of them."""
        if self.choices:
            return self.choices
        if not self.whole:
            raise StudyError(f"space.{self.name} is a range of real numbers: a grid wants a list")
        return tuple(range(int(self.low), int(self.high) + 1, self.step))

    @property
    def distribution(self) -> BaseDistribution:
        """The axis as Optuna has it."""
        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=self.step)
        return FloatDistribution(self.low, self.high, log=self.log)

    def suggest(self, trial: Trial) -> Value:
        """The axis's value in a trial of Optuna's."""
        if self.choices:
            chosen: Any = trial.suggest_categorical(self.name, self.choices)
            return chosen
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log, step=self.step)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


def read_axes(reader: Reader) -> tuple[Axis, ...]:
    """The axes of a table `space`, in its order. Raises StudyError."""
    return tuple(_axis(reader.name(name), name, value) for name, value in reader.rest().items())


def _axis(quoted: str, name: str, value: Any) -> Axis:
    kind, allowed, span = _allowed(quoted, name)
    if isinstance(value, list):
        if not value or len(set(map(repr, value))) != len(value):
            raise StudyError(f"{quoted} is {value!r}: a list of different values is wanted, at least one")
        for one in value:
            _check(quoted, one, kind, allowed, span)
        return Axis(name=name, choices=tuple(float(v) for v in value) if kind is float else tuple(value))
    if kind is str or not isinstance(value, Mapping):
        what = "a list" if kind is str else "a list or a range such as {low = 4, high = 8}"
        raise StudyError(f"{quoted} is {value!r}: {what} is wanted")
    reader = Reader(value, quoted)
    low, high = (reader.take(end, None) for end in ("low", "high"))
    for end in (low, high):
        _check(quoted, end, kind, allowed, span)
    log, step = reader.flag("log", False), reader.integer("step", 1, 1)
    reader.finish()
    if not low < high:
        raise StudyError(f"{quoted} is {value!r}: low is below high")
    if step > 1 and (log or kind is float):
        raise StudyError(f"{quoted} is {value!r}: step is of whole numbers, without log")
    return Axis(name=name, low=low, high=high, log=log, step=step, whole=kind is int)


def _allowed(quoted: str, name: str) -> tuple[type, tuple[str, ...] | None, tuple[int, int] | None]:
    """(kind of value, strings allowed, whole numbers allowed) of an axis."""
    if name in _TEXTS:
        return str, _TEXTS[name], None
    if name in _WHOLE:
        return int, None, _WHOLE[name]
    if name == "lr":
        return float, None, None
    try:
        _, role, what = split(name)
    except ValueError as error:
        raise StudyError(f"{quoted}: nothing of that name can be varied; there are {KINDS}") from error
    if role is Role.MOMENTUM:
        raise StudyError(f"{quoted}: a study trains without velocities; there are {KINDS}")
    if what == "rounding":
        return str, ("floor", "nearest") if role is Role.WEIGHT else tuple(ROUNDINGS), None
    if what == "exponents":
        return str, POLICIES, None
    return int, None, WIDTHS[role]


def split(name: str) -> tuple[str | None, Role, str]:
    """(layer or None, role, "width", "rounding" or "exponents") of an axis of formats. Raises ValueError for others."""
    what = "width"
    for suffix in ("rounding", "exponents"):
        if name.endswith(f".{suffix}"):
            name, what = name.removesuffix(f".{suffix}"), suffix
    if name.startswith("layers."):
        layer, dot, role = name.removeprefix("layers.").rpartition(".")
        if not dot or not layer:
            raise ValueError(name)
        return layer, Role(role), what
    return None, Role(name), what


def _check(quoted: str, value: Any, kind: type, allowed: tuple[str, ...] | None, span: tuple[int, int] | None) -> None:
    if kind is str:
        if not isinstance(value, str) or (allowed is not None and value not in allowed):
            raise StudyError(f"{quoted} has {value!r}: allowed are {', '.join(allowed or ('strings',))}")
    elif kind is int:
        assert span is not None
        if type(value) is not int or not span[0] <= value <= span[1]:
            raise StudyError(f"{quoted} has {value!r}: allowed are whole numbers, {span[0]} to {span[1]}")
    elif type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise StudyError(f"{quoted} has {value!r}: allowed are finite numbers above 0")
