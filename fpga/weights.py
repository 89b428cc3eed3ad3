"""The read port of WGT: masters rounded to the width that is multiplied."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from insitu.fpga.common import lanes
from insitu.fpga.fit import Fit, FitLayout

#: Shift of the read port, the bits below the highest of those it drops, and whether it rounds to nearest.
WeightLayout = data.StructLayout({"shift": unsigned(5), "below": unsigned(31), "nearest": unsigned(1)})


class WeightPort(wiring.Component):
    """narrow(master, weight_shift, weight_width, floor or nearest, saturate) on N words.

    control, fit: static while an instruction runs. o: LATENCY cycles after i, one vector a cycle while `enable`, no
    back pressure. Tested against arch/: masters of 2 to 32 bits, shifts 0 to 31.
    """

    LATENCY = 2 + Fit.LATENCY

    def __init__(self, n: int, master_bits: int, weight_bits: int) -> None:
        self.n, self.master_bits, self.weight_bits = n, master_bits, weight_bits
        super().__init__(
            {
                "enable": In(1),
                "control": In(WeightLayout),
                "fit": In(FitLayout(weight_bits)),
                "i": In(lanes(signed(master_bits), n)),
                "o": Out(lanes(signed(weight_bits), n)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits, control = self.master_bits, self.control
        second, third = Signal(), Signal()
        m.d.sync += [second.eq(self.enable), third.eq(second)]
        for k in range(self.n):
            m.submodules[f"fit_{k}"] = fit = Fit(bits + 1, self.weight_bits)
            word = Signal(signed(bits), name=f"word_{k}")
            m.d.comb += word.eq(self.i[k])
            # The lowest bit of `cut` is the highest dropped one.
            cut = Signal(signed(bits + 1), name=f"cut_{k}")
            sticky = Signal(name=f"sticky_{k}")
            rounded = Signal(signed(bits + 1), name=f"rounded_{k}")
            with m.If(self.enable):
                extended = Signal(signed(32), name=f"extended_{k}")
                m.d.comb += extended.eq(word)
                m.d.sync += [
                    cut.eq(Cat(Const(0, 1), word).as_signed() >> control.shift),
                    sticky.eq((extended[:31] & control.below).any()),
                ]
            with m.If(second):
                up = control.nearest & cut[0] & (sticky | cut[1])
                m.d.sync += rounded.eq(cut[1:].as_signed() + Cat(up, Const(0, 1)).as_signed())
            m.d.comb += [fit.enable.eq(third), fit.control.eq(self.fit), fit.i.eq(rounded), self.o[k].eq(fit.o)]
        return m
