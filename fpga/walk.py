"""The walk over a matrix product's tiles, of a core without windows: where the steps of each tile begin."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.isa import Opcode
from insitu.fpga.common import FieldsLayout, register
from insitu.fpga.geometry import GeometryLayout
from insitu.fpga.tiles import Extent, Loop
from insitu.fpga.window import Modes, SegmentLayout


class TileWalker(wiring.Component):
    """The tiles of a matrix product, in the order of arch/timing.py, each a segment that the array's steps follow.

    What WindowWalker is to a core with windows, with the same ports. A tile's rows begin at bank 0, and every one of
    its sums is a segment of all steps: there is nothing to look for, so that the next tile is there in the cycle after
    `take`, from LATENCY cycles after `start` on.
    """

    LATENCY = 1

    def __init__(self, n: int, bits: int, has: Collection[Opcode]) -> None:
        self.n, self.bits, self.has = n, bits, has
        super().__init__(
            {
                "fields": In(FieldsLayout),
                "geometry": In(GeometryLayout(n, bits, windows=False)),
                "start": In(1),
                "take": In(1),
                "valid": Out(1),
                "segment": Out(SegmentLayout(n, bits)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, bits, f, log = self.n, self.bits, self.fields, self.n.bit_length() - 1
        mode = Modes(m, f.opcode, self.has)
        m.submodules.rows, m.submodules.cols = rows, cols = Extent(n), Extent(n)
        m.d.comb += [rows.size.eq(f.rows), cols.size.eq(self.geometry.matrix.cols)]
        down, across = Loop(m, rows, "down"), Loop(m, cols, "across")
        # From a tile to the one below it, and to the next column of tiles.
        a_by, b_by = register(bits), register(bits)
        m.d.sync += [a_by.eq(Mux(mode.update, 1, f.a_pitch << log)), b_by.eq(Mux(mode.forward, f.b_pitch << log, 1))]

        a, b, valid = register(bits), register(bits), Signal()
        # B's place changes by nothing down a column of tiles: an enable that two things make is a slow one.
        beside = Mux(down.last, b_by, 0)
        m.d.comb += [
            self.valid.eq(valid),
            self.segment.a.address.eq(a),
            self.segment.b.address.eq(b),
            self.segment.right.eq(across.last),
            self.segment.last.eq(1),
            self.segment.final.eq(down.last & across.last),
        ]
        with m.If(self.start):
            m.d.sync += [valid.eq(1), a.eq(f.a_base), b.eq(f.b_base), *down.first(), *across.first()]
        with m.Elif(self.take):
            m.d.sync += b.eq(b + beside)
            with m.If(~down.last):
                m.d.sync += [a.eq(a + a_by), *down.next()]
            with m.Else():
                m.d.sync += [valid.eq(~across.last), a.eq(f.a_base), *down.first(), *across.next()]
        return m
