"""The banked memory against the layout: rows, columns tile by tile, writes."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from amaranth import Fragment

from insitu.arch.layout import Matrix, Memory
from insitu.fpga.memory import BankedMemory
from insitu.fpga.synth import Ecp5
from tests.fpga.units import simulate


@pytest.mark.parametrize(("n", "depth", "pitch"), [(4, 61, 3), (8, 200, 5), (16, 64, 0), (4, 17, 4)])
def test_rows_and_columns_come_as_the_layout_says(n: int, depth: int, pitch: int) -> None:
    unit = BankedMemory(n, depth, 12)
    random = Random(depth)
    image = np.array([[random.randrange(-2048, 2048) for _ in range(n)] for _ in range(depth)])
    rows = n if pitch == 0 else min(2 * n, depth // pitch - 1)
    cols = max(1, min(pitch or 1, 3) * n - 1)
    matrix = Matrix(memory=Memory.ACT, base=2, rows=rows, cols=cols, pitch=pitch)
    addresses, banks = matrix.locate(n)

    async def script(ctx: Any) -> None:
        for address, row in enumerate(image.tolist()):
            for bank, value in enumerate(row):
                ctx.set(unit.banks[bank].data[address], value & 0xFFF)
        ctx.set(unit.pitch, pitch)
        ctx.set(unit.build, 1)
        await ctx.tick().repeat(n)
        ctx.set(unit.build, 0)
        await ctx.tick()

        due: list[Any] = [None] * unit.READ_LATENCY

        async def read(want: dict[int, int] | None, address: int = 0, turn: int | None = None) -> None:
            """Request, and check what was due; `want` maps banks to words, `turn` is that of a column."""
            ctx.set(unit.read.enable, want is not None)
            ctx.set(unit.read.address, address % (1 << unit.bits))
            ctx.set(unit.read.far, 0 if turn is None else (1 << turn) - 1)
            ctx.set(unit.read.near, 0 if turn is None else (1 << n) - (1 << turn))
            due.append(want)
            await ctx.tick()
            due.pop(0)
            if due[0] is not None:
                assert {bank: ctx.get(unit.o[bank]) for bank in due[0]} == due[0]

        # A tile may begin at any row.
        for top in range(rows):
            for c in range(cols):
                part = slice(top, min(top + n, rows))
                want = {int(b): int(image[a, b]) for a, b in zip(addresses[part, c], banks[part, c], strict=True)}
                turn = (top + c) % n
                await read(want, 2 + (top - turn) * pitch + c // n, turn)
                while random.random() < 0.3:
                    await read(None)
        for r in range(rows):
            block = random.randrange(-(-cols // n))
            address = 2 + r * pitch + block
            await read({bank: int(image[address, bank]) for bank in range(n)}, address)
        for _ in range(unit.READ_LATENCY):
            await read(None)

        # A write reaches the banks it names.
        ctx.set(unit.write.address, 5)
        ctx.set(unit.write.enable, 0b1010)
        for bank in range(n):
            ctx.set(unit.write.data[bank], bank - 7)
        await ctx.tick()
        ctx.set(unit.write.enable, 0)
        image[5, [1, 3]] = [1 - 7, 3 - 7]
        await ctx.tick().repeat(unit.WRITE_LATENCY)
        await read({bank: int(image[5, bank]) for bank in range(n)}, 5)
        for _ in range(unit.READ_LATENCY):
            await read(None)

    simulate(unit, script)


@pytest.mark.parametrize(("depth", "page"), [(61, 16), (64, 32), (40, 64)])
def test_a_bank_in_pages_holds_the_same_words(depth: int, page: int) -> None:
    """As it is synthesised: the words written, out of every page, in the same cycle."""
    unit, random = BankedMemory(4, depth, 12), Random(page)
    image = [[random.randrange(-2048, 2048) for _ in range(4)] for _ in range(depth)]

    async def script(ctx: Any) -> None:
        for address in random.sample(range(depth), depth):
            # The words of the banks that are not named are other ones.
            for lanes in (0b0101, 0b1010):
                ctx.set(unit.write.address, address)
                ctx.set(unit.write.enable, lanes)
                for bank in range(4):
                    ctx.set(unit.write.data[bank], image[address][bank] if lanes >> bank & 1 else 77)
                await ctx.tick()
        ctx.set(unit.write.enable, 0)
        await ctx.tick().repeat(unit.WRITE_LATENCY)
        due: list[int] = []
        for k in range(3 * depth):
            due.append(random.randrange(depth))
            ctx.set(unit.read.address, due[-1])
            await ctx.tick()
            if k >= unit.READ_LATENCY - 1:
                address = due[k - unit.READ_LATENCY + 1]
                assert [ctx.get(unit.o[bank]) for bank in range(4)] == image[address]

    simulate(Fragment.get(unit, Ecp5(page_words=page)), script)
