"""The steps of a pass: which column or row of each operand is read in which cycle."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from amaranth import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.isa import POOLS, Opcode
from insitu.fpga.common import FieldsLayout, register
from insitu.fpga.tiles import ShapeLayout, TileCounter
from insitu.fpga.window import Modes, PlaceLayout, SegmentLayout


class StepLayout(data.StructLayout):
    """One step of a tile. a, b: places; of a column, the address less the pitch times the turn, which is that of its
    elements' rotation. last: of its tile; zero, extra, right: as its segment has them."""

    def __init__(self, n: int, bits: int) -> None:
        place = PlaceLayout(n, bits)
        flags = ("valid", "last", "zero", "extra", "right")
        super().__init__({**dict.fromkeys(flags, unsigned(1)), "a": place, "b": place})


class Issue(wiring.Component):
    """Issues the steps of a pass, segment after segment, one a cycle.

    fields, shape, span: from Extent.SETTLE + 2 cycles before `start` on. segment, with `valid`: the next one, used up
    where `take`; the first may come before `start`. start: its first step is on `step` two cycles after, and `work`
    (its useful multiply-accumulates, rows x columns, else 0) two cycles later. The last step of a tile waits until the
    tile before has left the drain registers: tile period max(K, rows of the tile before), in UNPOOL max(K, K of the
    tile before), where a tile is a row max(K, 1). No back pressure beside that.

    Column access where a tile's N rows feed the lanes (A of FORWARD and BACKWARD, B of FORWARD): one word further every
    N columns. Row access else: one pitch further every step. has: the passes that the core has.
    """

    def __init__(self, n: int, bits: int, has: Collection[Opcode] = tuple(Opcode)) -> None:
        self.n, self.bits, self.has = n, bits, has
        self.windows = not set(POOLS).isdisjoint(has)
        super().__init__(
            {
                "start": In(1),
                "fields": In(FieldsLayout),
                "shape": In(ShapeLayout(windows=self.windows)),
                "span": In(16),
                "segment": In(SegmentLayout(n, bits)),
                "valid": In(1),
                "take": Out(1),
                "step": Out(StepLayout(n, bits)),
                "work": Out(range(n * n + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, bits, f, segment = self.n, self.bits, self.fields, self.segment
        mode = Modes(m, f.opcode, self.has)
        m.submodules.tiles = tiles = TileCounter(n, windows=self.windows)
        # Static while an instruction runs: how far it is to the next step, and to the one after a word's last row.
        a_column, b_column, single, product = register(), register(), register(), mode.product
        a_on, a_around, b_on, b_around = (
            register(bits, name=name) for name in ("a_on", "a_around", "b_on", "b_around")
        )
        a_back, b_back = (
            (f.a_pitch << (n.bit_length() - 1)) - f.a_pitch,
            (f.b_pitch << (n.bit_length() - 1)) - f.b_pitch,
        )
        m.d.sync += [
            a_column.eq(product & (mode.forward | mode.backward)),
            b_column.eq(product & mode.forward),
            a_on.eq(Mux(a_column, -f.a_pitch, f.a_pitch)),
            a_around.eq(Mux(a_column, a_back, f.a_pitch)),
            b_on.eq(Mux(b_column, -f.b_pitch, f.b_pitch)),
            b_around.eq(Mux(b_column, b_back + 1, f.b_pitch)),
            single.eq(self.span == 1),
        ]

        # `ends`: this step is its segment's last; `closes`: its tile's too.
        running, loaded = Signal(), Signal()
        now, ends = register(segment.shape()), register()
        left, done = register(16), register(16)
        height, width = register(range(n + 1)), register(range(n + 1))
        hold, free = register(16), register()
        issued, closes, closed = Signal(), register(), Signal()
        m.d.comb += [
            issued.eq(running & loaded & (~closes | free)),
            closed.eq(issued & closes),
            self.take.eq(self.valid & (~loaded | (issued & ends))),
            tiles.start.eq(self.start),
            tiles.shape.eq(self.shape),
            tiles.step.eq(closed),
        ]
        # `free`: hold == 0, the tile before has left.
        with m.If(self.start):
            m.d.sync += [hold.eq(0), free.eq(1)]
        with m.Elif(closed & product):
            m.d.sync += [hold.eq(tiles.count - 1), free.eq(tiles.count == 1)]
        with m.Elif(closed & mode.unpool):
            m.d.sync += [hold.eq(done), free.eq(done == 0)]
        with m.Elif(~free):
            m.d.sync += [hold.eq(hold - 1), free.eq(hold == 1)]
        with m.If(issued):
            m.d.sync += done.eq(Mux(closes, 0, done + 1))
        with m.If(self.start):
            m.d.sync += [running.eq(1), done.eq(0)]
        with m.Elif(closed & now.final):
            m.d.sync += running.eq(0)

        a_wraps, b_wraps = now.a.turn == n - 1, now.b.turn == n - 1
        with m.If(self.take):
            m.d.sync += [loaded.eq(1), now.eq(segment), left.eq(self.span), ends.eq(segment.single | single)]
            m.d.sync += closes.eq((segment.single | single) & segment.last)
        with m.Elif(issued & ends):
            m.d.sync += loaded.eq(0)
        with m.Elif(issued):
            m.d.sync += [
                left.eq(left - 1),
                ends.eq(left == 2),
                closes.eq((left == 2) & now.last),
                now.a.turn.eq(now.a.turn + 1),
                now.b.turn.eq(now.b.turn + 1),
                now.a.address.eq(now.a.address + Mux(a_wraps, a_around, a_on) + (a_column & b_wraps)),
                now.b.address.eq(now.b.address + Mux(b_wraps, b_around, b_on)),
            ]

        step, valid = register(self.step.shape()), Signal()
        m.d.comb += [self.step.eq(step), self.step.valid.eq(valid)]
        m.d.sync += [
            valid.eq(issued),
            step.last.eq(closes),
            step.zero.eq(now.zero),
            step.extra.eq(now.extra),
            step.right.eq(now.right),
            step.a.eq(now.a),
            step.b.eq(now.b),
            height.eq(tiles.count),
            width.eq(tiles.cols_valid),
        ]
        useful, counted = register(self.work.shape()), Signal()
        # Adders, where `*` would take a multiplier for a few bits.
        parts: list[Value] = [Mux(width[k], height << k, 0) for k in range(len(width))]
        while len(parts) > 1:
            parts = [sum(parts[k : k + 2], Const(0)) for k in range(0, len(parts), 2)]
        m.d.sync += [useful.eq(parts[0]), counted.eq(valid & product), self.work.eq(Mux(counted, useful, 0))]
        return m
