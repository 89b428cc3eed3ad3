"""Walks over a matrix in drain order: which rows and columns a tile has, and where its rows lie."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from insitu.fpga.common import copies, register


class Extent(wiring.Component):
    """How many N a dimension of a matrix takes, and what the last of them has.

    SETTLE cycles after `size`, which is 1 or more. blocks: how many; single, double: it is one, two. count: elements of
    the last, 1 to N; lanes: those; final: the last of those.
    """

    SETTLE = 2

    def __init__(self, n: int) -> None:
        self.n = n
        super().__init__(
            {
                "size": In(16),
                "blocks": Out(17 - (n.bit_length() - 1)),
                "single": Out(1),
                "double": Out(1),
                "count": Out(range(n + 1)),
                "lanes": Out(n),
                "final": Out(n),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, log = self.n, self.n.bit_length() - 1
        above, blocks, single, double = register(16), register(len(self.blocks)), register(), register()
        count, lanes, final = register(range(n + 1)), register(n), register(n)
        m.d.sync += [
            above.eq(self.size - 1),
            blocks.eq(above[log:] + 1),
            single.eq(above[log:] == 0),
            double.eq(above[log:] == 1),
            count.eq(above[:log] + 1),
            lanes.eq(Cat(above[:log] >= lane for lane in range(n))),
            final.eq(Cat(above[:log] == lane for lane in range(n))),
        ]
        m.d.comb += [
            self.blocks.eq(blocks),
            self.single.eq(single),
            self.double.eq(double),
            self.count.eq(count),
            self.lanes.eq(lanes),
            self.final.eq(final),
        ]
        return m


class ShapeLayout(data.StructLayout):
    """A matrix as it is walked: rows, those of one pixel, `pixels` times; columns in `groups` groups of `cols`, then
    one of a single column where there is a `tail`. All but `tail` are 1 or more. Without windows there is one pixel and
    one group."""

    def __init__(self, *, windows: bool = True) -> None:
        plain = {"rows": 16, "cols": 16}
        super().__init__(plain | {"pixels": 16, "groups": 16, "tail": 1} if windows else plain)


class Loop:
    """A loop in a module: how many rounds are left, and whether this is the last or the next is, which are registers
    for speed. count: of rounds, static, 1 or more, from Loop.SETTLE cycles before the first on; or an Extent's blocks.
    """

    SETTLE = 1

    def __init__(self, m: Module, count: Value | Extent, name: str) -> None:
        #: There is but one round; there are two.
        self.single, self._double = register(name=f"{name}_single"), register(name=f"{name}_double")
        if isinstance(count, Extent):
            m.d.comb += [self.single.eq(count.single), self._double.eq(count.double)]
            count = count.blocks
        else:
            m.d.sync += [self.single.eq(count == 1), self._double.eq(count == 2)]
        self._count, self._left = count, register(len(count), name=f"{name}_left")
        self.last, self.ends_next = register(name=f"{name}_last"), register(name=f"{name}_ends_next")

    def first(self) -> list[Any]:
        """Begin."""
        return [self._left.eq(self._count), self.last.eq(self.single), self.ends_next.eq(self._double)]

    def next(self) -> list[Any]:
        """Go to the next round, which there is."""
        return [self._left.eq(self._left - 1), self.last.eq(self.ends_next), self.ends_next.eq(self._left == 3)]


class Once:
    """A loop of one round."""

    single, last, ends_next = Const(1, 1), Const(1, 1), Const(0, 1)

    def first(self) -> list[Any]:
        return []

    next = first


def pixels(m: Module, shape: Any, *, windows: bool) -> Loop | Once:
    """The loop over a shape's pixels."""
    return Loop(m, shape.pixels, "pixel") if windows else Once()


class Columns:
    """The columns of tiles of a shape in a module: groups outermost, in them blocks of columns; the tail last."""

    def __init__(self, m: Module, n: int, shape: Any, *, windows: bool) -> None:
        m.submodules.cols = self.extent = Extent(n)
        m.d.comb += self.extent.size.eq(shape.cols)
        self._tail = shape.tail if windows else Const(0, 1)
        self._block = Loop(m, self.extent, "block")
        self._group = Loop(m, shape.groups, "group") if windows else Once()
        self._in_tail = register(name="in_tail")
        #: This is the last column of tiles.
        self.last = register(name="cols_last")
        #: Its lanes, how many, and that of the last column of all where this is it.
        ragged = self._block.last
        self.lanes = Mux(self._in_tail, 1, self.extent.lanes | ~ragged.replicate(n))
        self.count = Mux(self._in_tail, 1, Mux(ragged, self.extent.count, n))
        self.final = Mux(self._in_tail, 1, self.extent.final & (ragged & ~self._tail).replicate(n))

    def first(self) -> list[Any]:
        """Begin."""
        only = self._block.single & self._group.single & ~self._tail
        return [*self._block.first(), *self._group.first(), self._in_tail.eq(0), self.last.eq(only)]

    def step(self, m: Module) -> None:
        """Go to the next column of tiles; from the last to the first."""
        block, group = self._block, self._group
        with m.If(~block.last):
            m.d.sync += [*block.next(), self.last.eq(block.ends_next & group.last & ~self._tail)]
        with m.Elif(~group.last):
            only = block.single & group.ends_next & ~self._tail
            m.d.sync += [*block.first(), *group.next(), self.last.eq(only)]
        with m.Elif(self._tail & ~self._in_tail):
            m.d.sync += [self._in_tail.eq(1), self.last.eq(1)]
        with m.Else():
            m.d.sync += self.first()


