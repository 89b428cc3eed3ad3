"""The steps of a pass: which column or row of each operand is read in which cycle."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from amaranth import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.isa import POOLS, Opcode
from insitu.fpga.common import FieldsLayout, delay, register
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
    (its useful multiply-accumulates, rows x columns, else 0) three cycles later. The last step of a tile waits until
    the tile before has left the drain registers: tile period max(K, rows of the tile before), in UNPOOL max(K, K of
    the tile before), where a tile is a row max(K, 1). No back pressure beside that.

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
        a_column, b_column, product = register(), register(), mode.product
        single, double = register(), register()
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
            double.eq(self.span == 2),
        ]

        # `ends`: this step is its segment's last, `nears`: the next one is; `closes`: it is its tile's too.
        running, loaded, issued = Signal(), Signal(), Signal()
        now, ends, nears = register(segment.shape()), register(), register()
        left, done = register(16), register(16)
        height, width = register(range(n + 1)), register(range(n + 1))
        hold, free = register(16 if self.windows else range(n + 1)), register()
        closes, closed = register(), Signal()
        m.d.comb += [
            closed.eq(issued & closes),
            self.take.eq(self.valid & (~loaded | (issued & ends))),
            tiles.start.eq(self.start),
            tiles.shape.eq(self.shape),
            tiles.step.eq(closed),
        ]
        # `free`: hold == 0, the tile before has left. After a tile's last step it is held for as long as that one
        # takes; `frees` is what follows then, `waited` what follows else.
        frees, waited = Signal(), free | (hold == 1)
        with m.If(product):
            m.d.comb += frees.eq(tiles.count == 1)
        with m.Elif(mode.unpool):
            m.d.comb += frees.eq(done == 0)
        with m.Else():
            m.d.comb += frees.eq(waited)
        with m.If(self.start):
            m.d.sync += [hold.eq(0), free.eq(1)]
        with m.Elif(closed):
            m.d.sync += [hold.eq(Mux(product, tiles.count - 1, Mux(mode.unpool, done, hold - ~free))), free.eq(frees)]
        with m.Else():
            m.d.sync += [hold.eq(hold - ~free), free.eq(waited)]
        with m.If(self.start):
            m.d.sync += done.eq(0)
        with m.Elif(issued):
            m.d.sync += done.eq(Mux(closes, 0, done + 1))
        # Whether there is a step is a register too: the next of a segment, the first of the next, or one that waits.
        only = segment.single | single
        first, further = ~(only & segment.last), ~(nears & now.last) | waited
        with m.If(self.start):
            m.d.sync += [running.eq(1), issued.eq(loaded | self.valid)]
        with m.Elif(self.take):
            follows = first | Mux(closed, frees, waited)
            m.d.sync += issued.eq(running & ~(closed & now.final) & follows)
        with m.Elif(issued):
            m.d.sync += issued.eq(~ends & further)
        with m.Else():
            m.d.sync += issued.eq(running & loaded & (~closes | waited))
        with m.If(closed & now.final):
            m.d.sync += running.eq(0)

        # How far it is to the next step's places; A's column goes on to the next word where B's row goes around.
        a_by, b_by = register(bits, name="a_by"), register(bits, name="b_by")
        a_next, a_next_around = register(bits, name="a_next"), register(bits, name="a_next_around")
        m.d.sync += [a_next.eq(a_on + a_column), a_next_around.eq(a_around + a_column)]

        def steps(a_wraps: Value, b_wraps: Value) -> list[Any]:
            near, far = Mux(b_wraps, a_next, a_on), Mux(b_wraps, a_next_around, a_around)
            return [a_by.eq(Mux(a_wraps, far, near)), b_by.eq(Mux(b_wraps, b_around, b_on))]

        with m.If(self.take):
            m.d.sync += [
                loaded.eq(1),
                now.eq(segment),
                left.eq(self.span),
                ends.eq(only),
                closes.eq(~first),
                nears.eq(double),
                *steps(segment.a.turn == n - 1, segment.b.turn == n - 1),
            ]
        with m.Elif(issued):
            m.d.sync += [
                loaded.eq(~ends),
                left.eq(left - 1),
                ends.eq(nears),
                closes.eq(nears & now.last),
                nears.eq(left == 3),
                now.a.turn.eq(now.a.turn + 1),
                now.b.turn.eq(now.b.turn + 1),
                now.a.address.eq(now.a.address + a_by),
                now.b.address.eq(now.b.address + b_by),
                *steps(now.a.turn == n - 2, now.b.turn == n - 2),
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
        # Adders, where `*` would take a multiplier for a few bits; two of them, then the rest.
        parts = [Mux(width[k], height << k, 0) for k in range(len(width))]
        pairs = [register(self.work.shape(), name=f"pair_{k}") for k in range(0, len(parts), 2)]
        m.d.sync += [pair.eq(sum(parts[2 * k : 2 * k + 2], Const(0))) for k, pair in enumerate(pairs)]
        useful, counted = register(self.work.shape()), delay(m, valid & product, 2, "counted")[-1]
        m.d.sync += [useful.eq(sum(pairs, Const(0))), self.work.eq(Mux(counted, useful, 0))]
        return m
