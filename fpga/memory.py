"""A banked memory with its address generator: rows and columns of a skewed matrix, one a cycle."""

from __future__ import annotations

from typing import Any

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from insitu.fpga.common import copies, delay, lanes, register


def address_bits(depth: int) -> int:
    """Bits that address a memory."""
    return max(1, (depth - 1).bit_length())


def read_request(n: int, bits: int) -> wiring.Signature:
    """A read of N elements.

    enable: words are asked for; the banks read at all times. address: of a row's block; of a column's element, less the
    pitch times `turn`, its first row plus its column modulo N. near, far: none for N columns of one row; for N rows of
    one column, far for the banks below `turn`, near for the others.
    """
    return wiring.Signature({"enable": Out(1), "address": Out(bits), "near": Out(n), "far": Out(n)})


class BankedMemory(wiring.Component):
    """N banks of `depth` words, one read port and one write port each (arch/layout.py has the layout).

    read: one request a cycle; `o` holds its words, in bank order, READ_LATENCY cycles later. A column's bank k holds
    the row (k - turn) mod N below its first: k pitches above `address`, or N more where k < turn. Both multiples of
    the pitch lie in tables, made in the N cycles after the first that `build` is held for. write: a row's block, the
    banks `enable` names, carried out WRITE_LATENCY cycles later. A word read as it is written may come as anything. No
    back pressure. Contents survive a reset. Tested for N of 4 to 16, any pitch, depths that are no power of two. Every
    bank's ports have registers of their own straight before and after them: a block RAM takes most of a cycle.
    """

    READ_LATENCY = 5
    WRITE_LATENCY = 2

    def __init__(self, n: int, depth: int, width: int) -> None:
        self.n, self.depth, self.width = n, depth, width
        self.bits = address_bits(depth)
        #: The banks; a simulation may look into their `data`.
        self.banks = [memory.Memory(shape=width, depth=depth, init=[], attrs={"no_rw_check": 1}) for _ in range(n)]
        super().__init__(
            {
                "read": In(read_request(n, self.bits)),
                "build": In(1),
                "pitch": In(12),
                "o": Out(lanes(signed(width), n)),
                "write": In(
                    wiring.Signature(
                        {"enable": Out(n), "address": Out(self.bits), "data": Out(lanes(signed(width), n))}
                    )
                ),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, read = self.n, self.read

        multiple = Signal(self.bits)
        near = [register(self.bits, name=f"near_{i}") for i in range(n)]
        far = [register(self.bits, name=f"far_{i}") for i in range(n)]
        building = Signal()
        m.d.sync += building.eq(self.build)
        with m.If(building):
            m.d.sync += multiple.eq(multiple + self.pitch)
            m.d.sync += [near[i].eq(near[i + 1] if i + 1 < n else multiple) for i in range(n)]
            higher = multiple + (self.pitch << (n.bit_length() - 1))
            m.d.sync += [far[i].eq(far[i + 1] if i + 1 < n else higher) for i in range(n)]
        with m.Else():
            m.d.sync += multiple.eq(0)

        address = [register(self.bits, name=f"address_{i}") for i in range(n)]
        for i in range(n):
            offset = Mux(read.far[i], far[i], Mux(read.near[i], near[i], 0))
            chosen = register(self.bits, name=f"chosen_{i}")
            m.d.sync += [chosen.eq(read.address + offset), address[i].eq(chosen)]

        # Banks lie all over a device: what is written takes two cycles to get there, what is
        # read one, and two to come back.
        write = self.write
        target, word = copies(m, write.address, 1, "target")[0], delay(m, write.data, 2, "word", data=True)[-1]
        enable = delay(m, write.enable, 2, "enable")[-1]
        place = copies(m, target, n, "place")
        captured, o = register(self.o.shape()), register(self.o.shape())
        for i, bank in enumerate(self.banks):
            m.submodules[f"bank_{i}"] = bank
            reader, writer = bank.read_port(), bank.write_port()
            m.d.comb += [
                reader.addr.eq(address[i]),
                writer.addr.eq(place[i]),
                writer.data.eq(word[i]),
                writer.en.eq(enable[i]),
            ]
            m.d.sync += [captured[i].eq(reader.data), o[i].eq(captured[i])]
        m.d.comb += self.o.eq(o)
        return m
