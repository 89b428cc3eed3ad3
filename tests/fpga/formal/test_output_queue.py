"""The output queue: a beat displayed stays until taken, through a flush too; beats come once and in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.hdl import Assert, Assume

from insitu.fpga.transfer import SLOTS, OutputQueue
from tests.fpga.formal.prove import prove

BITS = 2


def bench(*, flushes: bool) -> tuple[Module, list[Any]]:
    m = Module()
    m.submodules.dut = dut = OutputQueue(BITS)
    o = dut.o

    # AXI4-Stream's rule: VALID and the payload wait for READY.
    waited, before = Signal(), Signal(BITS + 1)
    payload = Cat(o.payload.data, o.payload.last)
    m.d.sync += [waited.eq(o.valid & ~o.ready), before.eq(payload)]
    with m.If(waited):
        m.d.comb += [Assert(o.valid), Assert(payload == before)]

    # The writer's side of the contract: no more beats than slots, by `taken`.
    used = Signal(range(SLOTS + 1))
    m.d.sync += used.eq(Mux(dut.flush, 0, used + dut.i_valid - dut.taken))
    m.d.comb += Assume(~dut.i_valid | (used < SLOTS))
    m.d.comb += Assert(used <= SLOTS)

    if not flushes:
        # Mark one beat among those that go in; it comes out at its place, unchanged.
        m.d.comb += Assume(~dut.flush)
        chosen, into, out, marked = Signal(4), Signal(4), Signal(4), Signal(BITS + 1)
        frozen = Signal(4)
        m.d.sync += frozen.eq(chosen)
        begun = Signal()
        m.d.sync += begun.eq(1)
        with m.If(begun):
            m.d.comb += Assume(chosen == frozen)
        with m.If(dut.i_valid):
            m.d.sync += into.eq(into + 1)
            with m.If(into == chosen):
                m.d.sync += marked.eq(Cat(dut.i.data, dut.i.last))
        with m.If(o.valid & o.ready):
            m.d.sync += out.eq(out + 1)
            with m.If(out == chosen):
                m.d.comb += Assert(payload == marked)
        return m, [dut.i_valid, dut.i.as_value(), dut.flush, o.ready, chosen]
    return m, [dut.i_valid, dut.i.as_value(), dut.flush, o.ready]


def test_a_beat_stays(tmp_path: Path) -> None:
    m, inputs = bench(flushes=True)
    prove(m, inputs, tmp_path, mode="bmc", depth=10)


def test_beats_come_in_order(tmp_path: Path) -> None:
    m, inputs = bench(flushes=False)
    prove(m, inputs, tmp_path, mode="bmc", depth=10)
