"""From words in bank order to the array's operands: weights rounded, banks turned to lanes, bias and zeros put in."""

from __future__ import annotations

from typing import Any

from amaranth import Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.isa import Opcode
from insitu.arch.layout import Memory
from insitu.arch.numbers import Rounding
from insitu.arch.params import CoreParams
from insitu.fpga import passes
from insitu.fpga.common import FieldsLayout, copies, delay, lanes, register
from insitu.fpga.fit import drive_fit
from insitu.fpga.passes import among
from insitu.fpga.rotate import Rotator
from insitu.fpga.tiles import ShapeLayout, TileCounter
from insitu.fpga.weights import WeightPort, drive_weights


class Operands(wiring.Component):
    """Both operands of a step, and the lanes that LOSS, pools and vector passes see.

    start: a pass begins, Extent.SETTLE cycles or more after its `shape`; its tiles are walked by `last`. valid, last,
    zero, a_turn, b_turn: a step whose masters are in `wgt_words` now, and whose words of ACT and ERR will be in
    `act_words` and `err_words` WeightPort.LATENCY cycles later; the turns are their rotations; zero: A counts as zero,
    but for the bias. o_valid, o_last, a, b: its
    operands, LATENCY cycles after `valid`: lanes without a row or column are zero, the bias operand stands in FORWARD's
    last step and in UPDATE's last column. looked, looked_row: a block of LOSS is in `act_words` and `err_words` now; it
    is in the lanes z and t Rotator.LATENCY cycles later. One step or block a cycle, no back pressure.
    """

    LATENCY = WeightPort.LATENCY + Rotator.LATENCY + 1

    def __init__(self, params: CoreParams) -> None:
        self.params = params
        n = params.n
        self.act_bits, self.err_bits = params.word_bits(Memory.ACT), params.word_bits(Memory.ERR)
        self.a_bits = max(self.act_bits, self.err_bits)
        self.b_bits = max(self.act_bits, params.weight_bits)
        self.t_bits = max(self.b_bits, self.err_bits)
        turn = n.bit_length() - 1
        super().__init__(
            {
                "fields": In(FieldsLayout),
                "shape": In(ShapeLayout(windows=bool(params.windows))),
                "bias": In(params.activation_bits),
                "start": In(1),
                "valid": In(1),
                "last": In(1),
                "zero": In(1),
                "a_turn": In(turn),
                "b_turn": In(turn),
                "looked": In(1),
                "looked_row": In(turn),
                "act_words": In(lanes(signed(self.act_bits), n)),
                "err_words": In(lanes(signed(self.err_bits), n)),
                "wgt_words": In(lanes(signed(params.master_bits), n)),
                "o_valid": Out(1),
                "o_last": Out(1),
                "a": Out(lanes(signed(self.a_bits), n)),
                "b": Out(lanes(signed(self.b_bits), n)),
                "z": Out(lanes(signed(self.a_bits), n)),
                "t": Out(lanes(signed(self.t_bits), n)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, f = self.params.n, self.fields
        forward, update, loss, weights = register(), register(), register(), register()
        m.d.sync += [
            forward.eq(f.opcode == Opcode.FORWARD),
            update.eq(f.opcode == Opcode.UPDATE),
            loss.eq(f.opcode == Opcode.LOSS),
            weights.eq(among(f.opcode, passes.WEIGHTED)),
        ]
        valid = delay(m, self.valid, self.LATENCY, "valid")
        last = delay(m, self.last & self.valid, self.LATENCY, "last")
        a_turn = delay(m, self.a_turn, WeightPort.LATENCY, "a_turn")[-1]
        b_turn = delay(m, self.b_turn, WeightPort.LATENCY, "b_turn")[-1]
        zero = delay(m, self.zero, self.LATENCY - 1, "zero")[-1]

        m.submodules.port = port = WeightPort(n, self.params.master_bits, self.params.weight_bits)
        m.d.comb += port.i.eq(self.wgt_words)
        drive_weights(m, port.control, port.weight_bits, f.weight_shift, f.weight_rounding == Rounding.NEAREST)
        drive_fit(m, port.fit, f.weight_width, 0)

        m.submodules.a_lanes = a_lanes = Rotator(n, signed(self.a_bits))
        m.submodules.b_lanes = b_lanes = Rotator(n, signed(self.t_bits))
        # What every lane looks at it has of its own.
        named = among(f.opcode, (Opcode.ADD, Opcode.MULTIPLY))
        of_act = among(f.opcode, passes.A_IN_ACT) | (named & (f.memory == Memory.ACT))
        a_act = copies(m, of_act, n, "a_act")
        b_wgt, b_err = copies(m, weights, n, "b_wgt"), copies(m, loss, n, "b_err")
        for rotator, turn in ((a_lanes, a_turn), (b_lanes, b_turn)):
            m.d.comb += rotator.amount.eq(Mux(loss, self.looked_row, turn))
        for k in range(n):
            m.d.comb += [
                a_lanes.i[k].eq(Mux(a_act[k], self.act_words[k], self.err_words[k])),
                b_lanes.i[k].eq(Mux(b_wgt[k], port.o[k], Mux(b_err[k], self.err_words[k], self.act_words[k]))),
                self.z[k].eq(a_lanes.o[k]),
                self.t[k].eq(b_lanes.o[k]),
            ]

        m.submodules.tiles = tiles = TileCounter(n, windows=bool(self.params.windows))
        m.d.comb += [
            tiles.start.eq(self.start),
            tiles.shape.eq(self.shape),
            tiles.step.eq(last[-2]),
            self.o_valid.eq(valid[-1]),
            self.o_last.eq(last[-1]),
        ]
        # The bias' place, known a step ahead.
        bias_step, bias_column = register(), register()
        m.d.sync += [bias_step.eq(forward & f.bias & last[-3]), bias_column.eq(update & f.bias)]
        # Zeros but for the bias.
        counts = tiles.row_lanes & (bias_step | ~zero).replicate(n)
        a, b = register(self.a.shape()), register(self.b.shape())
        for k in range(n):
            m.d.sync += [
                a[k].eq(Mux(counts[k], Mux(bias_step, self.bias, a_lanes.o[k]), 0)),
                b[k].eq(Mux(tiles.col_lanes[k], Mux(bias_column & tiles.final_col[k], self.bias, b_lanes.o[k]), 0)),
            ]
        m.d.comb += [self.a.eq(a), self.b.eq(b)]
        return m
