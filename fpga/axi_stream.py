"""AXI4-Stream at the core's edge, between its handshakes and Amaranth's streams."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, unsigned
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


class StreamInput(wiring.Component):
    """AXI4-Stream into a stream of beats.

    t: AXI4-Stream. o: its beats. Bytes whose TKEEP is low read as zero; every transfer is a beat. TLAST is not needed:
    instructions say how many beats they take. Wires only, latency 0: a beat is taken when the core asks for it and not
    before, so none is left inside when a program stops; `o.ready` must come from registers.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__({"t": In(axi_stream(bits)), "o": Out(stream.Signature(unsigned(bits)))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        t, o = self.t, self.o
        keep = Cat(t.tkeep[byte].replicate(8) for byte in range(self.bits // 8))
        m.d.comb += [o.payload.eq(t.tdata & keep), o.valid.eq(t.tvalid), t.tready.eq(o.ready)]
        return m


class StreamOutput(wiring.Component):
    """A stream of beats out as AXI4-Stream.

    i: beats with their `last`, from registers, each displayed until taken. t: AXI4-Stream; TKEEP all ones. Wires only,
    latency 0.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__({"i": In(stream.Signature(last_beat(bits))), "t": Out(axi_stream(bits))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        t, i = self.t, self.i
        m.d.comb += [
            t.tdata.eq(i.payload.data),
            t.tlast.eq(i.payload.last),
            t.tkeep.eq((1 << (self.bits // 8)) - 1),
            t.tvalid.eq(i.valid),
            i.ready.eq(t.tready),
        ]
        return m
