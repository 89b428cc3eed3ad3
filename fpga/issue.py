"""The steps of a pass: which column or row of each operand is read in which cycle."""

from __future__ import annotations

from typing import Any

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.isa import Opcode
from insitu.fpga.common import FieldsLayout, register
from insitu.fpga.tiles import TileCounter


class StepLayout(data.StructLayout):
    """One step k of a tile. a, b: addresses. restart: k is 0; last: k is depth - 1; turn: k mod N, the rotation."""

    def __init__(self, n: int, bits: int) -> None:
        super().__init__(
            {
                "valid": unsigned(1),
                "restart": unsigned(1),
                "last": unsigned(1),
                "turn": unsigned(n.bit_length() - 1),
                "a": unsigned(bits),
                "b": unsigned(bits),
            }
        )


class Issue(wiring.Component):
    """Issues the steps of a pass, tile after tile, one a cycle.

    fields: from Extent.SETTLE cycles before `start` on. start: the first step is on `step` two cycles after, and `work`
    (its useful multiply-accumulates, rows x columns, else 0) two cycles later. The last step of a tile waits until the
    tile before has left the drain registers: tile period max(K, rows of the tile before). No back pressure beside that.

    Column access where a tile's N rows feed the lanes (A of FORWARD and BACKWARD, B of FORWARD): one word further every
    N steps. Row access else: one pitch further every step.
    """

    def __init__(self, n: int, bits: int) -> None:
        self.n, self.bits = n, bits
        super().__init__(
            {
                "start": In(1),
                "fields": In(FieldsLayout),
                "step": Out(StepLayout(n, bits)),
                "work": Out(range(n * n + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, f, step = self.n, self.fields, self.step
        log = n.bit_length() - 1
        m.submodules.tiles = tiles = TileCounter(n)
        # Static while an instruction runs: how operands are walked, and how far to the next tile.
        a_column, b_column, shallow = register(), register(), register()
        a_stride, b_stride = register(self.bits), register(self.bits)
        m.d.sync += [
            a_column.eq(f.opcode != Opcode.UPDATE),
            b_column.eq(f.opcode == Opcode.FORWARD),
            a_stride.eq(Mux(a_column, f.a_pitch << log, 1)),
            b_stride.eq(Mux(b_column, f.b_pitch << log, 1)),
            shallow.eq(f.depth == 1),
        ]

        # `last`: this step is its tile's, left == 1.
        running, first, last = Signal(), register(), register()
        height, width = register(range(n + 1)), register(range(n + 1))
        left, hold, free = register(16), register(range(n + 1)), register()
        turn = register(log)
        a, a_tile, b, b_tile = (register(self.bits, name=name) for name in ("a", "a_tile", "b", "b_tile"))
        issued, ends = Signal(), Signal()
        a_next, b_next = Signal(self.bits), Signal(self.bits)
        m.d.comb += [
            issued.eq(running & (~last | free)),
            ends.eq(issued & last),
            a_next.eq(Mux(tiles.bottom, f.a_base, a_tile + a_stride)),
            b_next.eq(Mux(tiles.bottom, b_tile + b_stride, b_tile)),
            tiles.start.eq(self.start),
            tiles.rows.eq(f.rows),
            tiles.cols.eq(f.cols),
            tiles.step.eq(ends),
        ]
        # `free`: hold == 0, the tile before has left.
        with m.If(self.start):
            m.d.sync += [hold.eq(0), free.eq(1)]
        with m.Elif(ends):
            m.d.sync += [hold.eq(tiles.count - 1), free.eq(tiles.count == 1)]
        with m.Elif(~free):
            m.d.sync += [hold.eq(hold - 1), free.eq(hold == 1)]

        wraps = turn == n - 1
        with m.If(self.start):
            m.d.sync += [running.eq(1), first.eq(1), left.eq(f.depth), last.eq(shallow), turn.eq(0)]
            m.d.sync += [a.eq(f.a_base), a_tile.eq(f.a_base), b.eq(f.b_base), b_tile.eq(f.b_base)]
        with m.Elif(issued):
            with m.If(last):
                m.d.sync += [running.eq(~tiles.last), first.eq(1), left.eq(f.depth), last.eq(shallow), turn.eq(0)]
                m.d.sync += [a.eq(a_next), a_tile.eq(a_next), b.eq(b_next), b_tile.eq(b_next)]
            with m.Else():
                m.d.sync += [first.eq(0), left.eq(left - 1), last.eq(left == 2), turn.eq(turn + 1)]
                m.d.sync += [
                    a.eq(a + Mux(a_column, wraps, f.a_pitch)),
                    b.eq(b + Mux(b_column, wraps, f.b_pitch)),
                ]

        issued_step, valid = register(step.shape()), Signal()
        m.d.comb += [step.eq(issued_step), step.valid.eq(valid)]
        m.d.sync += [
            valid.eq(issued),
            issued_step.restart.eq(first),
            issued_step.last.eq(last),
            issued_step.turn.eq(turn),
            issued_step.a.eq(a),
            issued_step.b.eq(b),
            height.eq(tiles.count),
            width.eq(tiles.cols_valid),
        ]
        useful, counted = register(self.work.shape()), Signal()
        m.d.sync += [useful.eq(height * width), counted.eq(valid), self.work.eq(Mux(counted, useful, 0))]
        return m
