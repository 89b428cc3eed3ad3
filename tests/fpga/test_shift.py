"""The rounding shift and the fit against arch/numbers.py."""

from __future__ import annotations

from itertools import product
from random import Random
from typing import Any

import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.numbers import (
    SHIFT_MAX,
    SHIFT_MIN,
    UPDATE_SHIFT_MAX,
    UPDATE_SHIFT_MIN,
    Overflow,
    Rounding,
    fit,
    round_shift,
)
from insitu.fpga.fit import CONTROL_LATENCY, Fit, drive_fit
from insitu.fpga.shift import RoundShift, ShiftControl, ShiftShape
from tests.fpga.units import simulate


class Shifter(wiring.Component):
    """A `RoundShift` with its control."""

    def __init__(self, shape: ShiftShape) -> None:
        self.unit, self.control = RoundShift(shape), ShiftControl(shape)
        super().__init__({})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.unit, m.submodules.control = self.unit, self.control
        m.d.comb += self.unit.control.eq(self.control.o)
        return m


def values(bits: int, random: Random, count: int) -> list[int]:
    half = 1 << (bits - 1)
    edges = [-half, -half + 1, -1, 0, 1, half - 1, half // 2, -half // 2]
    return edges + [random.randrange(-half, half) >> random.randrange(bits) for _ in range(count)]


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize(
    ("bits", "left", "right", "out"),
    [
        (8, -SHIFT_MIN, SHIFT_MAX, 8),
        (48, -SHIFT_MIN, SHIFT_MAX, 16),
        (33, -SHIFT_MIN, SHIFT_MAX, 2),
        (24, -UPDATE_SHIFT_MIN, UPDATE_SHIFT_MAX, 18),
        (32, -UPDATE_SHIFT_MIN, UPDATE_SHIFT_MAX, 34),
    ],
)
def test_every_shift_rounds_as_arch_does(bits: int, left: int, right: int, out: int, rounding: Rounding) -> None:
    unit = Shifter(ShiftShape(bits, left, right, out))
    random = Random(bits)

    async def script(ctx: Any) -> None:
        lane = unit.unit
        ctx.set(unit.control.rounding, rounding)
        for shift in range(-left, right + 1):
            ctx.set(unit.control.shift, shift)
            await ctx.tick().repeat(ShiftControl.LATENCY + 1)
            due: list[int] = []
            for x in [*values(bits, random, 12), *[0] * (RoundShift.LATENCY - 1)]:
                r = random.getrandbits(32)
                ctx.set(lane.i, x)
                ctx.set(lane.r, r)
                due.append(round_shift(x, shift, rounding, r))
                await ctx.tick()
                if len(due) == RoundShift.LATENCY:
                    got, want = ctx.get(lane.o), due.pop(0)
                    exact = -(1 << out) <= want < 1 << out
                    assert (got == want) if exact else (got < 0) == (want < 0), (x, shift)
                    for width, wrap in product({2, out}, Overflow):
                        assert fit(got, width, wrap) == fit(want, width, wrap), (x, shift)
                        assert (fit(got, width, wrap) == got) == (fit(want, width, wrap) == want), (x, shift)

    simulate(unit, script)


class Fitter(wiring.Component):
    """A `Fit` with its control."""

    def __init__(self, bits_in: int, bits_out: int) -> None:
        self.unit = Fit(bits_in, bits_out)
        super().__init__({"width": In(6), "wrap": In(1), "unused": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.unit = self.unit
        drive_fit(m, self.unit.control, self.width, self.wrap)
        return m


@pytest.mark.parametrize(("bits_in", "bits_out"), [(6, 6), (8, 4), (60, 16), (26, 18), (4, 8)])
def test_fit_saturates_and_wraps(bits_in: int, bits_out: int) -> None:
    unit = Fitter(bits_in, bits_out)
    random = Random(bits_in)
    half = 1 << (bits_in - 1)

    async def script(ctx: Any) -> None:
        lane = unit.unit
        for width, wrap in product(range(2, bits_out + 1), Overflow):
            ctx.set(unit.width, width)
            ctx.set(unit.wrap, wrap)
            await ctx.tick().repeat(CONTROL_LATENCY)
            cases = list(range(-half, half)) if bits_in <= 8 else values(bits_in, random, 40)
            due: list[tuple[int, int]] = []
            for x in [*cases, *[0] * (Fit.LATENCY - 1)]:
                ctx.set(lane.i, x)
                want = fit(x, width, wrap)
                due.append((want, int(want != x)))
                await ctx.tick()
                if len(due) == Fit.LATENCY:
                    assert (ctx.get(lane.o), ctx.get(lane.changed)) == due.pop(0), (x, width)

    simulate(unit, script)
