"""Which passes are alike: to units that know a pass by what they do in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from amaranth import Cat, Const, Module, Value

from insitu.arch import isa
from insitu.arch.isa import Opcode
from insitu.fpga.common import register

#: Products of the array.
PRODUCTS = (Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE)
POOLS = isa.POOLS
#: Between a stream and a memory.
MOVES = (Opcode.LOAD, Opcode.STORE)
#: Depthwise passes that read a kernel's rows.
KERNEL_ROWS = (Opcode.DW_FORWARD, Opcode.DW_BACKWARD)
#: What goes from a map to the same map, and what goes through two maps side by side.
SAME_MAP = (Opcode.ADD, Opcode.MULTIPLY, Opcode.LOOKUP)
PAIRED = (Opcode.ADD, Opcode.MULTIPLY, Opcode.REDUCE)
#: The vector unit's sums, and all that it does.
SUMS = isa.VECTOR
VECTOR = isa.VECTOR_UNIT
#: How a window is walked: output pixels that take taps, map pixels that take taps, taps that take pixels.
TO_OUTPUT = (Opcode.FORWARD, Opcode.DW_FORWARD, Opcode.REDUCE, *SAME_MAP)
TO_MAP = (Opcode.BACKWARD, Opcode.DW_BACKWARD)
TO_TAPS = (Opcode.UPDATE, Opcode.DW_UPDATE)
#: A tile is one row of one pixel.
ROWWISE = (*POOLS, *KERNEL_ROWS, *PAIRED, Opcode.LOOKUP)
#: Masters pass the read port of WGT.
WEIGHTED = (Opcode.FORWARD, Opcode.BACKWARD, *KERNEL_ROWS)
#: A lies in ACT, B does; in ADD and MULTIPLY that depends on the memory that they name.
A_IN_ACT = (Opcode.FORWARD, Opcode.LOSS, Opcode.POOL, Opcode.DW_FORWARD, Opcode.LOOKUP)
B_IN_ACT = (*TO_TAPS, Opcode.UNPOOL, Opcode.REDUCE)
#: D lies in ACT, likewise.
TO_ACT = (Opcode.FORWARD, Opcode.POOL, Opcode.DW_FORWARD, Opcode.LOOKUP)
#: Passes that a mask may follow.
MASKED = (*TO_MAP, *PAIRED)


def among(opcode: Any, codes: Iterable[Opcode]) -> Value:
    """Whether an opcode is one of some."""
    return Cat(opcode == code for code in codes).any()


def flag(m: Module, opcode: Any, name: str, *codes: Opcode, has: Collection[Opcode] = tuple(Opcode)) -> Any:
    """The same as a register of a module; 0 where a core has none of them."""
    codes = tuple(code for code in codes if code in has)
    if not codes:
        return Const(0, 1)
    found = register(name=name)
    m.d.sync += found.eq(among(opcode, codes))
    return found
