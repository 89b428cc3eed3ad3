"""The loss unit against arch/loss.py, rows of several blocks."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from insitu.arch import loss
from insitu.arch.timing import LOSS_DIVIDE
from insitu.fpga.loss import GAP, Loss
from tests.fpga.units import simulate


@pytest.mark.parametrize(("n", "z_bits", "t_bits", "cols"), [(4, 8, 8, 3), (4, 16, 16, 9), (8, 2, 3, 10), (4, 8, 8, 1)])
def test_rows_equal_arch(n: int, z_bits: int, t_bits: int, cols: int) -> None:
    unit = Loss(n, z_bits, t_bits)
    random = Random(cols)
    blocks = -(-cols // n)

    async def script(ctx: Any) -> None:
        results: list[list[int]] = []
        going = [False, False]

        async def tick(count: int = 1) -> None:
            for _ in range(count):
                if going.pop(0):
                    results.append([ctx.get(unit.acc[k]) for k in range(n)])
                going.append(bool(ctx.get(unit.go)))
                await ctx.tick()
                ctx.set(unit.valid, 0)

        for exponent in (-20, -9, -4, -1, 3, 14, 15, 127):
            ctx.set(unit.shift, min(max(7 - exponent, -8), 31) + 8)
            z = [random.randrange(-(1 << (z_bits - 1)), 1 << (z_bits - 1)) for _ in range(cols)]
            t = [random.randrange(-(1 << (t_bits - 1)), 1 << (t_bits - 1)) for _ in range(cols)]
            for phase in range(3):
                for block in range(blocks):
                    part = slice(block * n, block * n + n)
                    for k, (logit, target) in enumerate(zip(z[part], t[part], strict=True)):
                        ctx.set(unit.z[k], logit)
                        ctx.set(unit.t[k], target)
                    ctx.set(unit.lanes, (1 << len(z[part])) - 1)
                    ctx.set(unit.phase, phase)
                    ctx.set(unit.first, block == 0)
                    ctx.set(unit.valid, 1)
                    await tick(LOSS_DIVIDE if phase == 2 else 1)
                await tick(GAP if phase < 2 else 0)
            await tick(LOSS_DIVIDE)
            s = [loss.base2_logit(x, exponent) for x in z]
            v = [loss.exp2(x - max(s)) for x in s]
            weight = loss.weight(sum(t), t_bits)
            want = [loss.gradient(loss.probability(a, sum(v)), b, weight) for a, b in zip(v, t, strict=True)]
            assert len(results) == blocks
            assert [x for row in results for x in row][:cols] == want
            results.clear()

    simulate(unit, script)
