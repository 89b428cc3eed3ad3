"""Walks against the loops they stand for."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from insitu.fpga.tiles import Extent, RowWalker, TileCounter
from insitu.fpga.transfer import BeatCounter
from tests.fpga.units import simulate

#: rows, pixels, cols, groups, tail
SHAPES = [
    (1, 1, 1, 1, 0),
    (4, 1, 4, 1, 0),
    (5, 1, 9, 1, 0),
    (3, 1, 8, 1, 0),
    (8, 1, 3, 1, 0),
    (9, 1, 13, 1, 0),
    (1, 3, 5, 1, 0),
    (5, 2, 4, 1, 0),
    (4, 3, 9, 1, 0),
    (2, 1, 5, 3, 1),
    (5, 1, 4, 2, 0),
    (6, 2, 9, 2, 1),
    (1, 2, 1, 2, 1),
]


def columns(n: int, shape: tuple[int, ...]) -> list[tuple[int, bool]]:
    """(width, whether it ends with the last column of all), of each column of tiles."""
    _, _, cols, groups, tail = shape
    found = [(min(n, cols - left), False) for _ in range(groups) for left in range(0, cols, n)]
    found += [(1, False)] * tail
    return [*found[:-1], (found[-1][0], True)]


def as_shape(shape: tuple[int, ...]) -> dict[str, int]:
    return dict(zip(("rows", "pixels", "cols", "groups", "tail"), shape, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_go_down_then_right(shape: tuple[int, ...]) -> None:
    n = 4
    unit = TileCounter(n)
    rows, pixels, *_ = shape

    async def script(ctx: Any) -> None:
        ctx.set(unit.shape, as_shape(shape))
        await ctx.tick().repeat(Extent.SETTLE)
        ctx.set(unit.start, 1)
        await ctx.tick()
        ctx.set(unit.start, 0)
        ctx.set(unit.step, 1)
        for width, final in columns(n, shape):
            for pixel in range(pixels):
                for top in range(0, rows, n):
                    height = min(n, rows - top)
                    assert ctx.get(unit.count) == height
                    assert ctx.get(unit.cols_valid) == width
                    assert ctx.get(unit.row_lanes) == (1 << height) - 1
                    assert ctx.get(unit.col_lanes) == (1 << width) - 1
                    if shape[3] == 1 or shape[4]:
                        assert ctx.get(unit.final_col) == (1 << (width - 1) if final else 0)
                    assert ctx.get(unit.last) == (top + height == rows and pixel == pixels - 1 and final)
                    await ctx.tick()

    simulate(unit, script)


@pytest.mark.parametrize("order", ["tiles", "singly", "by_rows"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_come_in_drain_order(shape: tuple[int, ...], order: str) -> None:
    n, base, pitch = 4, 7, 9
    unit = RowWalker(n, 10)
    rows, pixels, *_ = shape
    random = Random(rows)
    blocks = list(enumerate(columns(n, shape)))
    every = range(pixels * rows)
    if order == "by_rows":
        goes = [[(r, block)] for r in every for block in blocks]
    elif order == "singly":
        goes = [[(r, block)] for block in blocks for r in every]
    else:
        goes = [
            [(pixel * rows + r, block) for r in range(top, min(top + n, rows))]
            for block in blocks
            for pixel in range(pixels)
            for top in range(0, rows, n)
        ]
    want = [
        (base + r * pitch + word, r % n, (1 << width) - 1, int(final and r == every[-1]))
        for go in goes
        for r, (word, (width, final)) in go
    ]

    async def script(ctx: Any) -> None:
        values = {"base": base, "pitch": pitch, "by_rows": order == "by_rows", "singly": order != "tiles"}
        for name, value in values.items():
            ctx.set(getattr(unit, name), value)
        ctx.set(unit.shape, as_shape(shape))
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


@pytest.mark.parametrize("shape", SHAPES)
def test_beats_are_counted(shape: tuple[int, ...]) -> None:
    n = 4
    unit = BeatCounter(n)

    async def script(ctx: Any) -> None:
        ctx.set(unit.shape, as_shape(shape))
        await ctx.tick().repeat(Extent.SETTLE)
        ctx.set(unit.start, 1)
        await ctx.tick()
        ctx.set(unit.start, 0)
        ctx.set(unit.step, 1)
        for _ in range(shape[0] * shape[1] * len(columns(n, shape))):
            assert ctx.get(unit.more)
            await ctx.tick()
        assert not ctx.get(unit.more)

    simulate(unit, script)
