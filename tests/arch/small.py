"""The smallest instruction of every opcode, and any at all."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from insitu.arch.isa import CONSTANT_MAX, FIELDS, FRACTIONS, MOMENTUM_FIELDS, MOMENTUM_ONE, USED, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.numbers import Overflow, Rounding

ENUMS = {
    "rounding": Rounding,
    "update_rounding": Rounding,
    "momentum_rounding": Rounding,
    "overflow": Overflow,
    "memory": Memory,
}
LOWEST = {
    "velocity_fraction": FRACTIONS[0],
    "width": 2,
    "weight_width": 2,
    "master_width": 2,
    "momentum_width": 2,
    "rows": 1,
    "cols": 2,
    "depth": 2,
}
HIGHEST = {"width": 16, "weight_width": 16, "master_width": 32, "constant": CONSTANT_MAX}
HIGHEST |= {"velocity_fraction": FRACTIONS[1], "momentum_width": 16, "momentum_mul": MOMENTUM_ONE}

SMALL: dict[Opcode, dict[str, Any]] = {
    Opcode.HALT: {},
    Opcode.LOAD: {"rows": 2, "cols": 3},
    Opcode.STORE: {"rows": 2, "cols": 3},
    Opcode.FORWARD: {"rows": 2, "cols": 3, "depth": 4, "width": 8, "weight_width": 8},
    Opcode.BACKWARD: {"rows": 2, "cols": 3, "depth": 4, "width": 8, "weight_width": 8},
    Opcode.UPDATE: {"rows": 2, "cols": 3, "depth": 4, "width": 8, "master_width": 16},
    Opcode.LOSS: {"rows": 2, "cols": 3, "width": 8},
    Opcode.POOL: {"rows": 2, "cols": 3},
    Opcode.UNPOOL: {"rows": 2, "cols": 3},
    Opcode.DW_FORWARD: {"rows": 2, "cols": 3, "width": 8, "weight_width": 8},
    Opcode.DW_BACKWARD: {"rows": 2, "cols": 3, "width": 8, "weight_width": 8},
    Opcode.DW_UPDATE: {"rows": 2, "cols": 3, "width": 8, "master_width": 16},
    Opcode.ADD: {"rows": 2, "cols": 3, "width": 8},
    Opcode.MULTIPLY: {"rows": 2, "cols": 3, "width": 8},
    Opcode.REDUCE: {"rows": 2, "cols": 3, "width": 8},
    Opcode.LOOKUP: {"rows": 2, "cols": 3, "table_bits": 4},
}
#: What an instruction with a constant has none of.
NO_WEIGHTS = ("weight_width", "weight_shift", "b_base", "b_pitch", "sb")
CONSTANT = {"constant": 5, "weight_width": 0}


def small(opcode: Opcode, **changes: Any) -> Instruction:
    return Instruction(opcode=opcode, **(SMALL[opcode] | changes))


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    """Any valid instruction: every field it reads anywhere in its range."""
    opcode = draw(st.sampled_from(Opcode))
    values: dict[str, Any] = {}
    for name in USED[opcode]:
        f = FIELDS[name]
        if name in ENUMS:
            values[name] = draw(st.sampled_from(ENUMS[name]))
        elif name == "weight_rounding":
            values[name] = draw(st.sampled_from([Rounding.FLOOR, Rounding.NEAREST]))
        else:
            values[name] = draw(st.integers(LOWEST.get(name, f.minimum), HIGHEST.get(name, f.maximum)))
    if values.get("track"):
        values["exact"] = 0
    if opcode in (Opcode.LOAD, Opcode.STORE):
        values["cols"] = max(values["cols"], 1 + values["bias"])
    if opcode is Opcode.STORE and values["memory"] is Memory.TAB:
        values["memory"] = Memory.WGT
    if opcode in (Opcode.ADD, Opcode.MULTIPLY):
        values["memory"] = draw(st.sampled_from([Memory.ACT, Memory.ERR]))
        values["mask" if values["memory"] is Memory.ACT else "relu"] = 0
    if "momentum_width" in values and draw(st.booleans()):
        values |= dict.fromkeys(MOMENTUM_FIELDS, 0)
    if values.get("constant") and draw(st.booleans()):
        values["constant"] = 0
    if values.get("constant"):
        values |= {name: 0 for name in ("bias", "weight_rounding", *NO_WEIGHTS) if name in values}
    if "table_bits" in values:
        values["table_bits"] = draw(st.sampled_from([0] * (opcode is Opcode.MULTIPLY) + [2, 3, 8, 12]))
        values["table_base"] &= -1 << values["table_bits"]
    return Instruction(opcode=opcode, **values)
