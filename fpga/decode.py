"""Decoding and the legality check: an instruction's words to its fields, and whether this core executes it."""

from __future__ import annotations

from typing import Any

from amaranth import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.check import WIDTH_ROLE
from insitu.arch.declaration import Role
from insitu.arch.isa import (
    CONSTANT_MAX,
    FIELDS,
    FRACTIONS,
    MOMENTUM_FIELDS,
    MOMENTUM_ONE,
    TABLE_BITS,
    USED,
    WORDS,
    Opcode,
)
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.fpga import passes
from insitu.fpga.common import FieldsLayout, any_of, delay, grouped_any, register
from insitu.fpga.geometry import FIRST_WORD, SETTLE, VERDICT, Geometry, GeometryLayout
from insitu.fpga.memory import address_bits
from insitu.fpga.passes import among

#: From the last word given to a verdict, and to all that Geometry makes: two registers, then its operations, which
#: begin before that word; a register for the verdict.
CHECK_LATENCY = 2 + VERDICT - (WORDS - 1 - FIRST_WORD)
GEOMETRY_LATENCY = 1 + SETTLE - (WORDS - 1 - FIRST_WORD)
#: Extents of a window: 0 stands for 1.
EXTENTS = tuple(f"{what}_{axis}" for what in ("map", "out", "kernel") for axis in ("height", "width"))
#: What a constant stands in the place of.
_REPLACED = ("bias", "weight_rounding", "weight_width", "weight_shift", "b_base", "b_pitch", "sb")
#: Extents that follow from others: of output and map where they are one, of REDUCE's kernel.
_FOLLOWS = {
    **{f"out_{axis}": (passes.SAME_MAP, f"map_{axis}") for axis in ("height", "width")},
    **{f"kernel_{axis}": ((Opcode.REDUCE,), f"map_{axis}") for axis in ("height", "width")},
}


def fields(opcode: int, core: CoreParams) -> tuple[str, ...]:
    """Fields that this core reads of an opcode, none where it does not have it: it stops at a word that has others.
    `exact` is the emulator's alone."""
    if opcode not in core.opcodes:
        return ()
    return tuple(name for name in core.fields(Opcode(opcode)) if name != "exact")


def allowed(opcode: int, word: int, core: CoreParams) -> int:
    """Bits that may be set in a word of an opcode; none in one that is no opcode of this core."""
    return sum(FIELDS[name].mask for name in fields(opcode, core) if FIELDS[name].word == word)