class TileCounter(wiring.Component):
    """The tiles of a matrix, columns of tiles outermost, each down all pixels; a tile has rows of one pixel only.

    shape: from Extent.SETTLE cycles before `start` on. start: at the first tile from the next cycle on. step: go to the
    next tile; after the last, anything. count: valid rows of this tile, 1 to N. row_lanes, col_lanes: lanes with a
    valid row, column. cols_valid: of those, columns. final_col: lane of the matrix's last column where this tile has
    it.
    """

    def __init__(self, n: int, *, windows: bool = True) -> None:
        self.n, self.windows = n, windows
        super().__init__(
            {
                "start": In(1),
                "shape": In(ShapeLayout(windows=windows)),
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
        m.d.comb += rows.size.eq(self.shape.rows)
        down, pixel = Loop(m, rows, "down"), pixels(m, self.shape, windows=self.windows)
        columns = Columns(m, n, self.shape, windows=self.windows)
        # What a tile has is a register, so it is found out a tile ahead.
        ragged, count, row_lanes = Signal(), register(range(n + 1)), register(n)
        with m.If(self.start):
            m.d.sync += [*down.first(), *pixel.first(), *columns.first()]
        with m.Elif(self.step):
            with m.If(~down.last):
                m.d.sync += down.next()
            with m.Else():
                m.d.sync += down.first()
                with m.If(~pixel.last):
                    m.d.sync += pixel.next()
                with m.Else():
                    m.d.sync += pixel.first()
                    columns.step(m)
        m.d.comb += ragged.eq(Mux(self.start | down.last, down.single, down.ends_next))
        with m.If(self.start | self.step):
            m.d.sync += [count.eq(Mux(ragged, rows.count, n)), row_lanes.eq(rows.lanes | ~ragged.replicate(n))]
        m.d.comb += [
            self.bottom.eq(down.last & pixel.last),
            self.last.eq(self.bottom & columns.last),
            self.count.eq(count),
            self.row_lanes.eq(row_lanes),
            self.cols_valid.eq(columns.count),
            self.col_lanes.eq(columns.lanes),
            self.final_col.eq(columns.final),
        ]
        return m


class RowWalker(wiring.Component):
    """The rows of N lanes that a pass drains, or that a stream carries, with their addresses.

    base, pitch, shape, by_rows, singly: from Extent.SETTLE cycles before `start` on, static. start: begin. go: the next
    tile's rows follow, one a cycle from the next cycle on; `singly`, one row of a tile of one; with `by_rows`, which is
    also singly, the next block of a row, row by row. A go while a tile's rows still come must coincide with its last.
    valid: there is a row; address: of its block; row: its number modulo N; col_lanes: its valid lanes; last: of the
    matrix.
    """

    def __init__(self, n: int, bits: int, *, windows: bool = True) -> None:
        self.n, self.bits, self.windows = n, bits, windows
        super().__init__(
            {
                "start": In(1),
                "base": In(bits),
                "pitch": In(12),
                "shape": In(ShapeLayout(windows=windows)),
                "by_rows": In(1),
                "singly": In(1),
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
        by_rows, singly = (
            copies(m, flag, 1, name)[0] for flag, name in ((self.by_rows, "by_rows"), (self.singly, "singly"))
        )
        log = n.bit_length() - 1
        sample, pixel = Loop(m, self.shape.rows, "sample"), pixels(m, self.shape, windows=self.windows)
        columns = Columns(m, n, self.shape, windows=self.windows)
        address, row, in_tile = register(self.bits), register(log), register(log)
        last_row = sample.last & pixel.last
        m.d.comb += [
            self.address.eq(address),
            self.row.eq(row),
            self.last.eq(last_row & columns.last),
            self.col_lanes.eq(columns.lanes),
        ]

        # The next row is one pitch, or one block, beyond this one, or beyond where the column or row began: both are
        # there before it is known which.
        beyond, first_beyond, inner, outer = (register(self.bits) for _ in range(4))
        jump = Signal()
        m.d.sync += [
            inner.eq(Mux(self.by_rows, 1, self.pitch)),
            outer.eq(Mux(self.by_rows, self.pitch, 1)),
            first_beyond.eq(self.base + outer),
        ]
        m.d.comb += jump.eq(Mux(by_rows, columns.last, last_row))
        more = ~singly & ~(sample.last | (in_tile == n - 1))
        m.d.sync += self.valid.eq(self.go | (self.valid & more))
        with m.If(self.valid):
            m.d.sync += address.eq(Mux(jump, beyond, address + inner))
            with m.If(jump):
                m.d.sync += beyond.eq(beyond + outer)
            with m.If(~by_rows | columns.last):
                with m.If(~sample.last):
                    m.d.sync += [*sample.next(), row.eq(row + 1), in_tile.eq(in_tile + 1)]
                with m.Else():
                    m.d.sync += [*sample.first(), in_tile.eq(0)]
                    with m.If(~pixel.last):
                        m.d.sync += [*pixel.next(), row.eq(row + 1)]
                    with m.Else():
                        m.d.sync += [*pixel.first(), row.eq(0)]
            with m.If(by_rows | last_row):
                columns.step(m)
        with m.If(self.start):
            m.d.sync += [self.valid.eq(0), address.eq(self.base), beyond.eq(first_beyond), row.eq(0), in_tile.eq(0)]
            m.d.sync += [*sample.first(), *pixel.first(), *columns.first()]
        return m
