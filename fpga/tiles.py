"""Walks over a matrix in drain order: which rows and columns a tile has, and where its rows lie."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.fpga.common import register


class Extent(wiring.Component):
    """How many N a dimension of a matrix takes, and what the last of them has.

    SETTLE cycles after `size`, which is 1 or more. blocks: how many; single: it is one. count: elements of the last, 1
    to N; lanes: those; final: the last of those.
    """

    SETTLE = 2

    def __init__(self, n: int) -> None:
        self.n = n
        super().__init__(
            {
                "size": In(16),
                "blocks": Out(17 - (n.bit_length() - 1)),
                "single": Out(1),
                "count": Out(range(n + 1)),
                "lanes": Out(n),
                "final": Out(n),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, log = self.n, self.n.bit_length() - 1
        above, blocks, single = register(16), register(len(self.blocks)), register()
        count, lanes, final = register(range(n + 1)), register(n), register(n)
        m.d.sync += [
            above.eq(self.size - 1),
            blocks.eq(above[log:] + 1),
            single.eq(above[log:] == 0),
            count.eq(above[:log] + 1),
            lanes.eq(Cat(above[:log] >= lane for lane in range(n))),
            final.eq(Cat(above[:log] == lane for lane in range(n))),
        ]
        m.d.comb += [
            self.blocks.eq(blocks),
            self.single.eq(single),
            self.count.eq(count),
            self.lanes.eq(lanes),
            self.final.eq(final),
        ]
        return m


class TileCounter(wiring.Component):
    """The tiles of a rows x cols matrix, columns of tiles outermost.

    rows, cols: from Extent.SETTLE cycles before `start` on. start: at the first tile from the next cycle on. step: go
    to the next tile; after the last, anything. count: valid rows of this tile, 1 to N. row_lanes, col_lanes: lanes with
    a valid row, column. bottom: the last of its column of tiles. final_col: lane of the matrix's last column where this
    tile has it.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        super().__init__(
            {
                "start": In(1),
                "rows": In(16),
                "cols": In(16),
                "step": In(1),
                "count": Out(range(n + 1)),
                "row_lanes": Out(n),
                "col_lanes": Out(n),
                "final_col": Out(n),
                "cols_valid": Out(range(n + 1)),
                "bottom": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n = self.n
        m.submodules.rows = rows = Extent(n)
        m.submodules.cols = cols = Extent(n)
        m.d.comb += [rows.size.eq(self.rows), cols.size.eq(self.cols)]
        # Tiles left in this column and columns left, and whether those are the last, which is a register for speed.
        down, bottom, across, right = register(len(rows.blocks)), register(), register(len(cols.blocks)), register()
        m.d.comb += self.bottom.eq(bottom)
        with m.If(self.start | (self.step & bottom)):
            m.d.sync += [down.eq(rows.blocks), bottom.eq(rows.single)]
        with m.Elif(self.step):
            m.d.sync += [down.eq(down - 1), bottom.eq(down == 2)]
        with m.If(self.start):
            m.d.sync += [across.eq(cols.blocks), right.eq(cols.single)]
        with m.Elif(self.step & bottom):
            m.d.sync += [across.eq(across - 1), right.eq(across == 2)]
        m.d.comb += [
            self.last.eq(self.bottom & right),
            self.count.eq(Mux(self.bottom, rows.count, n)),
            self.cols_valid.eq(Mux(right, cols.count, n)),
            self.row_lanes.eq(rows.lanes | ~self.bottom.replicate(n)),
            self.col_lanes.eq(cols.lanes | ~right.replicate(n)),
            self.final_col.eq(cols.final & right.replicate(n)),
        ]
        return m


class RowWalker(wiring.Component):
    """The rows of N lanes that a pass drains, or that a stream carries, with their addresses.

    base, pitch, rows, cols, by_rows: from Extent.SETTLE cycles before `start` on, static. start: begin. go: the next
    tile's rows follow, one a cycle from the next cycle on; with `by_rows`, the next block of a row, row by row. A go
    while a tile's rows still come must coincide with its last. valid: there is a row; address: of its block; row: its
    number modulo N; col_lanes: its valid lanes; last: of the matrix.
    """

    def __init__(self, n: int, bits: int) -> None:
        self.n, self.bits = n, bits
        super().__init__(
            {
                "start": In(1),
                "base": In(bits),
                "pitch": In(12),
                "rows": In(16),
                "cols": In(16),
                "by_rows": In(1),
                "go": In(1),
                "valid": Out(1),
                "address": Out(bits),
                "row": Out(n.bit_length() - 1),
                "col_lanes": Out(n),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, by_rows = self.n, self.by_rows
        m.submodules.extent = extent = Extent(n)
        m.d.comb += extent.size.eq(self.cols)
        single_row = register()
        m.d.sync += single_row.eq(self.rows == 1)
        # Rows and columns of tiles left, and whether those are the last, which are registers for speed.
        rows_left, last_row, cols_left, last_col = register(16), register(), register(len(extent.blocks)), register()
        address, row = register(self.bits), register(n.bit_length() - 1)
        m.d.comb += [
            self.address.eq(address),
            self.row.eq(row),
            self.last.eq(last_row & last_col),
            self.col_lanes.eq(extent.lanes | ~last_col.replicate(n)),
        ]

        # The next row is one pitch, or one block, beyond this one or beyond where the column or row began.
        origin, following, jump = register(self.bits), Signal(self.bits), Signal()
        m.d.comb += [
            jump.eq(Mux(by_rows, last_col, last_row)),
            following.eq(Mux(jump, origin, address) + Mux(jump == by_rows, self.pitch, 1)),
        ]
        m.d.sync += self.valid.eq(self.go | (self.valid & ~by_rows & ~(last_row | (row == n - 1))))
        with m.If(self.valid):
            m.d.sync += address.eq(following)
            with m.If(jump):
                m.d.sync += origin.eq(following)
            with m.If(~by_rows & last_row):
                m.d.sync += [rows_left.eq(self.rows), last_row.eq(single_row), row.eq(0)]
            with m.Elif(~by_rows | last_col):
                m.d.sync += [rows_left.eq(rows_left - 1), last_row.eq(rows_left == 2), row.eq(row + 1)]
            with m.If(by_rows & last_col):
                m.d.sync += [cols_left.eq(extent.blocks), last_col.eq(extent.single)]
            with m.Elif(by_rows | last_row):
                m.d.sync += [cols_left.eq(cols_left - 1), last_col.eq(cols_left == 2)]
        with m.If(self.start):
            m.d.sync += [
                self.valid.eq(0),
                address.eq(self.base),
                origin.eq(self.base),
                row.eq(0),
                rows_left.eq(self.rows),
                last_row.eq(single_row),
                cols_left.eq(extent.blocks),
                last_col.eq(extent.single),
            ]
        return m
