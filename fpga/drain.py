"""The drain: accumulators to elements of D, or to what an update subtracts from a master."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.generator import STREAMS
from insitu.arch.isa import FIELDS
from insitu.arch.numbers import SHIFT_MAX, SHIFT_MIN, UPDATE_SHIFT_MAX, UPDATE_SHIFT_MIN
from insitu.fpga import passes
from insitu.fpga.common import FieldsLayout, any_of, copies, count_of, delay, lanes, register
from insitu.fpga.fit import Fit, FitLayout
from insitu.fpga.passes import among
from insitu.fpga.shift import RoundShift, ShiftLayout, ShiftShape

#: From a row to its narrowed elements, and from those to the masters' decrements.
NARROW_LATENCY = 2 + RoundShift.LATENCY + Fit.LATENCY
UPDATE_LATENCY = 2 + RoundShift.LATENCY + Fit.LATENCY


class Drain(wiring.Component):
    """A row of N accumulators a cycle: ReLU or mask, range, narrowing; in UPDATE the product with the learning rate.

    valid, mask, col_lanes: of a row that is in `row` a cycle later; masked lanes and invalid ones become 0, which any
    narrowing keeps. value: narrowed, NARROW_LATENCY cycles after `row`. delta: round(lr_mul * value), UPDATE_LATENCY
    after that, saturated to `delta_bits`, so many that no fit that follows is changed. step: of the lanes'
    generators, whose states r0 and r1 are two cycles later. spread: OR of the magnitudes since `start`, four cycles
    after a row. clipped: fits of narrowed elements, one count a row.
    """

    def __init__(self, n: int, bits: int, width: int, delta_bits: int) -> None:
        self.n, self.bits, self.width, self.delta_bits = n, bits, width, delta_bits
        self.product_bits = width + FIELDS["lr_mul"].width
        self.narrow_shape = ShiftShape(bits, -SHIFT_MIN, SHIFT_MAX, width)
        self.update_shape = ShiftShape(self.product_bits, -UPDATE_SHIFT_MIN, UPDATE_SHIFT_MAX, self.delta_bits)
        super().__init__(
            {
                "start": In(1),
                "fields": In(FieldsLayout),
                "narrow_shift": In(ShiftLayout(self.narrow_shape)),
                "narrow_fit": In(FitLayout(width)),
                "update_shift": In(ShiftLayout(self.update_shape)),
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
        is_update = register()
        m.d.sync += is_update.eq(among(f.opcode, passes.TO_TAPS))
        # valid[1]: the row is there; valid[1 + NARROW_LATENCY]: its elements are.
        valid = delay(m, self.valid, 1 + NARROW_LATENCY, "valid")
        m.d.comb += self.step.eq(Cat(valid[1], valid[1 + NARROW_LATENCY] & is_update))

        x = [register(signed(self.bits), name=f"x_{k}") for k in range(n)]
        changed = []
        for k in range(n):
            dead, zero = register(name=f"dead_{k}"), register(name=f"zero_{k}")
            row = register(signed(self.bits), name=f"row_{k}")
            m.d.sync += [
                dead.eq(~self.col_lanes[k] | (f.mask & ~self.mask[k])),
                zero.eq(dead | (f.relu & self.row[k][-1])),
                row.eq(self.row[k]),
                x[k].eq(Mux(zero, 0, row)),
            ]
            m.submodules[f"narrow_{k}"] = narrow = RoundShift(self.narrow_shape)
            m.submodules[f"fit_{k}"] = fit = Fit(len(narrow.o), self.width)
            m.d.comb += [
                narrow.control.eq(self.narrow_shift),
                narrow.i.eq(x[k]),
                narrow.r.eq(self.r0[k]),
                fit.control.eq(self.narrow_fit),
                fit.i.eq(narrow.o),
                self.value[k].eq(fit.o),
            ]
            changed.append(fit.changed)

            product = register(signed(self.product_bits), name=f"product_{k}")
            # The multiplier's operands have registers beside it.
            value = register(signed(self.width), name=f"value_{k}")
            rate = copies(m, f.lr_mul, 1, f"rate_{k}")[0]
            m.d.sync += [value.eq(fit.o), product.eq(value * rate)]
            m.submodules[f"update_{k}"] = update = RoundShift(self.update_shape)
            m.submodules[f"limit_{k}"] = limit = Fit(len(update.o), self.delta_bits)
            m.d.comb += [
                update.control.eq(self.update_shift),
                update.i.eq(product),
                update.r.eq(self.r1[k]),
                limit.control.eq(self.delta_fit),
                limit.i.eq(update.o),
                self.delta[k].eq(limit.o),
            ]
        counted = [flag & valid[1 + NARROW_LATENCY] for flag in changed]
        m.d.comb += self.clipped.eq(count_of(m, counted, "clipped_lanes"))

        row_spread = register(self.bits)
        m.d.sync += row_spread.eq(any_of([v ^ v[-1].replicate(self.bits) for v in x]))
        starting = register()
        m.d.sync += starting.eq(self.start)
        with m.If(starting):
            m.d.sync += self.spread.eq(0)
        with m.Elif(valid[4]):
            m.d.sync += self.spread.eq(self.spread | row_spread)
        return m
