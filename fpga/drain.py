"""The drain: accumulators to elements of D, or to what an update subtracts from a master."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.generator import STREAMS
from insitu.arch.isa import FIELDS, Opcode
from insitu.arch.numbers import SHIFT_MAX, SHIFT_MIN, UPDATE_SHIFT_MAX, UPDATE_SHIFT_MIN
from insitu.fpga.common import FieldsLayout, any_of, delay, lanes
from insitu.fpga.fit import Fit, FitLayout
from insitu.fpga.shift import RoundShift, ShiftLayout

#: From a row at the drain registers' head to its narrowed elements, and from those to the masters' decrements.
NARROW_LATENCY = 1 + RoundShift.LATENCY + Fit.LATENCY
UPDATE_LATENCY = 1 + RoundShift.LATENCY + Fit.LATENCY


class Drain(wiring.Component):
    """A row of N accumulators a cycle: ReLU or mask, range, narrowing; in UPDATE the product with the learning rate.

    valid, row, mask, col_lanes: a row; masked lanes and invalid ones become 0, which any narrowing keeps. value:
    narrowed, NARROW_LATENCY cycles later. delta: round(lr_mul * value), UPDATE_LATENCY after that, saturated to two
    bits more than a master has, which changes no fitted difference. step: of the lanes' generators, whose states r0
    and r1 are. spread: OR of the magnitudes since `start`, three cycles after a row. clipped: fits of narrowed
    elements, one count a row.
    """

    def __init__(self, n: int, bits: int, width: int, master_bits: int) -> None:
        self.n, self.bits, self.width, self.delta_bits = n, bits, width, master_bits + 2
        super().__init__(
            {
                "start": In(1),
                "fields": In(FieldsLayout),
                "narrow_shift": In(ShiftLayout(-SHIFT_MIN, SHIFT_MAX)),
                "narrow_fit": In(FitLayout(width)),
                "update_shift": In(ShiftLayout(-UPDATE_SHIFT_MIN, UPDATE_SHIFT_MAX)),
                "delta_fit": In(FitLayout(self.delta_bits)),
                "valid": In(1),
                "row": In(lanes(signed(bits), n)),
                "mask": In(n),
                "col_lanes": In(n),
                "step": Out(STREAMS),
                "r0": In(lanes(32, n)),
                "r1": In(lanes(32, n)),
                "value": Out(lanes(signed(width), n)),
                "delta": Out(lanes(signed(self.delta_bits), n)),
                "spread": Out(bits),
                "clipped": Out(range(n + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, f = self.n, self.fields
        is_update = Signal()
        m.d.sync += is_update.eq(f.opcode == Opcode.UPDATE)
        valid = delay(m, self.valid, NARROW_LATENCY, "valid")
        late = delay(m, valid[-1] & is_update, UPDATE_LATENCY, "late")
        m.d.comb += self.step.eq(Cat(valid[0], valid[NARROW_LATENCY] & is_update))

        x = [Signal(signed(self.bits), name=f"x_{k}") for k in range(n)]
        changed = []
        for k in range(n):
            zero = ~self.col_lanes[k] | (f.mask & ~self.mask[k]) | (f.relu & self.row[k][-1])
            with m.If(valid[0]):
                m.d.sync += x[k].eq(Mux(zero, 0, self.row[k]))
            m.submodules[f"narrow_{k}"] = narrow = RoundShift(self.bits, -SHIFT_MIN, SHIFT_MAX)
            m.submodules[f"fit_{k}"] = fit = Fit(len(narrow.o), self.width)
            m.d.comb += [
                narrow.control.eq(self.narrow_shift),
                narrow.enable.eq(valid[1]),
                narrow.i.eq(x[k]),
                narrow.r.eq(self.r0[k]),
                fit.control.eq(self.narrow_fit),
                fit.enable.eq(valid[1 + RoundShift.LATENCY]),
                fit.i.eq(narrow.o),
                self.value[k].eq(fit.o),
            ]
            changed.append(fit.changed)

            product = Signal(signed(self.width + FIELDS["lr_mul"].width), name=f"product_{k}")
            with m.If(late[0]):
                m.d.sync += product.eq(fit.o * f.lr_mul)
            m.submodules[f"update_{k}"] = update = RoundShift(len(product), -UPDATE_SHIFT_MIN, UPDATE_SHIFT_MAX)
            m.submodules[f"limit_{k}"] = limit = Fit(len(update.o), self.delta_bits)
            m.d.comb += [
                update.control.eq(self.update_shift),
                update.enable.eq(late[1]),
                update.i.eq(product),
                update.r.eq(self.r1[k]),
                limit.control.eq(self.delta_fit),
                limit.enable.eq(late[1 + RoundShift.LATENCY]),
                limit.i.eq(update.o),
                self.delta[k].eq(limit.o),
            ]
        m.d.sync += self.clipped.eq(sum(changed))

        row_spread = Signal(self.bits)
        with m.If(valid[1]):
            m.d.sync += row_spread.eq(any_of([v ^ v[-1].replicate(self.bits) for v in x]))
        with m.If(self.start):
            m.d.sync += self.spread.eq(0)
        with m.Elif(valid[2]):
            m.d.sync += self.spread.eq(self.spread | row_spread)
        return m
