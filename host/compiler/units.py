"""What a student asks of a core's units: windows, the vector unit (arch/params.py)."""

from __future__ import annotations

from insitu.arch.params import CoreParams
from insitu.host.compiler.lower import Lowering


def problems(lowering: Lowering, core: CoreParams) -> str:
    """The layers that take units this core does not have, and which; "" where there are none."""
    lacking: dict[str, dict[str, None]] = {}
    for p in lowering.step:
        said = [name for name, value in p.fields.items() if value]
        if units := core.lacks(p.opcode, *said):
            lacking.setdefault(p.node.name, {}).update(dict.fromkeys(units))
    if not lacking:
        return ""
    named = "; ".join(f"layer {name!r} takes {_and(units, 1)}" for name, units in lacking.items())
    has = dict.fromkeys(unit for units in lacking.values() for unit in units)
    return f"{named}: this core has {_and(has, 0)}"


def _and(units: dict[str, None], value: int) -> str:
    return " and ".join(f"{unit}={value}" for unit in units)
