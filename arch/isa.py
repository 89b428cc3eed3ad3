"""The instruction set: whole passes of a layer, 16 words of 32 bits each.

FORWARD, BACKWARD, UPDATE and their kin of one channel (DW_) go over a window (arch/window.py): a kernel over a feature
map. `rows`, `cols` and `depth` are those of one pixel and one tap; the window multiplies them. An extent of 0 stands
for 1: without any, map and kernel are one pixel, and the pass is a matrix product.

Every field lies inside one word and is listed once, in `FIELDS`; encoding, decoding, disassembly and the generated
documents follow from the table. A word bit that no field claims must be zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.declaration import WIDTHS, Role
from insitu.arch.errors import ArchError, require
from insitu.arch.layout import Matrix, Memory
from insitu.arch.numbers import Overflow, Rounding
from insitu.arch.window import Window

#: Words of 32 bits in an instruction.
WORDS = 16
#: Instructions whose words, and whose checks against a core, are kept: a program is written anew at each change of the
#: learning rate, and most of its instructions stay as they are.
KNOWN = 4096


class Opcode(IntEnum):
    """The passes. `LOAD` and `STORE` move a matrix between a stream and a memory; the others compute."""

    HALT = 0
    LOAD = 1  #: stream -> D, row by row, one block of N elements a beat
    STORE = 2  #: A -> stream, likewise
    FORWARD = 3  #: D[r,c] = sum_k A[r,k] B[c,k]      A, D in ACT; B in WGT
    BACKWARD = 4  #: D[r,c] = sum_k A[r,k] B[k,c]     A, D in ERR; B in WGT; mask M in ACT
    UPDATE = 5  #: D[r,c] -= lr * sum_k A[k,r] B[k,c]  A in ERR; B in ACT; D in WGT, its velocities in VEL
    LOSS = 6  #: D = softmax(A) * sum(B) - B          A in ACT; B, D in ERR
    POOL = 7  #: D[q,c] = max over taps of A[p,c]      A, D in ACT
    UNPOOL = 8  #: D[p,c] = A[q,c] where B[p,c] is the first maximum of its window, else 0   A, D in ERR; B in ACT
    DW_FORWARD = 9  #: D[q,c] = sum over taps t of A[p,c] B[t,c]    A, D in ACT; B in WGT, or a constant
    DW_BACKWARD = 10  #: D[p,c] = sum over taps t of A[q,c] B[t,c]  A, D in ERR; B likewise; mask M in ACT
    DW_UPDATE = 11  #: D[t,c] -= lr * sum over q of A[q,c] B[p,c]   A in ERR; B in ACT; D in WGT
    ADD = 12  #: D = A + B                                          all in ACT, or all in ERR with mask M in ACT
    MULTIPLY = 13  #: D = A * B, or A * table[B]                    likewise, but B always in ACT
    REDUCE = 14  #: D[0,c] = sum over p of A[p,c] B[p,c]            A, D in ERR; B in ACT; mask M in ACT
    LOOKUP = 15  #: D = table[A]                                    A, D in ACT


@dataclass(frozen=True)
class Field:
    """A bit field: `width` bits at bit `lsb` of word `word`."""

    word: int
    lsb: int
    width: int
    doc: str
    signed: bool = False

    @cached_property
    def minimum(self) -> int:
        return -(1 << (self.width - 1)) if self.signed else 0

    @cached_property
    def maximum(self) -> int:
        return (1 << (self.width - self.signed)) - 1

    @cached_property
    def mask(self) -> int:
        return ((1 << self.width) - 1) << self.lsb


FIELDS: Mapping[str, Field] = {
    "opcode": Field(0, 0, 4, "the pass, see Opcode"),
    "memory": Field(0, 4, 3, "memory that LOAD writes and STORE reads; ADD, MULTIPLY: that of D"),
    "bias": Field(
        *(0, 15, 1),
        "one more step (FORWARD) or column (UPDATE) whose ACT operand is 2**bias_exponent; LOAD, STORE: that column",
    ),
    "relu": Field(0, 7, 1, "negative accumulators become zero"),
    "mask": Field(0, 8, 1, "accumulators become zero where M <= 0; UNPOOL: elements where B <= 0"),
    "track": Field(0, 9, 1, "delayed exponent: commit scale[sd] at the start, track the range for the next run"),
    "exact": Field(0, 10, 1, "exponent of D from this pass's own range, in two passes; emulator only"),
    "rounding": Field(0, 11, 2, "rounding of the narrowed accumulator"),
    "update_rounding": Field(
        0, 13, 2, "UPDATE: rounding to the master's units: of lr * gradient; with momentum, of the velocity"
    ),
    "overflow": Field(0, 16, 1, "overflow of the narrowed accumulator"),
    "width": Field(0, 17, 5, "bits of D, or of the gradient in UPDATE"),
    "weight_width": Field(0, 22, 5, "bits of a weight after the WGT read port"),
    "weight_shift": Field(0, 27, 5, "bits the WGT read port drops from a master"),
    "a_base": Field(1, 0, 20, "first word of A"),
    "a_pitch": Field(1, 20, 12, "words from a row of A to the next"),
    "b_base": Field(2, 0, 20, "first word of B"),
    "b_pitch": Field(2, 20, 12, "words from a row of B to the next"),
    "d_base": Field(3, 0, 20, "first word of D"),
    "d_pitch": Field(3, 20, 12, "words from a row of D to the next"),
    "m_base": Field(4, 0, 20, "first word of the mask M"),
    "m_pitch": Field(4, 20, 12, "words from a row of M to the next"),
    "rows": Field(5, 0, 16, "rows of D, for each pixel (of A for STORE)"),
    "cols": Field(5, 16, 16, "columns of D, for each tap (of A for STORE); with bias, UPDATE has one more"),
    "depth": Field(
        6, 0, 16, "terms of each sum, for each tap (FORWARD) or pixel (UPDATE); with bias, FORWARD has one more"
    ),
    "master_width": Field(6, 16, 6, "UPDATE: bits of a master"),
    "lr_mul": Field(6, 22, 8, "UPDATE: m of the learning rate m * 2**-k"),
    "sa": Field(7, 0, 8, "scale register of A"),
    "sb": Field(7, 8, 8, "scale register of B (a master's for WGT)"),
    "sd": Field(7, 16, 8, "scale register of D, or of the gradient in UPDATE"),
    "sm": Field(7, 24, 8, "UPDATE: scale register of the masters D"),
    "lr_shift": Field(8, 0, 6, "UPDATE: k of the learning rate m * 2**-k"),
    "bias_exponent": Field(
        8, 8, 6, "the real value of the bias operand is 2**bias_exponent; of a constant, its exponent", signed=True
    ),
    "map_height": Field(9, 0, 8, "pixels of the map, down"),
    "map_width": Field(9, 8, 8, "pixels of the map, across"),
    "out_height": Field(9, 16, 8, "pixels of the output, down"),
    "out_width": Field(9, 24, 8, "pixels of the output, across"),
    "kernel_height": Field(10, 0, 8, "taps of the kernel, down"),
    "kernel_width": Field(10, 8, 8, "taps of the kernel, across"),
    "stride": Field(10, 16, 1, "map pixels from an output pixel to the next: one more than this"),
    "pad_height": Field(10, 20, 4, "map pixels that the first output pixel's kernel begins above the map"),
    "pad_width": Field(10, 24, 4, "the same to the left"),
    "constant": Field(11, 0, 16, "what every element of B is, in place of B; 0: B is in memory"),
    "table_base": Field(11, 16, 12, "first word of the table, a multiple of 2**table_bits"),
    "table_bits": Field(12, 0, 4, "the table has 2**table_bits words; MULTIPLY: 0 for none"),
    "table_drop": Field(12, 4, 4, "bits of an element below those that choose a word of the table"),
    "broadcast": Field(12, 8, 1, "MULTIPLY: B has one pixel, which every pixel of A meets"),
    "weight_rounding": Field(12, 9, 1, "rounding of the WGT read port: floor or nearest"),
    "momentum_width": Field(13, 0, 5, "UPDATE: bits of a velocity; 0: none, masters change by the gradient alone"),
    "momentum_mul": Field(13, 5, 9, "UPDATE: what is kept of a velocity, in 1/256"),
    "velocity_fraction": Field(13, 14, 6, "UPDATE: bits of a velocity below the master's last place", signed=True),
    "momentum_rounding": Field(13, 20, 2, "UPDATE: rounding to the velocity's units"),
    "hold": Field(13, 22, 1, "UPDATE: velocities alone change: more of the same batch is to come"),
    "decay_mul": Field(14, 0, 8, "UPDATE: m of the share m * 2**-k that a master decays by; 0: none"),
    "decay_shift": Field(14, 8, 5, "UPDATE: k of that share"),
}
#: The largest constant: one more bit is the sign's.
CONSTANT_MAX = 1 << 14
#: The whole of a velocity, as momentum_mul has it, and its bits below the point.
MOMENTUM_ONE, MOMENTUM_BITS = 1 << 8, 8
#: Bits of a velocity below its master's last place, from the fewest to the most.
FRACTIONS = (-24, 15)
#: Words a table may have, as a power of two.
TABLE_BITS = (2, 12)

_CLAIMED = [sum(f.mask for f in FIELDS.values() if f.word == w) for w in range(WORDS)]
#: Fields that say how far a map, a kernel, all of a window reach; 0 stands for 1.
MAP_FIELDS, KERNEL_FIELDS = ("map_height", "map_width"), ("kernel_height", "kernel_width")
EXTENT_FIELDS = (*MAP_FIELDS, "out_height", "out_width", *KERNEL_FIELDS)
#: Fields that say a window: all zero where a pass has none.
WINDOW_FIELDS = (*EXTENT_FIELDS, "stride", "pad_height", "pad_width")
_NARROW = ("track", "exact", "rounding", "overflow", "width", "sd")
_READ = ("weight_rounding", "weight_width", "weight_shift")
_PLACES = ("a_base", "a_pitch", "b_base", "b_pitch", "d_base", "d_pitch")
_MASK = ("mask", "m_base", "m_pitch")
_TABLE = ("table_base", "table_bits", "table_drop")
#: What an update says of velocities; the width first, 0 for none.
MOMENTUM_FIELDS = (
    "momentum_width",
    "momentum_mul",
    "velocity_fraction",
    "momentum_rounding",
    "hold",
    "decay_mul",
    "decay_shift",
)
_RATE = ("update_rounding", "master_width", "lr_mul", "lr_shift", "sm", *MOMENTUM_FIELDS)
#: The passes that write masters.
UPDATES = (Opcode.UPDATE, Opcode.DW_UPDATE)
#: The passes of the vector unit that narrow a sum: one lane an element, all rows of a block of columns after another.
VECTOR = (Opcode.DW_FORWARD, Opcode.DW_BACKWARD, Opcode.DW_UPDATE, Opcode.ADD, Opcode.MULTIPLY, Opcode.REDUCE)
#: What a pool does, and all that the vector unit does: a core may lack them (arch/params.py).
POOLS = (Opcode.POOL, Opcode.UNPOOL)
VECTOR_UNIT = (*VECTOR, Opcode.LOOKUP)
#: Passes that go from a map to the same map.
_SAME = (Opcode.ADD, Opcode.MULTIPLY, Opcode.LOOKUP)
#: Fields each opcode reads; the others must be zero in its words.
USED: Mapping[Opcode, tuple[str, ...]] = {
    Opcode.HALT: (),
    Opcode.LOAD: ("memory", "bias", "d_base", "d_pitch", "rows", "cols", *MAP_FIELDS, *KERNEL_FIELDS),
    Opcode.STORE: ("memory", "bias", "a_base", "a_pitch", "rows", "cols", *MAP_FIELDS, *KERNEL_FIELDS),
    Opcode.FORWARD: (
        *("bias", "relu", "track", "exact", "rounding", "overflow", "width"),
        *("weight_rounding", "weight_width", "weight_shift", "a_base", "a_pitch", "b_base", "b_pitch"),
        *("d_base", "d_pitch", "rows", "cols", "depth", "sa", "sb", "sd", "bias_exponent", *WINDOW_FIELDS),
    ),
    Opcode.BACKWARD: (
        *("mask", "track", "exact", "rounding", "overflow", "width", "weight_rounding", "weight_width", "weight_shift"),
        *("a_base", "a_pitch", "b_base", "b_pitch", "d_base", "d_pitch", "m_base", "m_pitch"),
        *("rows", "cols", "depth", "sa", "sb", "sd", *WINDOW_FIELDS),
    ),
    Opcode.UPDATE: (
        *("bias", *_NARROW, *_PLACES, "rows", "cols", "depth", "sa", "sb", "bias_exponent", *WINDOW_FIELDS),
        *_RATE,
    ),
    Opcode.LOSS: (
        *("track", "exact", "rounding", "overflow", "width", "a_base", "a_pitch", "b_base", "b_pitch"),
        *("d_base", "d_pitch", "rows", "cols", "sa", "sb", "sd"),
    ),
    Opcode.POOL: ("a_base", "a_pitch", "d_base", "d_pitch", "rows", "cols", *EXTENT_FIELDS),
    Opcode.UNPOOL: (
        "mask",
        "a_base",
        "a_pitch",
        "b_base",
        "b_pitch",
        "d_base",
        "d_pitch",
        "rows",
        "cols",
        *EXTENT_FIELDS,
    ),
    Opcode.DW_FORWARD: (
        *("bias", "relu", *_NARROW, *_READ, *_PLACES, "rows", "cols", "sa", "sb", "bias_exponent", "constant"),
        *WINDOW_FIELDS,
    ),
    Opcode.DW_BACKWARD: (
        *(*_NARROW, *_READ, *_MASK, *_PLACES, "rows", "cols", "sa", "sb", "bias_exponent", "constant"),
        *WINDOW_FIELDS,
    ),
    Opcode.DW_UPDATE: (
        *("bias", *_NARROW, *_PLACES, "rows", "cols", "sa", "sb", "bias_exponent", *WINDOW_FIELDS),
        *_RATE,
    ),
    Opcode.ADD: ("memory", "relu", *_NARROW, *_MASK, *_PLACES, "rows", "cols", "sa", "sb", *MAP_FIELDS),
    Opcode.MULTIPLY: (
        *("memory", "relu", *_NARROW, *_MASK, *_PLACES, "rows", "cols", "sa", "sb", *MAP_FIELDS),
        *(*_TABLE, "broadcast"),
    ),
    Opcode.REDUCE: (*_NARROW, *_MASK, *_PLACES, "rows", "cols", "sa", "sb", *MAP_FIELDS),
    Opcode.LOOKUP: ("a_base", "a_pitch", "d_base", "d_pitch", "rows", "cols", *MAP_FIELDS, *_TABLE),
}


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One decoded instruction; the fields are those of `FIELDS`. Raises ArchError where a value does not fit."""

    opcode: Opcode
    memory: Memory = Memory.ACT
    bias: int = 0
    relu: int = 0
    mask: int = 0
    track: int = 0
    exact: int = 0
    rounding: Rounding = Rounding.FLOOR
    update_rounding: Rounding = Rounding.FLOOR
    weight_rounding: Rounding = Rounding.FLOOR
    overflow: Overflow = Overflow.SATURATE
    width: int = 0
    weight_width: int = 0
    weight_shift: int = 0
    a_base: int = 0
    a_pitch: int = 0
    b_base: int = 0
    b_pitch: int = 0
    d_base: int = 0
    d_pitch: int = 0
    m_base: int = 0
    m_pitch: int = 0
    rows: int = 0
    cols: int = 0
    depth: int = 0
    master_width: int = 0
    lr_mul: int = 0
    sa: int = 0
    sb: int = 0
    sd: int = 0
    sm: int = 0
    lr_shift: int = 0
    bias_exponent: int = 0
    map_height: int = 0
    map_width: int = 0
    out_height: int = 0
    out_width: int = 0
    kernel_height: int = 0
    kernel_width: int = 0
    stride: int = 0
    pad_height: int = 0
    pad_width: int = 0
    constant: int = 0
    table_base: int = 0
    table_bits: int = 0
    table_drop: int = 0
    broadcast: int = 0
    momentum_width: int = 0
    momentum_mul: int = 0
    velocity_fraction: int = 0
    momentum_rounding: Rounding = Rounding.FLOOR
    hold: int = 0
    decay_mul: int = 0
    decay_shift: int = 0

    def __post_init__(self) -> None:
        for name, kind in _ENUMS.items():
            object.__setattr__(self, name, _member(name, kind, getattr(self, name)))
        used = USED[self.opcode]
        for name, f in FIELDS.items():
            value = int(getattr(self, name))
            if not f.minimum <= value <= f.maximum:
                raise ArchError(f"{self.opcode.name}.{name}={value}: allowed are {f.minimum} to {f.maximum}")
            if value and name not in used and name != "opcode":
                raise ArchError(f"{self.opcode.name} does not read {name}={value}: it must be 0")
        if self.opcode is not Opcode.HALT:
            require(self.rows >= 1 and self.cols >= 1, f"{self.opcode.name} of {self.rows} x {self.cols} is empty")
        if "depth" in used:
            low = 1 + (self.bias if self.opcode is Opcode.FORWARD else 0)
            require(self.depth >= low, f"{self.opcode.name}.depth={self.depth}: must be at least {low}")
        if "memory" in used:
            self._check_memory()
        if self.constant:
            self._check_constant()
        if self.opcode is Opcode.LOOKUP or self.table_bits:
            self._check_table()
        if "width" in used:
            self._check_width("width", Role.GRADIENT if self.opcode in UPDATES else Role.ACTIVATION)
            require(not (self.track and self.exact), f"{self.opcode.name}: track and exact exclude each other")
        if "weight_width" in used and not self.constant:
            self._check_width("weight_width", Role.WEIGHT)
        if self.bias and self.opcode in (Opcode.LOAD, Opcode.STORE) or self.opcode is Opcode.UPDATE:
            require(self.cols > self.bias, f"{self.opcode.name}.cols={self.cols}: a bias column alone is not a matrix")
        if "master_width" in used:
            self._check_width("master_width", Role.MASTER)
            self._check_momentum()

    def _check_width(self, field: str, role: Role) -> None:
        value, (low, high) = getattr(self, field), WIDTHS[role]
        require(low <= value <= high, f"{self.opcode.name}.{field}={value}: allowed are {low} to {high}")

    def _check_momentum(self) -> None:
        """What an update with velocities has, and one without them has not."""
        name, (narrow, wide), (fewest, most) = self.opcode.name, WIDTHS[Role.MOMENTUM], FRACTIONS
        width, kept, below = self.momentum_width, self.momentum_mul, self.velocity_fraction
        allowed = width == 0 or narrow <= width <= wide
        require(allowed, f"{name}.momentum_width={width}: allowed are {narrow} to {wide}, or 0")
        require(kept <= MOMENTUM_ONE, f"{name}.momentum_mul={kept}: allowed are 0 to {MOMENTUM_ONE}")
        require(fewest <= below <= most, f"{name}.velocity_fraction={below}: allowed are {fewest} to {most}")
        for field in () if width else MOMENTUM_FIELDS:
            value = getattr(self, field)
            require(value == 0, f"{name}.momentum_width=0: without velocities {field}={value} must be 0")

    def _check_memory(self) -> None:
        """What lies in which memory."""
        name, memory = self.opcode.name, self.memory
        if self.opcode is Opcode.STORE:
            require(memory is not Memory.TAB, f"{name}.memory={memory}: tables are written and looked up, never read")
        elif self.opcode is not Opcode.LOAD:
            require(memory in (Memory.ACT, Memory.ERR), f"{name}.memory={memory}: allowed are 0 (ACT) and 1 (ERR)")
            require(not self.relu or memory is Memory.ACT, f"{name}.relu=1: of activations only, in ACT")
            require(not self.mask or memory is Memory.ERR, f"{name}.mask=1: of errors only, in ERR")

    def _check_constant(self) -> None:
        """A constant stands where B and its bias would."""
        name = self.opcode.name
        require(
            self.constant <= CONSTANT_MAX, f"{name}.constant={self.constant}: allowed are 1 to {CONSTANT_MAX}, or 0"
        )
        for field in ("bias", *_READ, "b_base", "b_pitch", "sb"):
            value = getattr(self, field)
            require(value == 0, f"{name}.constant={self.constant} is in the place of B: {field}={value} must be 0")

    def _check_table(self) -> None:
        low, high = TABLE_BITS
        name, bits = self.opcode.name, self.table_bits
        require(low <= bits <= high, f"{name}.table_bits={bits}: allowed are {low} to {high}")
        require(
            self.table_base % (1 << bits) == 0,
            f"{name}.table_base={self.table_base:#x}: must be a multiple of the table's {1 << bits} words",
        )

    @cached_property
    def window(self) -> Window:
        """The kernel and the map of a pass; a pool's kernels lie side by side, REDUCE's is the map."""
        extents = {field: max(1, getattr(self, field)) for field in EXTENT_FIELDS}
        if self.opcode in _SAME:
            extents |= {"out_height": extents["map_height"], "out_width": extents["map_width"]}
        if self.opcode is Opcode.REDUCE:
            extents |= {"kernel_height": extents["map_height"], "kernel_width": extents["map_width"]}
        pool = self.opcode in (Opcode.POOL, Opcode.UNPOOL)
        return Window(
            **extents,
            stride_height=extents["kernel_height"] if pool else 1 + self.stride,
            stride_width=extents["kernel_width"] if pool else 1 + self.stride,
            pad_height=self.pad_height,
            pad_width=self.pad_width,
        )

    @property
    def draws(self) -> bool:
        """Whether the instruction takes random bits, and so steps SEED."""
        return Rounding.STOCHASTIC in (self.rounding, self.update_rounding, self.momentum_rounding)

    @property
    def a(self) -> Matrix:
        """Operand A as it lies in memory."""
        w = self.window
        mapped, given = w.map_pixels * self.rows, w.out_pixels * self.rows
        match self.opcode:
            case Opcode.STORE:
                return self._matrix("a", self.memory, mapped, **self._grouped(self.cols))
            case Opcode.FORWARD:
                return self._matrix("a", Memory.ACT, mapped, self.depth - self.bias)
            case Opcode.BACKWARD:
                return self._matrix("a", Memory.ERR, given, self.depth)
            case Opcode.UPDATE:
                return self._matrix("a", Memory.ERR, w.out_pixels * self.depth, self.rows)
            case Opcode.LOSS | Opcode.POOL:
                return self._matrix("a", Memory.ACT, mapped, self.cols)
            case Opcode.UNPOOL | Opcode.DW_BACKWARD | Opcode.DW_UPDATE:
                return self._matrix("a", Memory.ERR, given, self.cols)
            case Opcode.DW_FORWARD | Opcode.LOOKUP:
                return self._matrix("a", Memory.ACT, mapped, self.cols)
            case Opcode.ADD | Opcode.MULTIPLY:
                return self._matrix("a", self.memory, mapped, self.cols)
            case Opcode.REDUCE:
                return self._matrix("a", Memory.ERR, mapped, self.cols)
        raise KeyError(f"{self.opcode.name} has no A")

    @property
    def b(self) -> Matrix:
        """Operand B as it lies in memory."""
        w = self.window
        match self.opcode:
            case Opcode.FORWARD:
                return self._matrix("b", Memory.WGT, self.cols, **self._grouped(self.depth))
            case Opcode.BACKWARD:
                return self._matrix("b", Memory.WGT, self.depth, **self._grouped(self.cols))
            case Opcode.UPDATE:
                return self._matrix("b", Memory.ACT, w.map_pixels * self.depth, self.cols - self.bias)
            case Opcode.LOSS:
                return self._matrix("b", Memory.ERR, self.rows, self.cols)
            case Opcode.UNPOOL | Opcode.DW_UPDATE | Opcode.REDUCE:
                return self._matrix("b", Memory.ACT, w.map_pixels * self.rows, self.cols)
            case Opcode.DW_FORWARD | Opcode.DW_BACKWARD:
                return self._matrix("b", Memory.WGT, w.taps + self.bias, self.cols)
            case Opcode.ADD:
                return self._matrix("b", self.memory, w.map_pixels * self.rows, self.cols)
            case Opcode.MULTIPLY:
                return self._matrix("b", Memory.ACT, (1 if self.broadcast else w.map_pixels) * self.rows, self.cols)
        raise KeyError(f"{self.opcode.name} has no B")

    @property
    def d(self) -> Matrix:
        """Destination D as it lies in memory."""
        w = self.window
        mapped, given = w.map_pixels * self.rows, w.out_pixels * self.rows
        match self.opcode:
            case Opcode.LOAD:
                return self._matrix("d", self.memory, mapped, **self._grouped(self.cols))
            case Opcode.FORWARD | Opcode.POOL | Opcode.DW_FORWARD | Opcode.LOOKUP:
                return self._matrix("d", Memory.ACT, given, self.cols)
            case Opcode.BACKWARD | Opcode.UNPOOL | Opcode.DW_BACKWARD:
                return self._matrix("d", Memory.ERR, mapped, self.cols)
            case Opcode.DW_UPDATE:
                return self._matrix("d", Memory.WGT, w.taps + self.bias, self.cols)
            case Opcode.ADD | Opcode.MULTIPLY:
                return self._matrix("d", self.memory, given, self.cols)
            case Opcode.REDUCE:
                return self._matrix("d", Memory.ERR, given, self.cols)
            case Opcode.UPDATE:
                return self._matrix("d", Memory.WGT, self.rows, **self._grouped(self.cols))
            case Opcode.LOSS:
                return self._matrix("d", Memory.ERR, self.rows, self.cols)
        raise KeyError(f"{self.opcode.name} has no D")

    @property
    def m(self) -> Matrix:
        """The ReLU mask: activations laid out as D."""
        return self._matrix("m", Memory.ACT, self.d.rows, self.cols)

    @property
    def velocities(self) -> Matrix | None:
        """The velocities of the masters D, laid out as they are; None where the update has none."""
        return replace(self.d, memory=Memory.VEL) if self.momentum_width else None

    def _matrix(self, operand: str, memory: Memory, rows: int, cols: int, groups: int = 1, tail: int = 0) -> Matrix:
        base, pitch = getattr(self, f"{operand}_base"), getattr(self, f"{operand}_pitch")
        return Matrix(memory=memory, base=base, rows=rows, cols=cols, pitch=pitch, groups=groups, tail=tail)

    def _grouped(self, cols: int) -> dict[str, int]:
        """Columns of weights: a group a tap; the bias in a group of its own, or beside the only tap's columns."""
        if self.window.taps == 1:
            return {"cols": cols}
        return {"cols": cols - self.bias, "groups": self.window.taps, "tail": self.bias}

    @property
    def matrices(self) -> Mapping[str, Matrix]:
        """Every operand the instruction touches: subset of a, b, d, m."""
        absent = {"m": not self.mask, "b": bool(self.constant)}
        names = [p for p in "abdm" if f"{p}_base" in USED[self.opcode] and not absent.get(p)]
        return {name: getattr(self, name) for name in names}

    def encode(self) -> npt.NDArray[np.uint32]:
        """The instruction's WORDS words, uint32."""
        return np.array(_encoded(self), dtype=np.uint32)

    @classmethod
    def decode(cls, words: Sequence[int] | npt.NDArray[np.uint32]) -> Instruction:
        """The instruction of WORDS words. Raises ArchError on words that no instruction has."""
        return _decoded(tuple(map(int, words)))

    def __str__(self) -> str:
        """One line of disassembly: the opcode, then every field it reads that is not zero."""
        parts = [f"{self.opcode.name:<8}"]
        for name in USED[self.opcode]:
            value = getattr(self, name)
            if isinstance(value, Rounding | Memory | Overflow):
                parts.append(f"{name}={value.name.lower()}")
            elif value:
                parts.append(f"{name}={value:#x}" if name.endswith("_base") else f"{name}={value}")
        return " ".join(parts).rstrip()


