"""The lanes' generators against arch/generator.py."""

from __future__ import annotations

from typing import Any

import pytest

from insitu.arch.generator import GOLDEN, MIX_STAGES, STREAMS, lane_seed, xorshift
from insitu.fpga.random import LaneGenerators
from tests.fpga.units import simulate


@pytest.mark.parametrize("n", [4, 8])
def test_states_follow_arch(n: int) -> None:
    unit = LaneGenerators(n)

    async def script(ctx: Any) -> None:
        for seed in (1, 0xFFFFFFFF, GOLDEN, 0x12345678):
            ctx.set(unit.seed, seed)
            ctx.set(unit.start, 1)
            await ctx.tick()
            ctx.set(unit.start, 0)
            ctx.set(unit.seed, 0)
            await ctx.tick().repeat(STREAMS * n + MIX_STAGES)
            states = [[lane_seed(seed, lane, stream) for stream in range(STREAMS)] for lane in range(n)]
            for step in (0b00, 0b01, 0b11, 0b10, 0b11):
                ctx.set(unit.step, step)
                await ctx.tick()
                ctx.set(unit.step, 0)
                await ctx.tick()
                states = [[xorshift(s) if step >> k & 1 else s for k, s in enumerate(pair)] for pair in states]
                got = [[ctx.get(unit.r0[lane]), ctx.get(unit.r1[lane])] for lane in range(n)]
                assert got == states

    simulate(unit, script)