class Decoder(wiring.Component):
    """Words to fields, and what arch/check.py and Instruction.decode say of them.

    capture: `word` is word number `index`; from word FIRST_WORD on they come one a cycle. fields: two cycles after the
    last capture; those that no opcode of this core reads stay zero; an extent of a window that is 0 is shown as 1, and
    one that the opcode does not read but has as it is for arch/isa.py's `window`. illegal, misplaced: valid
    CHECK_LATENCY cycles after the last capture, until the next word 0. geometry: complete GEOMETRY_LATENCY cycles after
    it.

    illegal: an opcode that the core does not have; a reserved bit, or one of a field that the opcode does not read on
    this core, or `exact`; a memory that the opcode does not take, ReLU or mask of the other one; no rows, columns or
    depth (two terms with FORWARD's bias, two columns with UPDATE's); width, weight_width, master_width, momentum_width
    under 2 or above the core's; more than all kept of a velocity, or anything said of one where there is none; a
    constant that is too large or has something beside it; a table of too few or many words, or not at a multiple of
    them. misplaced: an operand or a table ends beyond its memory, or an operand's rows overlap. That is all the
    emulator refuses, but for `exact`.
    """

    def __init__(self, params: CoreParams) -> None:
        self.params = params
        #: Of an address in any memory.
        self.bits = max(address_bits(params.depth(k)) for k in params.memories)
        super().__init__(
            {
                "capture": In(1),
                "index": In(4),
                "word": In(32),
                "fields": Out(FieldsLayout),
                "geometry": Out(GeometryLayout(params.n, self.bits, windows=bool(params.windows))),
                "illegal": Out(1),
                "misplaced": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        f = self.fields
        taken, index, word = Signal(), Signal(4), register(32)
        m.d.sync += [taken.eq(self.capture), index.eq(self.index), word.eq(self.word)]

        opcode = Mux(index == 0, word[:4], f.opcode)
        core = self.params
        masks = Array(Const(allowed(code, w, core), 32) for code in range(16) for w in range(WORDS))
        known = Array(Const(code in core.opcodes, 1) for code in range(16))
        read = {name for code in core.opcodes for name in fields(code, core)}
        with m.If(taken), m.Switch(index):
            for w in range(WORDS):
                with m.Case(w):
                    for name, field in FIELDS.items():
                        if field.word == w and name in read:
                            value = word[field.lsb : field.lsb + field.width]
                            m.d.sync += f[name].eq(self._extent(name, word) if name in EXTENTS else value)
        # Three cycles to look up which bits may be set, two of them a block RAM's; two to look at those that are.
        code, at = register(4), register(4)
        m.d.sync += [code.eq(opcode), at.eq(index)]
        looked = delay(m, taken, 4, "looked")[-1]
        first = delay(m, index == 0, 4, "first")[-1]
        shown = delay(m, word, 3, "shown")[-1]
        mask = delay(m, masks[Cat(at, code)], 2, "mask")[-1]
        strange = delay(m, ~known[code], 3, "strange")[-1]
        beyond = grouped_any(m, shown & ~mask, "beyond")
        reserved = Signal()
        with m.If(looked):
            m.d.sync += reserved.eq((reserved & ~first) | beyond.any() | strange)
        m.d.sync += self.illegal.eq(reserved | self._unfit(m))
        m.submodules.geometry = geometry = Geometry(self.params, self.bits)
        m.d.comb += [
            geometry.fields.eq(f),
            geometry.clear.eq(taken & (index < FIRST_WORD)),
            geometry.first.eq(taken & (index == FIRST_WORD)),
            self.geometry.eq(geometry.o),
        ]
        m.d.sync += self.misplaced.eq(geometry.misplaced | self._beyond(m))
        return m

    def _extent(self, name: str, word: Any) -> Any:
        """An extent of the window in a word: 0 stands for 1, and some follow from the map's."""

        def own(field: Any) -> Any:
            value = word[field.lsb : field.lsb + field.width]
            return Mux(value.any(), value, 1)

        if name not in _FOLLOWS:
            return own(FIELDS[name])
        codes, other = _FOLLOWS[name]
        same_word = FIELDS[name].word == FIELDS[other].word
        return Mux(
            among(self.fields.opcode, codes), own(FIELDS[other]) if same_word else self.fields[other], own(FIELDS[name])
        )

    def _beyond(self, m: Module) -> Any:
        """Whether the instruction's table ends beyond the tables' memory, or it names a scale register beyond those
        there are, a power of two."""
        f = self.fields
        no_scale = register()
        m.d.sync += no_scale.eq((f.sa | f.sb | f.sd | f.sm) >= self.params.scales)
        words, end, has, beyond = register(1 + TABLE_BITS[1]), register(2 + TABLE_BITS[1]), register(), register()
        m.d.sync += [
            words.eq(1 << f.table_bits),
            end.eq(f.table_base + words),
            has.eq(f.table_bits != 0),
            beyond.eq(has & (end > self.params.tab_depth)),
        ]
        return beyond | no_scale

    def _unfit(self, m: Module) -> Any:
        """Values that no instruction, or none on this core, has."""
        f, params = self.fields, self.params
        is_op = {op: passes.flag(m, f.opcode, f"is_{op.name.lower()}", op, has=params.opcodes) for op in Opcode}
        constant = Signal()
        m.d.sync += constant.eq(f.constant != 0)
        to_act, to_err, to_wgt = Signal(), Signal(), Signal()
        named = Signal()
        limit = Signal(range(17))
        product, narrows, weights, updates, moves = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.sync += [
            # What a pass narrows, by where it goes.
            named.eq(is_op[Opcode.ADD] | is_op[Opcode.MULTIPLY]),
            to_act.eq(is_op[Opcode.FORWARD] | is_op[Opcode.DW_FORWARD] | (named & (f.memory == Memory.ACT))),
            to_wgt.eq(is_op[Opcode.UPDATE] | is_op[Opcode.DW_UPDATE]),
            to_err.eq(~(to_act | to_wgt)),
            limit.eq(
                any_of(
                    [
                        Mux(to, params.width(WIDTH_ROLE[memory]), 0)
                        for memory, to in ((Memory.ACT, to_act), (Memory.ERR, to_err), (Memory.WGT, to_wgt))
                    ]
                )
            ),
            product.eq(any_of([is_op[code] for code in passes.PRODUCTS])),
            narrows.eq(any_of([is_op[code] for code in Opcode if "width" in USED[code]])),
            weights.eq(any_of([is_op[code] for code in passes.WEIGHTED]) & ~constant),
            updates.eq(to_wgt),
            moves.eq(is_op[Opcode.LOAD] | is_op[Opcode.STORE]),
        ]
        low, high = TABLE_BITS
        table_mask = register(TABLE_BITS[1])
        m.d.sync += table_mask.eq(Cat(f.table_bits > k for k in range(TABLE_BITS[1])))
        replaced = register(len(_REPLACED))
        m.d.sync += replaced.eq(Cat(f[name].any() for name in _REPLACED))
        # Each a register; what is above is some cycles younger than the opcode, which comes first.
        wrong = [
            ~is_op[Opcode.HALT] & ((f.rows == 0) | (f.cols == 0)),
            is_op[Opcode.STORE] & (f.memory == Memory.TAB),
            moves & (f.memory > max(Memory)),
            named & (f.memory[1:].any() | (f.relu & f.memory[0]) | (f.mask & ~f.memory[0])),
            product & (f.depth == 0),
            narrows & ((f.width < 2) | (f.width > limit)),
            weights & ((f.weight_width < 2) | (f.weight_width > params.width(Role.WEIGHT))),
            updates & ((f.master_width < 2) | (f.master_width > params.width(Role.MASTER))),
            (is_op[Opcode.UPDATE] | moves) & f.bias & (f.cols == 1),
            is_op[Opcode.FORWARD] & f.bias & (f.depth == 1),
            constant & ((f.constant > CONSTANT_MAX) | replaced.any()),
            (is_op[Opcode.LOOKUP] & (f.table_bits < low)) | (f.table_bits == 1) | (f.table_bits > high),
            (f.table_base & table_mask).any(),
        ]
        if params.momentum_bits:
            others = any_of([f[name].any() for name in MOMENTUM_FIELDS[1:]])
            wrong += [
                (f.momentum_width == 1) | (f.momentum_width > params.momentum_bits),
                (f.momentum_width == 0) & others,
                f.momentum_mul > MOMENTUM_ONE,
                (f.velocity_fraction < FRACTIONS[0]) | (f.velocity_fraction > FRACTIONS[1]),
            ]
        unfit = Signal(len(wrong))
        m.d.sync += unfit.eq(Cat(wrong))
        return unfit.any()
