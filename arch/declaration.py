"""What a user declares: a number format for each tensor role, from which core, program and emulation follow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from insitu.arch.errors import ArchError, require
from insitu.arch.numbers import Overflow, Rounding


class Role(StrEnum):
    """What a tensor is for."""

    WEIGHT = "weight"  #: what the array multiplies: the master rounded at the read port
    MASTER = "master"  #: the stored weight an update is added to
    ACTIVATION = "activation"
    ERROR = "error"  #: dL/dy
    GRADIENT = "gradient"  #: dL/dw as it enters the update
    ACCUMULATOR = "accumulator"
    TARGET = "target"  #: soft label
    MOMENTUM = "momentum"  #: velocity of a master; 0 bits where the optimiser has none


class ExponentPolicy(StrEnum):
    """Where a tensor's exponent comes from."""

    STATIC = "static"  #: calibrated once, on a batch
    DELAYED = "delayed"  #: from the range seen at the step before, kept in scale registers
    EXACT = "exact"  #: from this step's range, in two passes: emulator only


#: Widths allowed per role, inclusive.
WIDTHS: Mapping[Role, tuple[int, int]] = {
    Role.WEIGHT: (2, 16),
    Role.MASTER: (2, 32),
    Role.ACTIVATION: (2, 16),
    Role.ERROR: (2, 16),
    Role.GRADIENT: (2, 16),
    Role.ACCUMULATOR: (8, 48),
    Role.TARGET: (2, 16),
    Role.MOMENTUM: (2, 16),
}
#: Letters of the short form: "w8a8e8g8m16c32t8", and "v16" where the optimiser has velocities.
LETTERS: Mapping[str, Role] = {
    "w": Role.WEIGHT,
    "a": Role.ACTIVATION,
    "e": Role.ERROR,
    "g": Role.GRADIENT,
    "m": Role.MASTER,
    "c": Role.ACCUMULATOR,
    "t": Role.TARGET,
    "v": Role.MOMENTUM,
}
_ADAPTIVE = (Role.ACTIVATION, Role.ERROR, Role.GRADIENT)


@dataclass(frozen=True, kw_only=True)
class RoleFormat:
    """One role's numbers: width in bits, and what happens where a tensor of that role is written.

    For `master` the rounding is the weight update's, for `weight` the read port's (floor or nearest), for `momentum`
    that of all terms of a velocity.
    """

    width: int
    rounding: Rounding = Rounding.NEAREST
    overflow: Overflow = Overflow.SATURATE
    exponent: ExponentPolicy = ExponentPolicy.STATIC


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """Number formats of all roles.

    `layers` overrides whole roles per layer name: {"fc2": {"weight": RoleFormat(...)}}.
    """

    weight: RoleFormat = field(default_factory=lambda: RoleFormat(width=8))
    master: RoleFormat = field(default_factory=lambda: RoleFormat(width=16, rounding=Rounding.STOCHASTIC))
    activation: RoleFormat = field(default_factory=lambda: RoleFormat(width=8, exponent=ExponentPolicy.DELAYED))
    error: RoleFormat = field(
        default_factory=lambda: RoleFormat(width=8, rounding=Rounding.STOCHASTIC, exponent=ExponentPolicy.DELAYED)
    )
    gradient: RoleFormat = field(
        default_factory=lambda: RoleFormat(width=8, rounding=Rounding.STOCHASTIC, exponent=ExponentPolicy.DELAYED)
    )
    accumulator: RoleFormat = field(default_factory=lambda: RoleFormat(width=32, overflow=Overflow.WRAP))
    target: RoleFormat = field(default_factory=lambda: RoleFormat(width=8))
    momentum: RoleFormat = field(default_factory=lambda: RoleFormat(width=0, rounding=Rounding.STOCHASTIC))
    layers: Mapping[str, Mapping[str, RoleFormat]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)
        for layer in self.layers:
            try:
                self.at(layer)
            except ArchError as error:
                text = str(error)
                raise ArchError(text if text.startswith("layer") else f"layer {layer!r}: {text}") from error

    def role(self, role: Role) -> RoleFormat:
        """The format of a role."""
        return getattr(self, role.value)

    def at(self, layer: str) -> Declaration:
        """The declaration as one layer sees it."""
        override = self.layers.get(layer, {})
        unknown = set(override) - {r.value for r in Role}
        fixed = sorted(set(override) & set(_NOT_BY_LAYER))
        require(not fixed, f"layer {layer!r}: {', '.join(fixed)} cannot differ by layer: a core has one")
        require(not unknown, f"layer {layer!r}: no role {sorted(unknown)}; roles are {[r.value for r in Role]}")
        changes: dict[str, Any] = {**override, "layers": {}}
        return replace(self, **changes)

    def with_roles(self, *roles: Role, **changes: Any) -> Declaration:
        """A copy in which the named roles have the given RoleFormat fields changed."""
        changed: dict[str, Any] = {r.value: replace(self.role(r), **changes) for r in roles}
        return replace(self, **changed)

    @property
    def short(self) -> str:
        """The widths in the short form that `parse` reads."""
        return "".join(f"{letter}{width}" for letter, role in LETTERS.items() if (width := self.role(role).width))

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Declaration:
        """The declaration of a `to_json` dictionary. Raises ArchError where a field is missing or unknown."""
        try:
            require(set(data) == {f.name for f in fields(cls)}, f"not a number declaration: it has {sorted(data)}")
            roles = {r.value: _role_from_json(data[r.value]) for r in Role}
            layers = {
                name: {role: _role_from_json(fmt) for role, fmt in override.items()}
                for name, override in data["layers"].items()
            }
        except ArchError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArchError(f"not a number declaration: {error!r}") from error
        return cls(layers=layers, **roles)

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        exponent: ExponentPolicy | str | None = None,
        rounding: Mapping[str, Rounding] | None = None,
    ) -> Declaration:
        """Read "w8a8e8g8", optionally with m (master), c (accumulator), t (target), v (momentum).

        An unnamed master is twice the weight, 8 to 32 bits (16 for w8); without v there are no velocities. `exponent`
        sets the policy of activations, errors and gradients; `rounding` that of single roles. Raises ArchError on
        anything else.
        """
        pairs = re.findall(r"([a-z])(\d+)", text)
        require(
            bool(pairs) and "".join(a + b for a, b in pairs) == text and len({a for a, _ in pairs}) == len(pairs),
            f"format {text!r}: expected letters with widths such as 'w8a8e8g8m16'",
        )
        widths: dict[Role, int] = {}
        for letter, bits in pairs:
            require(letter in LETTERS, f"format {text!r}: no role {letter!r}; letters are {', '.join(LETTERS)}")
            widths[LETTERS[letter]] = int(bits)
        if Role.WEIGHT in widths and Role.MASTER not in widths:
            widths[Role.MASTER] = min(32, max(8, 2 * widths[Role.WEIGHT]))
        result = cls()
        try:
            policy = None if exponent is None else ExponentPolicy(exponent)
        except ValueError as error:
            raise ArchError(f"exponents {exponent!r}: allowed are {', '.join(ExponentPolicy)}") from error
        unknown = sorted(set(rounding or {}) - {r.value for r in Role})
        require(not unknown, f"rounding of {unknown}: roles are {', '.join(Role)}")
        changes: dict[str, Any] = {}
        for role in Role:
            fmt = replace(result.role(role), width=widths.get(role, result.role(role).width))
            if policy is not None and role in _ADAPTIVE:
                fmt = replace(fmt, exponent=policy)
            if rounding and role.value in rounding:
                fmt = replace(fmt, rounding=rounding[role.value])
            changes[role.value] = fmt
        return cls(**changes)


