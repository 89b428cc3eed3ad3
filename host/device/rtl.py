"""The `rtl` backend: the core's own RTL, compiled, behind its AXI ports."""

from __future__ import annotations

from pathlib import Path

from insitu.arch.params import CoreParams
from insitu.host.device.simulated import SimulatedDevice
from insitu.host.errors import DeviceError
from insitu.sim.rtl.compiled import CompiledEngine
from insitu.sim.rtl.errors import EngineError


class RtlDevice(SimulatedDevice):
    """A core compiled through yosys and Verilator (the first use of a core takes seconds to a minute).

    waves: a VCD file to write. cycle_limit: cycles a wait may take. stalls: (seed, probability) makes both streams and
    the bus wait at random. Raises DeviceError where a tool is missing.
    """

    def __init__(
        self,
        core: CoreParams,
        *,
        waves: str | Path | None = None,
        cycle_limit: int | None = None,
        stalls: tuple[int, float] | None = None,
    ) -> None:
        try:
            engine = CompiledEngine(core, waves=waves)
        except EngineError as error:
            raise DeviceError(str(error)) from error
        if stalls is not None:
            seed, probability = stalls
            engine.stall(seed, send=probability, receive=probability, bus=probability)
        super().__init__(engine, cycle_limit=cycle_limit)
