"""AXI4-Lite: every access is answered once, rightly and in time, whatever the other side does."""

from __future__ import annotations

from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import pytest
from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.hdl import Assert

from insitu.arch.errors import ArchError
from insitu.arch.registers import WINDOW, find
from insitu.fpga.axi_lite import ADDRESS_BITS, AXI_LITE, READ_LATENCY, AxiLite, Response
from tests.fpga.formal.prove import prove


def legal(address: Value) -> Value:
    """Whether `find` knows a register there, asked offset by offset: runs of words."""
    known = []
    for offset in range(WINDOW):
        try:
            find(offset)
        except ArchError:
            continue
        known.append(offset)
    starts = [offset for offset in known if offset - 4 not in known]
    ends = [offset for offset in known if offset + 4 not in known]
    assert all(offset % 4 == 0 for offset in known)
    inside = [(address >= first) & (address <= last) for first, last in zip(starts, ends, strict=True)]
    return reduce(or_, inside) & (address[:2] == 0)


def bench() -> tuple[Module, list[Any]]:
    m = Module()
    m.submodules.dut = dut = AxiLite()
    axi, bus = dut.axi, dut.bus

    # What is held stays until it is taken.
    for valid, ready, *values in (
        (axi.bvalid, axi.bready, axi.bresp),
        (axi.rvalid, axi.rready, axi.rresp, axi.rdata),
    ):
        waited = Signal()
        m.d.sync += waited.eq(valid & ~ready)
        with m.If(waited):
            m.d.comb += Assert(valid)
        for value in values:
            before = Signal.like(value)
            m.d.sync += before.eq(value)
            with m.If(waited):
                m.d.comb += Assert(value == before)

    # One answer for each access: what was accepted and not answered is what the block holds.
    def outstanding(accepted: Value, answered: Value, held: Value) -> None:
        count = Signal(3)
        m.d.sync += count.eq(count + accepted - answered)
        m.d.comb += Assert(count == held)

    answered = axi.bvalid & axi.bready
    outstanding(axi.awvalid & axi.awready, answered, ~axi.awready + axi.bvalid)
    outstanding(axi.wvalid & axi.wready, answered, ~axi.wready + axi.bvalid)
    read = axi.rvalid & axi.rready
    outstanding(axi.arvalid & axi.arready, read, ~axi.arready + dut.fetching + axi.rvalid)
    m.d.comb += Assert(~(dut.fetching & axi.rvalid))

    # The right answer: from the last address and strobes that were accepted.
    aw, ar = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
    strobe, data = Signal(4), Signal(32)
    with m.If(axi.awvalid & axi.awready):
        m.d.sync += aw.eq(axi.awaddr)
    with m.If(axi.wvalid & axi.wready):
        m.d.sync += [strobe.eq(axi.wstrb), data.eq(axi.wdata)]
    with m.If(axi.arvalid & axi.arready):
        m.d.sync += ar.eq(axi.araddr)
    with m.If(~axi.awready):
        m.d.comb += Assert(aw == dut.aw)
    with m.If(~axi.wready):
        m.d.comb += [Assert(strobe == dut.w_strobe), Assert(data == dut.w_data)]
    with m.If(~axi.arready):
        m.d.comb += Assert(ar == dut.ar)
    whole, none = strobe == 0xF, strobe == 0
    expected, was = Signal(2), Signal()
    write_answer = Mux(legal(aw), Mux(whole | none, Response.OKAY, Response.SLVERR), Response.DECERR)
    m.d.sync += [expected.eq(write_answer), was.eq(axi.bvalid)]
    with m.If(axi.bvalid & ~was):
        m.d.comb += Assert(axi.bresp == expected)
    fetched, read_ok, read_before = Signal(32), Signal(), Signal()
    m.d.sync += [fetched.eq(bus.read_data), read_before.eq(axi.rvalid)]
    with m.If(~axi.arready & ~dut.fetching):
        m.d.sync += read_ok.eq(legal(ar))
    with m.If(axi.rvalid & ~read_before):
        m.d.comb += Assert(axi.rresp == Mux(read_ok, Response.OKAY, Response.DECERR))
        m.d.comb += Assert(axi.rdata == Mux(read_ok, fetched, 0))

    # The bus answers so many cycles after it was read, and that is what goes out.
    ages = Signal(READ_LATENCY + 1)
    m.d.sync += ages.eq(Cat(bus.read, ages[:-1]))
    since = dut.since  # of what the bus was not asked about, too
    m.d.comb += [
        Assert(dut.fetching == since.any()),
        Assert((since & (since - 1)) == 0),
        Assert((ages[:-1] & ~since) == 0),
    ]
    with m.If(ages[-1]):
        m.d.comb += Assert(axi.rvalid & ~read_before)

    # The bus: one access a cycle, of whole registers that are there, as they were asked for.
    m.d.comb += Assert(~(bus.read & bus.write))
    with m.If(bus.write):
        m.d.comb += [Assert(bus.address == aw), Assert(legal(aw)), Assert(whole), Assert(bus.write_data == data)]
        m.d.comb += Assert(~axi.awready & ~axi.wready)
    with m.If(bus.read):
        m.d.comb += [Assert(bus.address == ar), Assert(legal(ar)), Assert(~axi.arready)]

    # In time: a read whose answer nothing blocks waits for one write at most.
    waits = Signal(2)
    m.d.sync += waits.eq(Mux(~axi.arready & ~axi.rvalid & ~dut.fetching, waits + 1, 0))
    m.d.comb += Assert(waits <= 2)

    names = [name for name, member in AXI_LITE.members.items() if member.flow.name == "Out"]
    return m, [*(getattr(axi, name) for name in names), bus.read_data]


def test_holds(tmp_path: Path) -> None:
    """For the first sixteen cycles."""
    m, inputs = bench()
    prove(m, inputs, tmp_path, mode="bmc", depth=16)


@pytest.mark.slow
def test_holds_for_ever(tmp_path: Path) -> None:
    """By induction."""
    m, inputs = bench()
    prove(m, inputs, tmp_path, mode="prove", depth=8)


def test_the_bench_sees_errors(tmp_path: Path) -> None:
    m, inputs = bench()
    m.d.comb += Assert(~(m.submodules.dut.bus.write))
    try:
        prove(m, inputs, tmp_path, mode="bmc", depth=6)
    except AssertionError:
        return
    raise AssertionError("a bus that never writes was proved")