def _role_from_json(data: Mapping[str, Any]) -> RoleFormat:
    require(set(data) == {f.name for f in fields(RoleFormat)}, f"a role format has other fields: {sorted(data)}")
    return RoleFormat(
        width=int(data["width"]),
        rounding=Rounding(data["rounding"]),
        overflow=Overflow(data["overflow"]),
        exponent=ExponentPolicy(data["exponent"]),
    )


#: Role format fields that change nothing beyond the width, per role, and the one value each can have.
_FIXED: Mapping[Role, Mapping[str, Any]] = {
    Role.WEIGHT: {"overflow": Overflow.SATURATE},
    Role.MASTER: {"overflow": Overflow.SATURATE},
    Role.ACCUMULATOR: {"overflow": Overflow.WRAP, "rounding": Rounding.NEAREST},
    Role.TARGET: {"overflow": Overflow.SATURATE, "rounding": Rounding.NEAREST},
    Role.MOMENTUM: {"overflow": Overflow.SATURATE},
}
#: Roles that a core, and not a layer, has.
_NOT_BY_LAYER = (Role.ACCUMULATOR, Role.TARGET)


def _check(declaration: Declaration) -> None:
    for role in Role:
        fmt = declaration.role(role)
        low, high = WIDTHS[role]
        none = role is Role.MOMENTUM and fmt.width == 0
        require(none or low <= fmt.width <= high, f"{role} of {fmt.width} bits: allowed are {low} to {high}")
        require(
            role in _ADAPTIVE or fmt.exponent is ExponentPolicy.STATIC,
            f"{role} exponents {fmt.exponent}: only activation, error and gradient can be other than static",
        )
        for name, only in _FIXED.get(role, {}).items():
            value = getattr(fmt, name)
            require(value is only, f"{role} {name} {value.name}: {_WHY[role]}, so it is {only.name}")
    require(
        declaration.master.width >= declaration.weight.width,
        f"master of {declaration.master.width} bits under a weight of {declaration.weight.width}: "
        "a master is at least as wide as its weight",
    )
    require(
        declaration.weight.rounding in (Rounding.FLOOR, Rounding.NEAREST),
        f"weight rounding {declaration.weight.rounding.name}: the read port rounds floor or nearest",
    )


_WHY: Mapping[Role, str] = {
    Role.WEIGHT: "the read port saturates",
    Role.MASTER: "an update saturates",
    Role.ACCUMULATOR: "accumulators wrap and raise a flag and are not rounded",
    Role.TARGET: "the host quantises targets, to nearest and saturated",
    Role.MOMENTUM: "a velocity saturates",
}
