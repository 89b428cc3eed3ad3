"""The `pysim` backend: the core on Amaranth's own simulator, for waveforms and for machines without a compiler."""

from __future__ import annotations

from pathlib import Path

from insitu.arch.params import CoreParams
from insitu.host.device.simulated import SimulatedDevice
from insitu.host.errors import DeviceError
from insitu.sim.rtl.errors import EngineError
from insitu.sim.rtl.interpreted import InterpretedEngine

#: Cycles between two looks at the clock on the wall: some hundred are simulated a second.
CHUNK = 256


class PysimDevice(SimulatedDevice):
    """A core at some hundred cycles a second. waves: a VCD file to write. cycle_limit: cycles a wait may take."""

    def __init__(self, core: CoreParams, *, waves: str | Path | None = None, cycle_limit: int | None = None) -> None:
        try:
            engine = InterpretedEngine(core, waves=waves)
        except EngineError as error:
            raise DeviceError(str(error)) from error
        super().__init__(engine, cycle_limit=cycle_limit, chunk=CHUNK)
