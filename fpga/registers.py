"""The register bus: reads and writes of arch/registers.py, and the counters."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.generator import GOLDEN
from insitu.arch.params import ARCH_VERSION, CoreParams
from insitu.arch.registers import IDENTITY, REGISTERS, WORD_MASK
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
        "unfit": unsigned(6),
        "overflow": unsigned(1),
    }
)
#: STATUS, as the sequencer has it; the sticky overflow is kept here.
StatusLayout = data.StructLayout({"busy": 1, "done": 1, "error": 8, "pc": 12})


class RegisterBus(wiring.Signature):
    """address: byte offset; read: data is in `read_data` the cycle after; write: takes `write_data`. Always ready."""

    def __init__(self) -> None:
        super().__init__(
            {"address": Out(9), "read": Out(1), "write": Out(1), "write_data": Out(32), "read_data": In(32)}
        )


class Registers(wiring.Component):
    """All registers but the scale registers' storage, which `scale_*` reaches.

    count: added to the counters each cycle. step_seed: SEED takes one xorshift step. A write comes one cycle late into
    effect. An address no register has reads zero.
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
                "seed": Out(32, init=1),
                "step_seed": In(1),
                "scale_index": Out(6),
                "scale_write": Out(1),
                "scale_data": Out(16),
                "scale": In(16),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bus, count = self.bus, self.count
        address, writing, written = Signal(9), Signal(), Signal(32)
        m.d.sync += writing.eq(bus.write)
        with m.If(bus.write | bus.read):
            m.d.sync += address.eq(bus.address)
        with m.If(bus.write):
            m.d.sync += written.eq(bus.write_data)

        def selected(name: str, at: Any) -> Any:
            return at[2:] == REGISTERS[name].offset >> 2

        is_scale = address[8]
        m.d.comb += [
            self.scale_index.eq(address[2:8]),
            self.scale_data.eq(written),
            self.scale_write.eq(writing & is_scale),
        ]
        m.d.comb += self.command.eq(0)
        with m.If(writing & selected("CONTROL", address)):
            for name, field in REGISTERS["CONTROL"].fields.items():
                m.d.comb += self.command[name].eq(written[field.lsb])
        with m.If(writing & selected("ENTRY", address)):
            m.d.sync += self.entry.eq(written)
        with m.If(writing & selected("COUNT", address)):
            m.d.sync += self.program_count.eq(written)
        with m.If(writing & selected("SEED", address)):
            m.d.sync += self.seed.eq(Mux(written == 0, GOLDEN, written))
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
            with m.Elif(grown != 0):
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
        # The scale register lies behind the registered address, so it is selected after it, like every other.
        with m.If(is_scale):
            m.d.comb += bus.read_data.eq(Cat(self.scale))
        with m.Else(), m.Switch(address[2:]):
            for name, value in contents.items():
                with m.Case(REGISTERS[name].offset >> 2):
                    m.d.comb += bus.read_data.eq(value)
        return m
