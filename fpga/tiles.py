"""Walks over a matrix in drain order: which rows and columns a tile has, and where its rows lie."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class TileCounter(wiring.Component):
    """The tiles of a rows x cols matrix, columns of tiles outermost.

    start: takes rows and cols, and is at the first tile from the next cycle on. step: go to the next tile; after the
    last, anything. count: valid rows of this tile, 1 to N. row_lanes, col_lanes: lanes with a valid row, column.
    bottom: the last of its column of tiles. final_col: lane of the matrix's last column where this tile has it.
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
        rows_left, cols_left = Signal(16), Signal(16)
        with m.If(self.start):
            m.d.sync += [rows_left.eq(self.rows), cols_left.eq(self.cols)]
        with m.Elif(self.step):
            m.d.sync += rows_left.eq(Mux(self.bottom, self.rows, rows_left - n))
            with m.If(self.bottom):
                m.d.sync += cols_left.eq(cols_left - n)
        last_col = cols_left <= n
        m.d.comb += [
            self.bottom.eq(rows_left <= n),
            self.last.eq(self.bottom & last_col),
            self.count.eq(Mux(self.bottom, rows_left, n)),
            self.cols_valid.eq(Mux(last_col, cols_left, n)),
            self.row_lanes.eq(Cat(rows_left > lane for lane in range(n))),
            self.col_lanes.eq(Cat(cols_left > lane for lane in range(n))),
            self.final_col.eq(Cat(cols_left == lane + 1 for lane in range(n))),
        ]
        return m


class RowWalker(wiring.Component):
    """The rows of N lanes that a pass drains, or that a stream carries, with their addresses.

    start: takes base, pitch, rows, cols, by_rows. go: the next tile's rows follow, one a cycle from the next cycle
    on; with `by_rows`, the next block of a row, row by row. A go while a tile's rows still come must coincide with
    its last. valid: there is a row; address: of its block; row: its number modulo N; col_lanes: its valid lanes;
    last: of the matrix.
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
        n = self.n
        origin, rows_left, cols_left = Signal(self.bits), Signal(16), Signal(16)
        last_row, last_col = rows_left == 1, cols_left <= n
        m.d.comb += [
            self.last.eq(last_row & last_col),
            self.col_lanes.eq(Cat(cols_left > lane for lane in range(n))),
        ]
        with m.If(self.start):
            m.d.sync += [
                self.valid.eq(0),
                self.address.eq(self.base),
                origin.eq(self.base),
                rows_left.eq(self.rows),
                cols_left.eq(self.cols),
                self.row.eq(0),
            ]
        with m.Elif(self.by_rows):
            m.d.sync += self.valid.eq(self.go)
            with m.If(self.valid):
                with m.If(last_col):
                    below = origin + self.pitch
                    m.d.sync += [self.address.eq(below), origin.eq(below), cols_left.eq(self.cols)]
                    m.d.sync += [self.row.eq(self.row + 1), rows_left.eq(rows_left - 1)]
                with m.Else():
                    m.d.sync += [self.address.eq(self.address + 1), cols_left.eq(cols_left - n)]
        with m.Else():
            with m.If(self.go):
                m.d.sync += self.valid.eq(1)
            with m.Elif(last_row | (self.row == n - 1)):
                m.d.sync += self.valid.eq(0)
            with m.If(self.valid):
                with m.If(last_row):
                    right = origin + 1
                    m.d.sync += [self.address.eq(right), origin.eq(right), rows_left.eq(self.rows), self.row.eq(0)]
                    m.d.sync += cols_left.eq(cols_left - n)
                with m.Else():
                    m.d.sync += [self.address.eq(self.address + self.pitch), rows_left.eq(rows_left - 1)]
                    m.d.sync += self.row.eq(self.row + 1)
        return m
