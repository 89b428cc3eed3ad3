"""Fitting a number into fewer bits: saturate or wrap."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from insitu.fpga.common import Compared, grouped_any, register

#: From a width to the control of all lanes' `Fit`.
CONTROL_LATENCY = 3


class FitLayout(data.StructLayout):
    """What all lanes' `Fit` share: low: the width - 1 low bits of a fitted value; sign: the bit above; wrap."""

    def __init__(self, bits: int) -> None:
        super().__init__({"low": unsigned(bits), "sign": unsigned(bits), "wrap": unsigned(1)})


def drive_fit(m: Module, control: Any, width: Any, wrap: Any) -> None:
    """A `FitLayout` from a width and an overflow, CONTROL_LATENCY cycles later."""
    bits = len(control.low)
    held, static = register(6), register(control.shape())
    compared = Compared(m, held, bits, "width")
    m.d.sync += [
        held.eq(width - 1),
        static.low.eq(compared.mask(bits)),
        static.sign.eq(Cat(compared.equals(bit) for bit in range(bits))),
        static.wrap.eq(wrap),
    ]
    m.d.comb += control.eq(static)


class Fit(wiring.Component):
    """`fit` of arch/numbers.py: i of `bits_in` bits into `width` <= `bits_out` bits, as `control` says.

    o: the fitted value, sign-extended; changed: whether it differs from i. LATENCY cycles, one a cycle, no back
    pressure. Tested against arch/ on 4 to 60 bits.
    """

    LATENCY = 2

    def __init__(self, bits_in: int, bits_out: int) -> None:
        self.bits_in, self.bits_out = max(bits_in, bits_out), bits_out
        super().__init__(
            {
                "control": In(FitLayout(bits_out)),
                "i": In(signed(bits_in)),
                "o": Out(signed(bits_out)),
                "changed": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        value = Signal(signed(self.bits_in))
        m.d.comb += value.eq(self.i)
        negative = value[-1]
        low = value[: self.bits_out]
        sign_bits = negative.replicate(self.bits_out)
        above = value[self.bits_out :] ^ negative.replicate(self.bits_in - self.bits_out)

        # Above the width a fitted value has one bit throughout: its sign, or the highest bit that wrapping left.
        held, below, fill = register(self.bits_out), register(), register()
        o, changed = register(signed(self.bits_out)), register()
        over = grouped_any(m, Cat((low ^ sign_bits) & ~self.control.low, above), "over").any()
        m.d.sync += [
            held.eq(low),
            below.eq(negative),
            fill.eq(Mux(self.control.wrap, (low & self.control.sign).any(), negative)),
        ]
        inside = Mux(over & ~self.control.wrap, ~below.replicate(self.bits_out), held)
        m.d.sync += [
            o.eq((inside & self.control.low) | (fill.replicate(self.bits_out) & ~self.control.low)),
            changed.eq(over),
        ]
        m.d.comb += [self.o.eq(o), self.changed.eq(changed)]
        return m
