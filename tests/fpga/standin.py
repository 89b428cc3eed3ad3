"""A small stand-in for the core, with its interface: what the shells and the engines are tested against."""

from __future__ import annotations

from functools import reduce
from operator import xor
from typing import Any

from amaranth import Cat, Module, Signal, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from insitu.arch.layout import Memory
from insitu.arch.params import ARCH_VERSION, CoreParams
from insitu.arch.registers import IDENTITY, REGISTERS
from insitu.fpga.axi_lite import BUS
from insitu.fpga.axi_stream import last_beat


class Loopback(wiring.Component):
    """CONTROL.start sends the next COUNT beats back, the last of them marked; busy meanwhile. A beat goes to ACT too,
    one word after the other. ENTRY, COUNT and SEED are plain registers."""

    def __init__(self, params: CoreParams) -> None:
        self.params = params
        super().__init__(
            {
                "i_stream": In(stream.Signature(unsigned(params.stream_bits))),
                "o_stream": Out(stream.Signature(last_beat(params.stream_bits))),
                "bus": In(BUS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        p, bus, i, o = self.params, self.bus, self.i_stream, self.o_stream
        busy, done, left, at = Signal(), Signal(), Signal(32), Signal(range(p.act_depth))
        plain = {name: Signal(32, name=name.lower()) for name in ("ENTRY", "COUNT", "SEED")}
        # A queue between, so that no handshake depends on another within a cycle.
        m.submodules.queue = queue = SyncFIFOBuffered(width=p.stream_bits + 1, depth=4)
        takes = i.valid & i.ready
        m.d.comb += [
            i.ready.eq(busy & queue.w_rdy & (left != 0)),
            queue.w_data.eq(Cat(i.payload, left == 1)),
            queue.w_en.eq(takes),
            o.payload.eq(queue.r_data),
            o.valid.eq(queue.r_rdy),
            queue.r_en.eq(o.ready),
        ]
        with m.If(takes):
            m.d.sync += [left.eq(left - 1), at.eq(at + 1)]
        with m.If(busy & (left == 0) & ~queue.r_rdy & queue.w_rdy):
            m.d.sync += [busy.eq(0), done.eq(1)]
        with m.If(bus.write):
            for name, register in plain.items():
                with m.If(bus.address == REGISTERS[name].offset):
                    m.d.sync += register.eq(bus.write_data)
            with m.If((bus.address == REGISTERS["CONTROL"].offset) & bus.write_data[0] & ~busy):
                m.d.sync += [busy.eq(1), done.eq(0), left.eq(plain["COUNT"])]
        values = {
            "ID": IDENTITY,
            "VERSION": ARCH_VERSION,
            "HASH_LO": p.hash & 0xFFFFFFFF,
            "HASH_HI": p.hash >> 32,
            "STATUS": busy | (done << 1),
            **plain,
        }
        everything = Signal(32)
        with m.If(bus.read):
            m.d.sync += bus.read_data.eq(0)
            for name, value in values.items():
                with m.If(bus.address == REGISTERS[name].offset):
                    m.d.sync += bus.read_data.eq(value)
        read: list[Any] = []
        for kind in p.memories:
            group = Module()
            m.submodules[kind.name.lower()] = group
            for k in range(p.n):
                bank = memory.Memory(shape=p.word_bits(kind), depth=p.depth(kind), init=[])
                group.submodules[f"bank_{k}"] = bank
                reader, writer = bank.read_port(), bank.write_port()
                m.d.comb += [
                    writer.addr.eq(at),
                    writer.data.eq(i.payload.word_select(k, p.lane_bits)[: p.word_bits(kind)]),
                    writer.en.eq(takes & (kind is Memory.ACT)),
                    reader.addr.eq(plain["ENTRY"]),
                ]
                read.append(reader.data)
        # Something has to read a memory, or it is removed.
        m.d.sync += everything.eq(reduce(xor, read))
        with m.If(bus.read & (bus.address == REGISTERS["SATURATED"].offset)):
            m.d.sync += bus.read_data.eq(everything)
        return m
