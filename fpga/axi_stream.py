"""AXI4-Stream at the core's edge: register slices between its handshakes and Amaranth's streams."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Signal, unsigned
from amaranth.hdl import ShapeLike
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out


def axi_stream(bits: int) -> wiring.Signature:
    """AXI4-Stream seen from its source: `bits` of data, a TKEEP bit a byte, TLAST."""
    return wiring.Signature(
        {
            "tdata": Out(bits),
            "tkeep": Out(bits // 8),
            "tlast": Out(1),
            "tvalid": Out(1),
            "tready": In(1),
        }
    )


def last_beat(bits: int) -> data.StructLayout:
    """The payload of a stream that ends its packets: a beat, and whether it is the last."""
    return data.StructLayout({"data": unsigned(bits), "last": unsigned(1)})


class RegisterSlice(wiring.Component):
    """A stream cut by registers in both directions.

    i, o: streams of `shape`. Latency 1 cycle, 1 item a cycle; full back pressure. No combinational path joins the two
    sides: `o` comes from registers, and `i.ready` says that the spare register is empty. `o.valid` stays, and the
    payload with it, until `o.ready`. Reset drops what it holds. Order and completeness are proved by induction.
    """

    def __init__(self, shape: ShapeLike) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        i, o = self.i, self.o
        full = Signal()
        spare = Signal.like(i.payload)
        m.d.comb += i.ready.eq(~full)
        with m.If(o.ready | ~o.valid):
            m.d.sync += [o.valid.eq(i.valid | full), full.eq(0)]
            with m.If(full):
                m.d.sync += o.payload.eq(spare)
            with m.Else():
                m.d.sync += o.payload.eq(i.payload)
        with m.Elif(i.valid & i.ready):
            m.d.sync += [full.eq(1), spare.eq(i.payload)]
        return m


class StreamInput(wiring.Component):
    """AXI4-Stream into a stream of beats.

    t: AXI4-Stream. o: its beats, registered. Bytes whose TKEEP is low read as zero; every transfer is a beat. TLAST is
    not needed: instructions say how many beats they take. Latency 1, 1 beat a cycle, full back pressure.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__({"t": In(axi_stream(bits)), "o": Out(stream.Signature(unsigned(bits)))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        t = self.t
        m.submodules.slice = cut = RegisterSlice(unsigned(self.bits))
        keep = Cat(t.tkeep[byte].replicate(8) for byte in range(self.bits // 8))
        m.d.comb += [cut.i.payload.eq(t.tdata & keep), cut.i.valid.eq(t.tvalid), t.tready.eq(cut.i.ready)]
        wiring.connect(m, cut.o, wiring.flipped(self.o))
        return m


class StreamOutput(wiring.Component):
    """A stream of beats out as AXI4-Stream.

    i: beats with their `last`. t: AXI4-Stream, registered; TKEEP all ones. Latency 1, 1 beat a cycle, full back
    pressure.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__({"i": In(stream.Signature(last_beat(bits))), "t": Out(axi_stream(bits))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        t = self.t
        m.submodules.slice = cut = RegisterSlice(last_beat(self.bits))
        wiring.connect(m, wiring.flipped(self.i), cut.i)
        m.d.comb += [
            t.tdata.eq(cut.o.payload.data),
            t.tlast.eq(cut.o.payload.last),
            t.tkeep.eq((1 << (self.bits // 8)) - 1),
            t.tvalid.eq(cut.o.valid),
            cut.o.ready.eq(t.tready),
        ]
        return m
