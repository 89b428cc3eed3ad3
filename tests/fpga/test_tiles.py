"""Walks against the loops they stand for."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from insitu.fpga.tiles import Extent, RowWalker, TileCounter
from tests.fpga.units import simulate

SHAPES = [(1, 1), (4, 4), (5, 9), (3, 8), (8, 3), (9, 13)]


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_tiles_go_down_then_right(rows: int, cols: int) -> None:
    n = 4
    unit = TileCounter(n)

    async def script(ctx: Any) -> None:
        ctx.set(unit.rows, rows)
        ctx.set(unit.cols, cols)
        await ctx.tick().repeat(Extent.SETTLE)
        ctx.set(unit.start, 1)
        await ctx.tick()
        ctx.set(unit.start, 0)
        ctx.set(unit.step, 1)
        for left in range(0, cols, n):
            for top in range(0, rows, n):
                height, width = min(n, rows - top), min(n, cols - left)
                assert ctx.get(unit.count) == height
                assert ctx.get(unit.cols_valid) == width
                assert ctx.get(unit.row_lanes) == (1 << height) - 1
                assert ctx.get(unit.col_lanes) == (1 << width) - 1
                assert ctx.get(unit.final_col) == (1 << (width - 1) if left + width == cols else 0)
                assert ctx.get(unit.bottom) == (top + height == rows)
                assert ctx.get(unit.last) == (top + height == rows and left + width == cols)
                await ctx.tick()

    simulate(unit, script)


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_rows_come_in_drain_order(rows: int, cols: int, by_rows: bool) -> None:
    n, base, pitch = 4, 7, 5
    unit = RowWalker(n, 10)
    random = Random(rows)
    want = []
    if by_rows:
        goes = [[(r, left)] for r in range(rows) for left in range(0, cols, n)]
    else:
        goes = [
            [(r, left) for r in range(top, min(top + n, rows))]
            for left in range(0, cols, n)
            for top in range(0, rows, n)
        ]
    for go in goes:
        for r, left in go:
            width = min(n, cols - left)
            last = r == rows - 1 and left + width == cols
            want.append((base + r * pitch + left // n, r % n, (1 << width) - 1, int(last)))

    async def script(ctx: Any) -> None:
        for name, value in {"base": base, "pitch": pitch, "rows": rows, "cols": cols, "by_rows": by_rows}.items():
            ctx.set(getattr(unit, name), value)
        await ctx.tick().repeat(Extent.SETTLE)
        ctx.set(unit.start, 1)
        await ctx.tick()
        ctx.set(unit.start, 0)
        got = []
        busy = 0
        waiting = list(goes)
        while waiting or busy:
            go = bool(waiting) and busy <= 1 and random.random() < 0.6
            ctx.set(unit.go, go)
            if ctx.get(unit.valid):
                got.append(tuple(int(ctx.get(x)) for x in (unit.address, unit.row, unit.col_lanes, unit.last)))
            assert ctx.get(unit.valid) == (busy > 0)
            busy = max(0, busy - 1) + (len(waiting.pop(0)) if go else 0)
            await ctx.tick()
        assert got == want

    simulate(unit, script)
