"""The array against sums in Python: wrapping, the flag, drains behind tiles."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from insitu.fpga.array import MacArray
from tests.fpga.units import simulate


@pytest.mark.parametrize(("a_bits", "b_bits", "accumulator_bits"), [(8, 8, 32), (3, 5, 9), (16, 16, 12), (2, 2, 8)])
def test_tiles_follow_one_another(a_bits: int, b_bits: int, accumulator_bits: int) -> None:
    n = 4
    unit = MacArray(n, a_bits, b_bits, accumulator_bits)
    random = Random(accumulator_bits)
    top = 1 << (accumulator_bits - 1)
    tiles = []
    for _ in range(12):
        depth = random.choice([1, 2, 4, 9])
        steps = [
            (
                [random.randrange(-(1 << (a_bits - 1)), 1 << (a_bits - 1)) for _ in range(n)],
                [random.randrange(-(1 << (b_bits - 1)), 1 << (b_bits - 1)) for _ in range(n)],
            )
            for _ in range(depth)
        ]
        tiles.append((steps, random.randrange(1, n + 1)))

    overflows = False
    rows: list[list[int]] = []
    for steps, count in tiles:
        sums = [[0] * n for _ in range(n)]
        for a, b in steps:
            for i in range(n):
                for j in range(n):
                    total = sums[i][j] + a[i] * b[j]
                    overflows |= not -top <= total < top
                    sums[i][j] = (total + top) % (2 * top) - top
        rows += sums[:count]

    async def script(ctx: Any) -> None:
        pops: list[int] = []  # cycles in which a row is popped
        cycle, free = 0, 0
        got: list[list[int]] = []
        seen = False

        async def tick() -> None:
            nonlocal cycle, seen
            ctx.set(unit.pop, cycle in pops)
            if cycle - 1 in pops:
                got.append([ctx.get(unit.row[j]) for j in range(n)])
            seen |= bool(ctx.get(unit.overflow))
            await ctx.tick()
            cycle += 1

        for steps, count in tiles:
            for k, (a, b) in enumerate(steps):
                last = k == len(steps) - 1
                while (last and cycle + unit.POPPED < free) or random.random() < 0.2:
                    ctx.set(unit.valid, 0)
                    await tick()
                for lane in range(n):
                    ctx.set(unit.a[lane], a[lane])
                    ctx.set(unit.b[lane], b[lane])
                ctx.set(unit.valid, 1)
                ctx.set(unit.last, last)
                if last:
                    pops.extend(range(cycle + unit.POPPED, cycle + unit.POPPED + count))
                    free = cycle + unit.POPPED + count
                await tick()
        ctx.set(unit.valid, 0)
        for _ in range(n + unit.LATENCY + 6):
            await tick()
        assert got == rows
        assert seen == overflows

    simulate(unit, script)
