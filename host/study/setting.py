"""What one trial is trained with, made of a study's base and a point of its space; JSON both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from insitu.arch.declaration import Declaration, ExponentPolicy, Role
from insitu.arch.errors import ArchError
from insitu.arch.params import CoreParams
from insitu.host.errors import StudyError
from insitu.host.study.presets import PRESETS
from insitu.host.study.space import (
    BITS_ROLES,
    MOVING_ROLES,
    ROUNDING_ROLES,
    ROUNDINGS,
    Value,
    split,
)

Arm = Literal["insitu", "float32", "qpytorch"]
_PLAIN = ("student", "core", "format", "exponents", "schedule", "rounding", "bits", "batch", "epochs", "lr")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A trial: who is trained, by what arithmetic, how, with which seeds.

    arm: insitu, or what it is compared with. declaration, core, preset: None where the arm has none.
    """

    arm: Arm
    student: str
    data: str
    holdout: float
    seeds: tuple[int, ...]
    epochs: int
    batch: int
    lr: float
    schedule: str
    declaration: Declaration | None = None
    core: CoreParams | None = None
    preset: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_json` reads it back."""
        data = {k: v for k, v in self.__dict__.items() if k not in ("declaration", "core")}
        return data | {
            "seeds": list(self.seeds),
            "declaration": self.declaration.to_json() if self.declaration else None,
            "core": self.core.to_json() if self.core else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Setting:
        """The setting of a `to_json` dictionary."""
        changed = {
            "seeds": tuple(data["seeds"]),
            "declaration": Declaration.from_json(data["declaration"]) if data["declaration"] else None,
            "core": CoreParams.from_json(data["core"]) if data["core"] else None,
        }
        return cls(**{**data, **changed})

    @property
    def format(self) -> str:
        """The preset's name, or the widths in short form, accumulators and targets where they are not as usual."""
        if self.preset or self.declaration is None:
            return self.preset or "float32"
        usual = Declaration()
        return self.declaration.short.removesuffix(f"c{usual.accumulator.width}t{usual.target.width}")


def make(
    base: Mapping[str, Any],
    point: Mapping[str, Value],
    *,
    data: str,
    holdout: float,
    seeds: tuple[int, ...],
    arm: Arm = "insitu",
) -> Setting:
    """The setting of a point: the base's values, a preset's over them, the point's over both. Raises StudyError where
    they make no declaration or core."""
    assert arm in get_args(Arm)
    values: dict[str, Any] = {**base, **point}
    preset = PRESETS.get(values["format"])
    if preset is not None:
        own = [name for name in point if _of_formats(name)]
        if own:
            raise StudyError(f"point {dict(point)}: preset {preset.name!r} has formats of its own, {own[0]!r} included")
        values = {**base, **preset.train, **point}
    common = {k: values[k] for k in ("student", "epochs", "batch", "lr", "schedule")}
    common |= {"data": data, "holdout": holdout, "seeds": seeds, "arm": arm}
    if arm == "float32":
        return Setting(**common)
    try:
        declaration = _declaration(values)
        core = CoreParams.parse(values["core"]).with_declaration(declaration)
    except ArchError as error:
        where = f"point {dict(point)}: " if point else ""
        raise StudyError(f"{where}{error}") from error
    return Setting(**common, declaration=declaration, core=core, preset=preset.name if preset else None)


def _of_formats(name: str) -> bool:
    """Whether a value changes a declaration."""
    return name in ("bits", "rounding", "exponents") or name not in _PLAIN


def _declaration(values: Mapping[str, Any]) -> Declaration:
    preset = PRESETS.get(values["format"])
    if preset is not None:
        return preset.declaration
    widths: dict[Role, int] = dict.fromkeys(BITS_ROLES, values["bits"]) if "bits" in values else {}
    roundings = dict.fromkeys(ROUNDING_ROLES, values["rounding"]) if "rounding" in values else {}
    policies: dict[Role, str] = {}
    layers: list[tuple[str, Role, str, Any]] = []
    for name, value in values.items():
        if name in _PLAIN:
            continue
        layer, role, what = split(name)
        if layer is not None:
            layers.append((layer, role, what, value))
        elif what == "width":
            widths[role] = value
        elif what == "rounding":
            roundings[role] = value
        else:
            policies[role] = value
    found = _widened(values["format"], widths, values.get("exponents"))
    for role, rounding in roundings.items():
        found = found.with_roles(role, rounding=ROUNDINGS[rounding])
    for role, policy in policies.items():
        if role not in MOVING_ROLES:
            raise ArchError(f"{role}.exponents: only {', '.join(MOVING_ROLES)} have exponents that can move")
        found = found.with_roles(role, exponent=ExponentPolicy(policy))
    return _layered(found, layers)


def _widened(short: str, widths: Mapping[Role, int], exponents: str | None) -> Declaration:
    """The short form's declaration with some widths changed; a master that nobody names follows the weight."""
    given = Declaration.parse(short, exponent=exponents)
    if Role.WEIGHT in widths and "m" not in short:
        widths = {Role.MASTER: Declaration.parse(f"w{widths[Role.WEIGHT]}").master.width, **widths}
    changes: dict[str, Any] = {role.value: replace(given.role(role), width=bits) for role, bits in widths.items()}
    return replace(given, **changes)


def _layered(declaration: Declaration, layers: list[tuple[str, Role, str, Any]]) -> Declaration:
    found: dict[str, dict[str, Any]] = {}
    for layer, role, what, value in layers:
        own = found.setdefault(layer, {})
        fmt = own.get(role.value, declaration.role(role))
        change = {"rounding": ROUNDINGS[value]} if what == "rounding" else {"width": value}
        if what == "exponents":
            change = {"exponent": ExponentPolicy(value)}
        own[role.value] = replace(fmt, **change)
    return replace(declaration, layers=found) if found else declaration
