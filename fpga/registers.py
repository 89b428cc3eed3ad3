"""The register bus: reads and writes of arch/registers.py, and the counters."""

from __future__ import annotations

from typing import Any

from amaranth import Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.generator import GOLDEN
from insitu.arch.params import ARCH_VERSION, CoreParams
from insitu.arch.registers import IDENTITY, REGISTERS, WORD_MASK
from insitu.fpga.axi_lite import ADDRESS_BITS
from insitu.fpga.common import any_of, delay, register
from insitu.fpga.exponents import ScaleRegisters
from insitu.fpga.random import xorshift

#: Commands, as one-cycle pulses.
CommandLayout = data.StructLayout({name: unsigned(1) for name in REGISTERS["CONTROL"].fields})
#: What the counters count in a cycle.
CountLayout = data.StructLayout(
    {
        "cycles": unsigned(8),
        "macs": unsigned(11),
        "stall_in": unsigned(1),
        "stall_out": unsigned(1),
        "instructions": unsigned(1),
        "clipped": unsigned(6),
        "unfit": unsigned(7),
        "overflow": unsigned(1),
    }
)
#: STATUS, as the sequencer has it; the sticky overflow is kept here.
StatusLayout = data.StructLayout(
    {name: REGISTERS["STATUS"].fields[name].width for name in ("busy", "done", "error", "pc")}
)


class RegisterBus(wiring.Signature):
    """address: byte offset; read: `read_data` holds the answer READ_LATENCY cycles later; write: of `write_data`.
    Always ready."""

    def __init__(self) -> None:
        super().__init__(
            {"address": Out(ADDRESS_BITS), "read": Out(1), "write": Out(1), "write_data": Out(32), "read_data": In(32)}
        )


class Registers(wiring.Component):
    """All registers but the scale registers' storage, which `scale_*` reaches.

    count: added to the counters each cycle. step_seed: SEED takes one xorshift step. A write is in
    effect four cycles later at the latest. An address no register has reads zero.
    """

    def __init__(self, params: CoreParams) -> None:
        self.params = params
        super().__init__(
            {
                "bus": In(RegisterBus()),
                "command": Out(CommandLayout),
                "status": In(StatusLayout),
                "count": In(CountLayout),
                "entry": Out(32),
                "program_count": Out(32),
                "seed": Out(32, init=REGISTERS["SEED"].reset),
                "step_seed": In(1),
                "scale_index": Out((params.scales - 1).bit_length()),
                "scale_write_index": Out((params.scales - 1).bit_length()),
                "scale_write": Out(1),
                "scale_data": Out(16),
                "scale": In(16),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bus, count = self.bus, self.count
        # A cycle to take an access, one to see which register is meant, one to reach it.
        address, written = register(ADDRESS_BITS), register(32)
        asked_address, asked_data = register(ADDRESS_BITS), register(32)
        plain = {name: r.offset >> 2 for name, r in REGISTERS.items() if name != "SCALE"}
        chosen = {name: Signal(name=f"chosen_{name.lower()}") for name in plain}
        asked, write = Signal(), Signal()
        m.d.sync += [asked_address.eq(bus.address), asked_data.eq(bus.write_data), asked.eq(bus.write), write.eq(asked)]
        m.d.sync += [address.eq(asked_address), written.eq(asked_data)]
        m.d.sync += [chosen[name].eq(asked_address[2:] == place) for name, place in plain.items()]
        # SCALE begins at half the window; those beyond the core's are zero. What is read of it comes as the others have
        # been chosen from.
        index = asked_address[2:-1]
        is_scale = asked_address[-1] & (index < self.params.scales)
        scaled = delay(m, is_scale, ScaleRegisters.LATENCY, "scaled")[-1]
        m.d.comb += self.scale_index.eq(index)
        m.d.sync += [
            self.scale_data.eq(asked_data),
            self.scale_write_index.eq(index),
            self.scale_write.eq(asked & is_scale),
        ]
        m.d.sync += self.command.eq(0)
        with m.If(write & chosen["CONTROL"]):
            for name, field in REGISTERS["CONTROL"].fields.items():
                m.d.sync += self.command[name].eq(written[field.lsb])
        zero = register()
        m.d.sync += zero.eq(asked_data == 0)
        with m.If(write & chosen["ENTRY"]):
            m.d.sync += self.entry.eq(written)
        with m.If(write & chosen["COUNT"]):
            m.d.sync += self.program_count.eq(written)
        with m.If(write & chosen["SEED"]):
            m.d.sync += self.seed.eq(Mux(zero, GOLDEN, written))
        with m.Elif(self.step_seed):
            m.d.sync += self.seed.eq(xorshift(self.seed))

        counters = {"cycles": Signal(64), "macs": Signal(64)} | {
            name: Signal(32, name=name) for name in ("stall_in", "stall_out", "instructions", "saturated")
        }
        clipped = Signal(7)
        overflow = Signal()
        m.d.sync += clipped.eq(count.clipped + count.unfit)
        for name, counter in counters.items():
            grown = clipped if name == "saturated" else count[name]
            with m.If(self.command.clear):
                m.d.sync += counter.eq(0)
            with m.Else():
                m.d.sync += counter.eq(counter + grown)
        with m.If(self.command.clear):
            m.d.sync += overflow.eq(0)
        with m.Elif(count.overflow):
            m.d.sync += overflow.eq(1)

        status = Signal(32)
        fields = REGISTERS["STATUS"].fields
        values = {name: self.status[name] for name in ("busy", "done", "error", "pc")} | {
            "accumulator_overflow": overflow
        }
        for name, field in fields.items():
            m.d.comb += status[field.lsb : field.lsb + field.width].eq(values[name])
        contents: dict[str, Any] = {
            "ID": Const(IDENTITY, 32),
            "VERSION": Const(ARCH_VERSION, 32),
            "HASH_LO": Const(self.params.hash & WORD_MASK, 32),
            "HASH_HI": Const(self.params.hash >> 32, 32),
            "STATUS": status,
            "ENTRY": self.entry,
            "COUNT": self.program_count,
            "SEED": self.seed,
            "CYCLES_LO": counters["cycles"][:32],
            "CYCLES_HI": counters["cycles"][32:],
            "MACS_LO": counters["macs"][:32],
            "MACS_HI": counters["macs"][32:],
            "STALL_IN": counters["stall_in"],
            "STALL_OUT": counters["stall_out"],
            "INSTRUCTIONS": counters["instructions"],
            "SATURATED": counters["saturated"],
        }
        found = register(32)
        m.d.sync += [
            found.eq(any_of([Mux(chosen[name], value, 0) for name, value in contents.items()])),
            bus.read_data.eq(found | Mux(scaled, self.scale, 0)),
        ]
        return m
