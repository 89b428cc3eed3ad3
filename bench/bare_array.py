"""The yardstick for the core's RTL: an array with its memories and nothing else, in the same shells."""

from __future__ import annotations

from functools import reduce
from operator import xor
from typing import Any

from amaranth import Module, Signal, signed, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.arch.registers import REGISTERS
from insitu.fpga.axi_lite import BUS
from insitu.fpga.axi_stream import last_beat

#: Steps of a tile.
STEPS = 256


class BareArray(wiring.Component):
    """N x N cells, output-stationary, the product registered once; both operands from banked memories, a step a cycle.

    Every STEPS steps the sums are copied to drain registers that shift a row a cycle into a third memory. Runs for
    ever from CONTROL.start on. No rounding, no instructions, no skew: what no accelerator of this kind can leave out.
    """

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
        p, n, bus = self.params, self.params.n, self.bus
        running, step = Signal(), Signal(32)
        with m.If(bus.write & (bus.address == REGISTERS["CONTROL"].offset)):
            m.d.sync += running.eq(bus.write_data[0])
        with m.If(running):
            m.d.sync += step.eq(step + 1)

        ports = {}
        for kind in p.memories:
            group = Module()
            m.submodules[kind.name.lower()] = group
            for k in range(n):
                bank = memory.Memory(shape=signed(p.word_bits(kind)), depth=p.depth(kind), init=[])
                group.submodules[f"bank_{k}"] = bank
                ports[kind, k] = bank.read_port(), bank.write_port()
        # Both operands are read in every cycle; beats fill them, and the third memory is read over the bus, or neither
        # the memories nor the array would be left by the tools.
        beat, filled = self.i_stream, Signal(32)
        m.d.comb += beat.ready.eq(~running)
        with m.If(beat.valid & beat.ready):
            m.d.sync += filled.eq(filled + 1)
        for k in range(n):
            for kind in (Memory.ACT, Memory.WGT):
                reader, writer = ports[kind, k]
                word = beat.payload.word_select(k, p.lane_bits)[: p.word_bits(kind)]
                m.d.comb += [
                    reader.addr.eq(step),
                    writer.addr.eq(filled),
                    writer.data.eq(word),
                    writer.en.eq(beat.valid & beat.ready),
                ]
            m.d.comb += ports[Memory.ERR, k][0].addr.eq(bus.address)
        m.d.sync += bus.read_data.eq(reduce(xor, [ports[Memory.ERR, k][0].data for k in range(n)]))

        adding, last = Signal(), Signal()
        m.d.sync += [adding.eq(running), last.eq(adding & ((step % STEPS) == 0))]
        drain = [[Signal(signed(p.accumulator_bits), name=f"drain_{i}_{j}") for j in range(n)] for i in range(n)]
        for i in range(n):
            for j in range(n):
                a, b = ports[Memory.ACT, i][0].data, ports[Memory.WGT, j][0].data[: p.weight_bits].as_signed()
                product = Signal(signed(p.activation_bits + p.weight_bits), name=f"product_{i}_{j}")
                total = Signal(signed(p.accumulator_bits), name=f"total_{i}_{j}")
                with m.If(running):
                    m.d.sync += product.eq(a * b)
                with m.If(last):
                    m.d.sync += [total.eq(product), drain[i][j].eq(total)]
                with m.Elif(adding):
                    m.d.sync += total.eq(total + product)
                    m.d.sync += drain[i][j].eq(drain[i + 1][j] if i + 1 < n else 0)
        left, place = Signal(range(n + 1)), Signal(range(p.err_depth))
        with m.If(last):
            m.d.sync += left.eq(n)
        with m.Elif(left != 0):
            m.d.sync += [left.eq(left - 1), place.eq(place + 1)]
        for j in range(n):
            _, writer = ports[Memory.ERR, j]
            m.d.comb += [writer.addr.eq(place), writer.data.eq(drain[0][j] >> 8), writer.en.eq(left != 0)]
        return m
