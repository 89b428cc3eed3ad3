"""AXI4-Lite at the core's edge: one register access at a time, bridged to the core's bus."""

from __future__ import annotations

from enum import IntEnum
from functools import reduce
from operator import or_
from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.registers import REGISTERS, WINDOW

#: Bits of a byte offset into the register window.
ADDRESS_BITS = (WINDOW - 1).bit_length()


class Response(IntEnum):
    """BRESP and RRESP."""

    OKAY = 0
    SLVERR = 2  #: a write of some bytes of a register, not all
    DECERR = 3  #: no register lies there


#: AXI4-Lite seen from its manager.
AXI_LITE = wiring.Signature(
    {
        "awaddr": Out(ADDRESS_BITS),
        "awprot": Out(3),
        "awvalid": Out(1),
        "awready": In(1),
        "wdata": Out(32),
        "wstrb": Out(4),
        "wvalid": Out(1),
        "wready": In(1),
        "bresp": In(2),
        "bvalid": In(1),
        "bready": Out(1),
        "araddr": Out(ADDRESS_BITS),
        "arprot": Out(3),
        "arvalid": Out(1),
        "arready": In(1),
        "rdata": In(32),
        "rresp": In(2),
        "rvalid": In(1),
        "rready": Out(1),
    }
)

#: The core's register bus seen from its manager: read_data comes READ_LATENCY cycles after read.
READ_LATENCY = 4
BUS = wiring.Signature(
    {
        "address": Out(ADDRESS_BITS),
        "read": Out(1),
        "write": Out(1),
        "write_data": Out(32),
        "read_data": In(32),
    }
)


def decode(address: Value) -> Value:
    """Whether a register lies at a byte offset, as arch.registers.find has it."""
    runs: list[tuple[int, int]] = []
    for register in sorted(REGISTERS.values(), key=lambda r: r.offset):
        if runs and runs[-1][1] == register.offset:
            runs[-1] = (runs[-1][0], register.end)
        else:
            runs.append((register.offset, register.end))
    inside = [(address >= first) & (address < end) for first, end in runs]
    return reduce(or_, inside) & (address[:2] == 0)


class AxiLite(wiring.Component):
    """AXI4-Lite subordinate over the register bus.

    axi: AXI4-Lite. bus: the core's registers. Each of AW, W and AR has one register, so addresses and data may come in
    any order and any number of cycles apart; B and R are held until they are taken. An address that `find` refuses is
    answered DECERR, a write of one to three of a register's bytes SLVERR, and neither reaches the bus; a write of no
    bytes is OKAY and does nothing. Writes go first, but never two cycles in a row, so no read waits for ever.
    Latency 2 cycles to B, READ_LATENCY + 2 to R; one write in 2 cycles, one read in READ_LATENCY + 2. `xPROT` is
    ignored. Reset drops what is held.
    """

    def __init__(self) -> None:
        super().__init__({"axi": In(AXI_LITE), "bus": Out(BUS)})
        # What is held, for proofs to look at. fetching: the bus was read and has not answered; since: how long ago.
        self.aw, self.ar = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        self.w_data, self.w_strobe = Signal(32), Signal(4)
        self.fetching, self.since = Signal(), Signal(READ_LATENCY)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        axi, bus = self.axi, self.bus

        # One register each for what comes in; its channel is ready while it is empty.
        has_aw, has_w, has_ar = Signal(), Signal(), Signal()
        aw, ar, w_data, w_strobe = self.aw, self.ar, self.w_data, self.w_strobe
        m.d.comb += [axi.awready.eq(~has_aw), axi.wready.eq(~has_w), axi.arready.eq(~has_ar)]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [has_aw.eq(1), aw.eq(axi.awaddr)]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [has_w.eq(1), w_data.eq(axi.wdata), w_strobe.eq(axi.wstrb)]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [has_ar.eq(1), ar.eq(axi.araddr)]

        # A write, where both its halves are here and the answer before it is gone; else a read.
        writes, reads = Signal(), Signal()
        fetching, since, answers, fetched_legal = self.fetching, self.since, Signal(), Signal()
        write_legal, read_legal = decode(aw), decode(ar)
        m.d.comb += [
            writes.eq(has_aw & has_w & ~axi.bvalid),
            reads.eq(has_ar & ~axi.rvalid & ~fetching & ~writes),
            bus.address.eq(Mux(writes, aw, ar)),
            bus.write.eq(writes & write_legal & w_strobe.all()),
            bus.write_data.eq(w_data),
            bus.read.eq(reads & read_legal),
        ]
        with m.If(writes):
            partial = w_strobe.any() & ~w_strobe.all()
            answer = Mux(write_legal, Mux(partial, Response.SLVERR, Response.OKAY), Response.DECERR)
            m.d.sync += [has_aw.eq(0), has_w.eq(0), axi.bvalid.eq(1), axi.bresp.eq(answer)]
        with m.Elif(axi.bready):
            m.d.sync += axi.bvalid.eq(0)

        m.d.comb += answers.eq(fetching & since[-1])
        m.d.sync += [fetching.eq(reads | (fetching & ~since[-1])), since.eq(Cat(reads, since[:-1]))]
        with m.If(reads):
            m.d.sync += [has_ar.eq(0), fetched_legal.eq(read_legal)]
        with m.If(answers):
            m.d.sync += [
                axi.rvalid.eq(1),
                axi.rdata.eq(Mux(fetched_legal, bus.read_data, 0)),
                axi.rresp.eq(Mux(fetched_legal, Response.OKAY, Response.DECERR)),
            ]
        with m.Elif(axi.rready):
            m.d.sync += axi.rvalid.eq(0)
        return m
