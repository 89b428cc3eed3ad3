"""The core in its shells: what a block design or a board's top connects."""

from __future__ import annotations

from typing import Any, Protocol

from amaranth import ClockDomain, ClockSignal, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import Flow, In, Out

from insitu.arch.params import CoreParams
from insitu.arch.place import NAME_LETTERS, OPERANDS, PLACE_BITS
from insitu.fpga.axi_lite import AXI_LITE, AxiLite
from insitu.fpga.axi_stream import StreamInput, StreamOutput, axi_stream
from insitu.fpga.trace import Trace


class CoreLike(Protocol):
    """What the shells expect of a core."""

    i_stream: Any  #: In, stream of unsigned(stream_bits)
    o_stream: Any  #: Out, stream of axi_stream.last_beat(stream_bits)
    bus: Any  #: In, axi_lite.BUS


def _ports(params: CoreParams) -> dict[str, wiring.Member]:
    """Every AXI signal under its conventional name, as the outside drives it."""
    ports = {f"s_axi_{name}": member.flip() for name, member in AXI_LITE.members.items()}
    beats = axi_stream(params.stream_bits).members
    ports |= {f"s_axis_{name}": member.flip() for name, member in beats.items()}
    return ports | {f"m_axis_{name}": member for name, member in beats.items()}


def _join(m: Module, outer: Any, inner: Any, members: dict[str, wiring.Member], prefix: str) -> None:
    """Connect the ports `prefix + name` of `outer`, whose own members these are, with `inner.name`."""
    for name, member in members.items():
        outside, inside = getattr(outer, f"{prefix}{name}"), getattr(inner, name)
        m.d.comb += inside.eq(outside) if member.flow is Flow.In else outside.eq(inside)


class Shell(wiring.Component):
    """A core behind its AXI ports, in the clock domain `sync`.

    s_axi_*: AXI4-Lite registers (axi_lite.AxiLite). s_axis_*: AXI4-Stream in. m_axis_*: AXI4-Stream out. 1 beat a
    cycle each way; back pressure is honoured everywhere. Every output comes from registers alone.
    """

    def __init__(self, params: CoreParams, core: CoreLike | None = None) -> None:
        self.params = params
        if core is None:
            from insitu.fpga.core import Core

            core = Core(params)
        self.core = core
        super().__init__(_ports(params))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits = self.params.stream_bits
        m.submodules.core = core = self.core
        m.submodules.axi_lite = registers = AxiLite()
        m.submodules.stream_input = stream_input = StreamInput(bits)
        m.submodules.stream_output = stream_output = StreamOutput(bits)
        wiring.connect(m, registers.bus, core.bus)
        wiring.connect(m, stream_input.o, core.i_stream)
        wiring.connect(m, core.o_stream, stream_output.i)
        beats = axi_stream(bits).members
        _join(m, self, registers.axi, {k: v.flip() for k, v in AXI_LITE.members.items()}, "s_axi_")
        _join(m, self, stream_input.t, {k: v.flip() for k, v in beats.items()}, "s_axis_")
        _join(m, self, stream_output.t, dict(beats), "m_axis_")
        return m


class Top(wiring.Component):
    """The core with AXI ports and a clock and reset of its own: the module that is exported.

    aclk: the one clock. aresetn: reset, active low, synchronous to aclk; at any time, even in the middle of a burst,
    and for one cycle or more. It clears everything but the contents of the memories. The other ports are Shell's.

    traced: for waveforms, with what fpga/trace.py shows; operand_*: places of the operands; operand_*_name: their
    names in ASCII, which whoever simulates gives, for they are the program's and not the core's.
    """

    def __init__(self, params: CoreParams, core: CoreLike | None = None, *, traced: bool = False) -> None:
        self.params = params
        self.shell = Shell(params, core)
        self.trace = Trace(self.shell.core) if traced else None
        ports = {"aclk": In(1), "aresetn": In(1), **_ports(params)}
        if traced:
            for name in OPERANDS:
                ports |= {f"operand_{name}": Out(PLACE_BITS), f"operand_{name}_name": In(8 * NAME_LETTERS)}
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.shell = self.shell
        m.d.comb += [ClockSignal().eq(self.aclk), ResetSignal().eq(~self.aresetn)]
        _join(m, self, self.shell, _ports(self.params), "")
        if self.trace is not None:
            m.submodules.trace = self.trace
            for name in OPERANDS:
                m.d.comb += getattr(self, f"operand_{name}").eq(getattr(self.trace, f"operand_{name}"))
        return m
