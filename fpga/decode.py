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

#: From the last word given to a verdict: two registers, the four operands one a cycle, five cycles for each.
CHECK_LATENCY = 10
_CODES = [int(code) for code in Opcode]


def allowed(opcode: int, word: int) -> int:
    """Bits that may be set in a word of an opcode; none in one that is no opcode. `exact` is the emulator's alone."""
    if opcode not in _CODES:
        return 0
    names = ("opcode", *USED[Opcode(opcode)])
    return sum(FIELDS[name].mask for name in names if FIELDS[name].word == word and name != "exact")


class Decoder(wiring.Component):
    """Words to fields, and what arch/check.py and Instruction.decode say of them.

    capture: `word` is word number `index`; word 0 comes first. slot: 1 to 4, in four cycles running, checks operands
    a, b, d, m; the first not before the cycle after `fields` is complete, which is two cycles after the last capture.
    illegal, misplaced: valid CHECK_LATENCY cycles after the last capture, until the next word 0.

    illegal: no opcode; a reserved bit, or one of a field the opcode does not read, or `exact`; memory 3; no rows,
    columns or depth (two terms with FORWARD's bias, two columns with UPDATE's); width, weight_width, master_width
    under 2 or above the core's. misplaced: an operand ends beyond its memory, or its rows overlap. That is all the
    emulator refuses, but for `exact`. One multiplier.
    """

    def __init__(self, params: CoreParams) -> None:
        self.params = params
        super().__init__(
            {
                "capture": In(1),
                "index": In(4),
                "word": In(32),
                "slot": In(range(5)),
                "fields": Out(FieldsLayout),
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
                            m.d.sync += f[name].eq(word[field.lsb : field.lsb + field.width])
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
        self._place(m, taken & (index == 0))
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
        product, narrows, weights, updates = Signal(), Signal(), Signal(), Signal()
        m.d.sync += [
            product.eq(forward | backward | update),
            narrows.eq(forward | backward | update | loss),
            weights.eq(forward | backward),
            updates.eq(update),
        ]
        # Each a register; what is above is some cycles younger than the opcode, which comes first.
        wrong = [
            ~is_op[Opcode.HALT] & ((f.rows == 0) | (f.cols == 0)),
            f.memory == 3,
            product & (f.depth == 0),
            narrows & ((f.width < 2) | (f.width > limit)),
            weights & ((f.weight_width < 2) | (f.weight_width > params.width(Role.WEIGHT))),
            updates & ((f.master_width < 2) | (f.master_width > params.width(Role.MASTER))),
            updates & f.bias & (f.cols == 1),
            weights & f.bias & (f.depth == 1),
        ]
        unfit = Signal(len(wrong))
        m.d.sync += unfit.eq(Cat(wrong))
        return unfit.any()

    def _place(self, m: Module, clear: Any) -> None:
        """Operands a, b, d, m in slots 1 to 4; each takes five cycles."""
        f, params, n = self.fields, self.params, self.params.n
        used, base, pitch = Signal(), Signal(20), Signal(12)
        rows, cols, end = Signal(16), Signal(16), Signal(21)
        memory = Signal(2)
        # Without the bias: its terms are no columns of A, its column is none of B.
        terms, columns = register(16), register(16)
        m.d.sync += [terms.eq(f.depth - f.bias), columns.eq(f.cols - f.bias)]
        m.d.comb += [rows.eq(f.rows), cols.eq(f.cols), memory.eq(Memory.ERR)]
        is_used = Signal()
        with m.Switch(self.slot):
            with m.Case(1):
                m.d.comb += is_used.eq((f.opcode != Opcode.LOAD) & (f.opcode != Opcode.HALT))
                with m.Switch(f.opcode):
                    with m.Case(Opcode.STORE):
                        m.d.comb += memory.eq(f.memory)
                    with m.Case(Opcode.FORWARD):
                        m.d.comb += [memory.eq(Memory.ACT), cols.eq(terms)]
                    with m.Case(Opcode.BACKWARD):
                        m.d.comb += cols.eq(f.depth)
                    with m.Case(Opcode.UPDATE):
                        m.d.comb += [rows.eq(f.depth), cols.eq(f.rows)]
                    with m.Case(Opcode.LOSS):
                        m.d.comb += memory.eq(Memory.ACT)
            with m.Case(2):
                m.d.comb += is_used.eq(1)
                with m.Switch(f.opcode):
                    with m.Case(Opcode.FORWARD):
                        m.d.comb += [memory.eq(Memory.WGT), rows.eq(f.cols), cols.eq(f.depth)]
                    with m.Case(Opcode.BACKWARD):
                        m.d.comb += [memory.eq(Memory.WGT), rows.eq(f.depth)]
                    with m.Case(Opcode.UPDATE):
                        m.d.comb += [memory.eq(Memory.ACT), rows.eq(f.depth), cols.eq(columns)]
                    with m.Case(Opcode.LOSS):
                        pass
                    with m.Default():
                        m.d.comb += is_used.eq(0)
            with m.Case(3):
                m.d.comb += is_used.eq((f.opcode != Opcode.STORE) & (f.opcode != Opcode.HALT))
                with m.Switch(f.opcode):
                    with m.Case(Opcode.LOAD):
                        m.d.comb += memory.eq(f.memory)
                    with m.Case(Opcode.FORWARD):
                        m.d.comb += memory.eq(Memory.ACT)
                    with m.Case(Opcode.UPDATE):
                        m.d.comb += memory.eq(Memory.WGT)
            with m.Case(4):
                m.d.comb += [is_used.eq((f.opcode == Opcode.BACKWARD) & f.mask), memory.eq(Memory.ACT)]

        # One operand a stage: its size, its extent, its end.
        size = [Signal(16, name=name) for name in ("rows_held", "cols_held")]
        limit = Signal(21)
        depths = Array([*(Const(params.depth(k), 21) for k in Memory), Const(0, 21)])
        m.d.sync += [
            used.eq(is_used),
            size[0].eq(rows),
            size[1].eq(cols),
            base.eq(Array([0, f.a_base, f.b_base, f.d_base, f.m_base])[self.slot]),
            pitch.eq(Array([0, f.a_pitch, f.b_pitch, f.d_pitch, f.m_pitch])[self.slot]),
            limit.eq(depths[memory]),
        ]
        log = n.bit_length() - 1
        above_one, blocks, base_1, pitch_1 = Signal(16), Signal(17), Signal(20), Signal(12)
        used_1, limit_1 = Signal(), Signal(21)
        m.d.sync += [
            above_one.eq(size[0] - 1),
            blocks.eq((size[1] + (n - 1)) >> log),
            base_1.eq(base),
            pitch_1.eq(pitch),
            used_1.eq(used),
            limit_1.eq(limit),
        ]
        extent, above, overlap, used_2, limit_2 = Signal(28), Signal(21), Signal(), Signal(), Signal(21)
        m.d.sync += [
            extent.eq(above_one * pitch_1),
            above.eq(base_1 + blocks),
            overlap.eq((above_one != 0) & (pitch_1 < blocks)),
            used_2.eq(used_1),
            limit_2.eq(limit_1),
        ]
        end = Signal(29)
        wrong, used_3, limit_3 = Signal(), Signal(), Signal(21)
        m.d.sync += [end.eq(extent + above), wrong.eq(overlap), used_3.eq(used_2), limit_3.eq(limit_2)]
        with m.If(clear):
            m.d.sync += self.misplaced.eq(0)
        with m.Elif(used_3 & (wrong | (end > limit_3))):
            m.d.sync += self.misplaced.eq(1)
