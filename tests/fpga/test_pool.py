"""The pools' maxima against plain loops, windows one after the other as the hand-over allows."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from insitu.fpga.pool import Pool
from tests.fpga.units import simulate

N, X_BITS, Y_BITS = 4, 5, 9


def windows(random: Random) -> list[tuple[list[list[int]], list[int], bool]]:
    """(words, error, whether there is nothing to it) of some windows; values repeat, so that there are ties."""

    def word(bits: int) -> list[int]:
        return [random.choice([-(1 << (bits - 1)), -1, 0, 1, 2, (1 << (bits - 1)) - 1]) for _ in range(N)]

    return [
        ([word(X_BITS) for _ in range(random.randint(1, 6))], word(Y_BITS), random.random() < 0.2) for _ in range(40)
    ]


@pytest.mark.parametrize("waits", [0.0, 0.4])
def test_pool_takes_the_largest(waits: float) -> None:
    random = Random(1)
    unit = Pool(N, 8, X_BITS, Y_BITS, Y_BITS)
    want = [
        [-(1 << (X_BITS - 1))] * N if zero else [max(lane) for lane in zip(*words, strict=True)]
        for words, _, zero in windows(Random(2))
    ]

    async def script(ctx: Any) -> None:
        got, due = [], False

        async def tick() -> None:
            nonlocal due
            await ctx.tick()
            if due:
                got.append([ctx.get(unit.value[k]) for k in range(N)])
            due = bool(ctx.get(unit.go))

        for words, _, zero in windows(Random(2)):
            for k, word in enumerate(words):
                while random.random() < waits:
                    ctx.set(unit.valid, 0)
                    await tick()
                for name, value in {"valid": 1, "x": word, "zero": zero, "last": k == len(words) - 1}.items():
                    ctx.set(getattr(unit, name), value)
                await tick()
        ctx.set(unit.valid, 0)
        for _ in range(Pool.LATENCY + 1):
            await tick()
        assert got == want

    simulate(unit, script)


@pytest.mark.parametrize("mask", [False, True])
def test_unpool_puts_the_error_where_the_first_maximum_was(mask: bool) -> None:
    unit = Pool(N, 8, X_BITS, Y_BITS, Y_BITS)
    cases = windows(Random(3))
    want = []
    for words, error, zero in cases:
        for k in range(len(words)):
            out = []
            for lane, y in enumerate(error):
                column = [word[lane] for word in words]
                here = column.index(max(column)) == k and not zero and not (mask and max(column) <= 0)
                out.append(y if here else 0)
            want.append((len(want), out))

    async def script(ctx: Any) -> None:
        ctx.set(unit.unpool, 1)
        ctx.set(unit.mask, mask)
        got, lengths, taken = [], [len(words) for words, _, _ in cases], 0
        ends = {sum(lengths[: k + 1]) - 1 for k in range(len(lengths))}

        async def tick() -> None:
            nonlocal taken
            ctx.set(unit.segment.b.address, taken % 256)
            ctx.set(unit.segment.last, taken in ends)
            taking = bool(ctx.get(unit.take))
            await ctx.tick()
            taken += taking
            if ctx.get(unit.put):
                got.append((ctx.get(unit.place.address), [ctx.get(unit.value[k]) for k in range(N)]))

        before = 0
        for words, error, zero in cases:
            for k, word in enumerate(words):
                last = k == len(words) - 1
                # The last word waits until those of the window before are written.
                for _ in range(max(0, before - len(words)) if last else 0):
                    ctx.set(unit.valid, 0)
                    await tick()
                for name, value in {"valid": 1, "x": word, "y": error, "zero": zero, "last": last}.items():
                    ctx.set(getattr(unit, name), value)
                await tick()
            before = len(words)
        ctx.set(unit.valid, 0)
        for _ in range(Pool.LATENCY + 8):
            await tick()
        assert got == want

    simulate(unit, script)
