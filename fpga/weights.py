"""The read port of WGT: masters rounded to the width that is multiplied."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from insitu.fpga.common import Compared, grouped_any, lanes, register
from insitu.fpga.fit import Fit, FitLayout
from insitu.fpga.shift import levels_of, shifted_right


class WeightLayout(data.StructLayout):
    """The read port's shift; the bits below the highest of those it drops, and that one, with rounding to nearest, else
    none; the bits from `shift + weight_bits` on."""

    def __init__(self, master_bits: int) -> None:
        super().__init__(
            {"shift": unsigned(5), "below": unsigned(31), "nearest": unsigned(1), "above": unsigned(master_bits)}
        )


def drive_weights(m: Module, control: Any, weight_bits: int, shift: Any, nearest: Any) -> None:
    """A `WeightLayout` from a shift and whether to round to nearest, CONTROL_LATENCY cycles later."""
    dropped, held, rounds, static = register(5), register(5), register(), register(control.shape())
    under, outside = Compared(m, dropped, 31, "dropped"), Compared(m, held, 32, "shift")
    m.d.comb += control.eq(static)
    m.d.sync += [
        dropped.eq(Mux(shift == 0, 0, shift - 1)),
        held.eq(shift),
        rounds.eq(nearest),
        static.shift.eq(held),
        static.below.eq(under.mask(31)),
        static.nearest.eq(rounds),
        static.above.eq(
            Cat(
                Const(0, 1) if bit < weight_bits else ~outside.above(bit - weight_bits)
                for bit in range(len(control.above))
            )
        ),
    ]


class WeightPort(wiring.Component):
    """narrow(master, weight_shift, weight_width, floor or nearest, saturate) on N words.

    control, fit: static while an instruction runs. o: LATENCY cycles after i, one vector a cycle, no back pressure.
    Tested against arch/: masters of 2 to 32 bits, shifts 0 to 31.
    """

    LATENCY = 3 + Fit.LATENCY

    def __init__(self, n: int, master_bits: int, weight_bits: int) -> None:
        self.n, self.master_bits, self.weight_bits = n, master_bits, weight_bits
        super().__init__(
            {
                "control": In(WeightLayout(master_bits)),
                "fit": In(FitLayout(weight_bits)),
                "i": In(lanes(signed(master_bits), n)),
                "o": Out(lanes(signed(weight_bits), n)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits, out, control = self.master_bits, self.weight_bits, self.control
        coarse, fine = levels_of(control.shift)
        for k in range(self.n):
            m.submodules[f"fit_{k}"] = fit = Fit(out + 3, out)
            word = Signal(signed(bits), name=f"word_{k}")
            m.d.comb += word.eq(self.i[k])
            # 1, 2: shift, the highest dropped bit below the result; look at what is dropped and at what will not fit.
            some = shifted_right(Cat(Const(0, 1), word), control.shift, out + 1, coarse)
            part = register(len(some), name=f"part_{k}")
            cut = register(out + 1, name=f"cut_{k}")
            m.d.sync += [part.eq(some), cut.eq(shifted_right(part, control.shift, out + 1, fine))]
            sign = word[-1]
            dropped = grouped_any(m, Cat(word, sign.replicate(31))[:31] & control.below, f"dropped_{k}")
            outside = grouped_any(m, (word ^ sign.replicate(bits)) & control.above, f"outside_{k}")
            sticky, over = register(name=f"sticky_{k}"), register(name=f"over_{k}")
            negative = register(2, name=f"negative_{k}")
            m.d.sync += [sticky.eq(dropped.any()), over.eq(outside.any()), negative.eq(Cat(sign, negative[0]))]
            # 3: round. What is beyond `out` bits stays there, whatever is added.
            rounded = register(signed(out + 3), name=f"rounded_{k}")
            up = control.nearest & cut[0] & (sticky | cut[1])
            wide = Cat(cut[1:], negative[1] ^ over, negative[1].replicate(2)).as_signed()
            m.d.sync += rounded.eq(wide + Cat(up, Const(0, 1)).as_signed())
            m.d.comb += [fit.control.eq(self.fit), fit.i.eq(rounded), self.o[k].eq(fit.o)]
        return m
