"""The WGT read port against `narrow`."""

from __future__ import annotations

from itertools import product
from random import Random
from typing import Any

import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from insitu.arch.numbers import Overflow, Rounding, narrow
from insitu.fpga.fit import CONTROL_LATENCY, drive_fit
from insitu.fpga.weights import WeightPort, drive_weights
from tests.fpga.units import simulate


class Port(wiring.Component):
    """A `WeightPort` with its controls."""

    def __init__(self, master_bits: int, weight_bits: int) -> None:
        self.unit = WeightPort(4, master_bits, weight_bits)
        super().__init__({"shift": In(5), "nearest": In(1), "width": In(5)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.unit = self.unit
        drive_weights(m, self.unit.control, self.unit.weight_bits, self.shift, self.nearest)
        drive_fit(m, self.unit.fit, self.width, 0)
        return m


@pytest.mark.parametrize(("master_bits", "weight_bits"), [(2, 2), (16, 8), (32, 16)])
def test_masters_are_narrowed(master_bits: int, weight_bits: int) -> None:
    port = Port(master_bits, weight_bits)
    unit = port.unit
    random = Random(master_bits)
    half = 1 << (master_bits - 1)

    async def script(ctx: Any) -> None:
        for shift, rounding in product(range(32), (Rounding.FLOOR, Rounding.NEAREST)):
            width = random.randrange(2, weight_bits + 1)
            ctx.set(port.shift, shift)
            ctx.set(port.nearest, rounding)
            ctx.set(port.width, width)
            words = [random.choice([-half, half - 1, -1, 0, 1, random.randrange(-half, half)]) for _ in range(4)]
            await ctx.tick().repeat(CONTROL_LATENCY)
            for lane, word in enumerate(words):
                ctx.set(unit.i[lane], word)
            await ctx.tick().repeat(WeightPort.LATENCY)
            got = [ctx.get(unit.o[lane]) for lane in range(4)]
            assert got == [narrow(w, shift, width, rounding, Overflow.SATURATE) for w in words], (words, shift)

    simulate(port, script)
