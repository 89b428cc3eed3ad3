"""Decoding and the legality check: an instruction's words to its fields, and whether this core executes it."""

from __future__ import annotations

from typing import Any

from amaranth import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.check import WIDTH_ROLE
from insitu.arch.declaration import Role
from insitu.arch.isa import FIELDS, USED, WORDS, Opcode
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.fpga.common import FieldsLayout, any_of, register
from insitu.fpga.geometry import FIRST_WORD, SETTLE, VERDICT, Geometry, GeometryLayout
from insitu.fpga.memory import address_bits

#: From the last word given to a verdict, and to all that Geometry makes: two registers, then its operations, which
#: begin before that word.
CHECK_LATENCY = 1 + VERDICT - (WORDS - 1 - FIRST_WORD)
GEOMETRY_LATENCY = 1 + SETTLE - (WORDS - 1 - FIRST_WORD)
#: Extents of a window: 0 stands for 1.
EXTENTS = tuple(f"{what}_{axis}" for what in ("map", "out", "kernel") for axis in ("height", "width"))
_CODES = [int(code) for code in Opcode]


def fields(opcode: Opcode) -> tuple[str, ...]:
    """Fields that this core reads of an opcode, none where it does not have it: it stops at a word that has others.
    `exact` is the emulator's alone."""
    if opcode not in _CODES:
        return ()
    return ("opcode", *(name for name in USED[opcode] if name != "exact"))


def allowed(opcode: int, word: int) -> int:
    """Bits that may be set in a word of an opcode; none in one that is no opcode."""
    return (
        sum(FIELDS[name].mask for name in fields(Opcode(opcode)) if FIELDS[name].word == word)
        if opcode in _CODES
        else 0
    )


class Decoder(wiring.Component):
    """Words to fields, and what arch/check.py and Instruction.decode say of them.

    capture: `word` is word number `index`; from word FIRST_WORD on they come one a cycle. fields: two cycles after the
    last capture; an extent of a window that is 0 is shown as 1. illegal, misplaced: valid CHECK_LATENCY cycles after
    the last capture, until the next word 0. geometry: complete GEOMETRY_LATENCY cycles after it.

    illegal: no opcode; a reserved bit, or one of a field the opcode does not read, or `exact`; memory 3; no rows,
    columns or depth (two terms with FORWARD's bias, two columns with UPDATE's); width, weight_width, master_width
    under 2 or above the core's. misplaced: an operand ends beyond its memory, or its rows overlap. That is all the
    emulator refuses, but for `exact`.
    """

    def __init__(self, params: CoreParams) -> None:
        self.params = params
        #: Of an address in any memory.
        self.bits = max(address_bits(params.depth(k)) for k in Memory)
        super().__init__(
            {
                "capture": In(1),
                "index": In(4),
                "word": In(32),
                "fields": Out(FieldsLayout),
                "geometry": Out(GeometryLayout(params.n, self.bits)),
                "illegal": Out(1),
                "misplaced": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        f = self.fields
        taken, index, word = Signal(), Signal(4), Signal(32)
        m.d.sync += [taken.eq(self.capture), index.eq(self.index), word.eq(self.word)]

        opcode = Mux(index == 0, word[:4], f.opcode)
        masks = Array(Const(allowed(code, w), 32) for code in range(16) for w in range(WORDS))
        known = Array(Const(code in _CODES, 1) for code in range(16))
        with m.If(taken), m.Switch(index):
            for w in range(WORDS):
                with m.Case(w):
                    for name, field in FIELDS.items():
                        if field.word == w:
                            value = word[field.lsb : field.lsb + field.width]
                            # An extent of 0 stands for 1.
                            m.d.sync += f[name].eq(Mux(value.any(), value, 1) if name in EXTENTS else value)
        # A cycle to look up which bits may be set, one to look at those that are.
        looked, first = Signal(), Signal()
        shown, mask, strange = register(32), register(32), register()
        m.d.sync += [
            looked.eq(taken),
            first.eq(index == 0),
            shown.eq(word),
            mask.eq(masks[(opcode << 4) | index]),
            strange.eq(~known[opcode]),
        ]
        reserved, unfit = Signal(), Signal()
        with m.If(looked):
            m.d.sync += reserved.eq((reserved & ~first) | (shown & ~mask).any() | strange)
        m.d.sync += unfit.eq(self._unfit(m))
        m.d.comb += self.illegal.eq(reserved | unfit)
        m.submodules.geometry = geometry = Geometry(self.params, self.bits)
        m.d.comb += [
            geometry.fields.eq(f),
            geometry.clear.eq(taken & (index < FIRST_WORD)),
            geometry.first.eq(taken & (index == FIRST_WORD)),
            self.misplaced.eq(geometry.misplaced),
            self.geometry.eq(geometry.o),
        ]
        return m

    def _unfit(self, m: Module) -> Any:
        """Values that no instruction, or none on this core, has."""
        f, params = self.fields, self.params
        is_op = {op: Signal(name=f"is_{op.name.lower()}") for op in Opcode}
        m.d.sync += [flag.eq(f.opcode == op) for op, flag in is_op.items()]
        forward, backward = is_op[Opcode.FORWARD], is_op[Opcode.BACKWARD]
        update, loss = is_op[Opcode.UPDATE], is_op[Opcode.LOSS]
        limit = Signal(range(17))
        m.d.sync += limit.eq(any_of([Mux(is_op[code], params.width(role), 0) for code, role in WIDTH_ROLE.items()]))
        product, narrows, weights, updates, moves = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.sync += [
            product.eq(forward | backward | update),
            narrows.eq(forward | backward | update | loss),
            weights.eq(forward | backward),
            updates.eq(update),
            moves.eq(is_op[Opcode.LOAD] | is_op[Opcode.STORE]),
        ]
        # Each a register; what is above is some cycles younger than the opcode, which comes first.
        wrong = [
            ~is_op[Opcode.HALT] & ((f.rows == 0) | (f.cols == 0)),
            f.memory == 3,
            product & (f.depth == 0),
            narrows & ((f.width < 2) | (f.width > limit)),
            weights & ((f.weight_width < 2) | (f.weight_width > params.width(Role.WEIGHT))),
            updates & ((f.master_width < 2) | (f.master_width > params.width(Role.MASTER))),
            (updates | moves) & f.bias & (f.cols == 1),
            weights & f.bias & (f.depth == 1),
        ]
        unfit = Signal(len(wrong))
        m.d.sync += unfit.eq(Cat(wrong))
        return unfit.any()