_ENUMS: Mapping[str, type[IntEnum]] = {
    "opcode": Opcode,
    "memory": Memory,
    "rounding": Rounding,
    "update_rounding": Rounding,
    "weight_rounding": Rounding,
    "momentum_rounding": Rounding,
    "overflow": Overflow,
}


def _member(name: str, kind: type[IntEnum], value: int) -> IntEnum:
    try:
        return kind(value)
    except ValueError as error:
        allowed = ", ".join(f"{member.value} ({member.name})" for member in kind)
        raise ArchError(f"instruction {name}={value}: allowed are {allowed}") from error


assert {f.name for f in fields(Instruction)} == set(FIELDS)


@lru_cache(maxsize=KNOWN)
def _encoded(instruction: Instruction) -> tuple[int, ...]:
    words = [0] * WORDS
    for name, f in FIELDS.items():
        words[f.word] |= (int(getattr(instruction, name)) << f.lsb) & f.mask
    return tuple(words)


@lru_cache(maxsize=KNOWN)
def _decoded(words: tuple[int, ...]) -> Instruction:
    require(len(words) == WORDS, f"an instruction of {len(words)} words: expected {WORDS}")
    values: dict[str, Any] = {}
    for w, (word, claimed) in enumerate(zip(words, _CLAIMED, strict=True)):
        require(word & ~claimed == 0, f"instruction word {w} is {word:#010x}: reserved bits are set")
    for name, f in FIELDS.items():
        raw = (words[f.word] & f.mask) >> f.lsb
        values[name] = raw - (1 << f.width) if f.signed and raw >> (f.width - 1) else raw
    return Instruction(**values)


def assemble(instructions: Iterable[Instruction]) -> npt.NDArray[np.uint32]:
    """Instructions -> words, uint32 [count, WORDS]."""
    return np.stack([i.encode() for i in instructions])


def disassemble(words: npt.NDArray[np.uint32]) -> str:
    """Words [count, WORDS] -> one numbered line an instruction."""
    return "\n".join(f"{i:4d}  {Instruction.decode(w)}" for i, w in enumerate(words))
