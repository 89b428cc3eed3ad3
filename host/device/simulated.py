"""A core under simulation as a `Device`: what the backends `rtl` and `pysim` share."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np

from insitu.arch.params import CoreParams
from insitu.arch.registers import REGISTERS
from insitu.host.device.protocol import Buffer, lane_dtype
from insitu.host.errors import DeviceError, DeviceTimeout
from insitu.sim.rtl.engine import Engine, Until
from insitu.sim.rtl.errors import EngineError

#: Cycles between two looks at the clock on the wall.
CHUNK = 16_384
#: Cycles a chunk may lose to waits that are not counted as such and still be one in which nothing happened.
SLACK = 64


class _Sending:
    def __init__(self, device: SimulatedDevice, end: int) -> None:
        self._device, self._end = device, end

    def wait(self, timeout: float) -> None:
        """Simulate until the buffer was taken."""
        self._device.settle(lambda: self._device.taken >= self._end, Until.SENT, timeout, "beats sent")


class _Receiving:
    def __init__(self, device: SimulatedDevice, buffer: Buffer) -> None:
        self.buffer, self.filled = buffer, 0
        self._device = device

    @property
    def done(self) -> bool:
        return self.filled == len(self.buffer)

    def wait(self, timeout: float) -> None:
        """Simulate until the buffer is full."""
        self._device.settle(lambda: self.done, Until.RECEIVED, timeout, "beats received")


class SimulatedDevice:
    """A core in an RTL engine. Its clock runs while the host waits for something, and stands still otherwise.

    Transfers are like a DMA's: what `receive` has room for is taken, anything more makes the core wait. A wait ends
    with DeviceTimeout after its seconds, after `cycle_limit` cycles, or as soon as the core can only wait for the host;
    then, and with CONTROL.abort, all transfers under way are given up.
    """

    exact_exponents = False

    def __init__(self, engine: Engine, *, cycle_limit: int | None = None, chunk: int = CHUNK) -> None:
        self.core: CoreParams = engine.core
        self.engine = engine
        self._cycle_limit = cycle_limit
        self._chunk = chunk
        self._pushed = 0
        self._receiving: deque[_Receiving] = deque()
        self._closed = False

    def read(self, offset: int) -> int:
        with _Translated():
            return self._open().read(offset)

    def write(self, offset: int, value: int) -> None:
        control = REGISTERS["CONTROL"]
        with _Translated():
            self._open().write(offset, value)
            if offset == control.offset and control.fields["abort"].of(value):
                self._give_up()

    def allocate(self, beats: int) -> Buffer:
        return np.zeros((beats, self.core.n), dtype=lane_dtype(self.core))

    def send(self, buffer: Buffer) -> _Sending:
        self._open().push(buffer)
        self._pushed += len(buffer)
        return _Sending(self, self._pushed)

    def receive(self, buffer: Buffer) -> _Receiving:
        self._open().accept(len(buffer))
        transfer = _Receiving(self, buffer)
        self._receiving.append(transfer)
        return transfer

    def wait_done(self, timeout: float) -> None:
        self._open()
        status = REGISTERS["STATUS"]
        busy = status.fields["busy"]
        self.settle(lambda: not busy.of(self.read(status.offset)), Until.IDLE, timeout, "the program's end")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.engine.close()

    @property
    def taken(self) -> int:
        """Beats the core has taken of those sent."""
        return self._pushed - self.engine.sending

    def settle(self, reached: Callable[[], bool], until: Until, timeout: float, what: str) -> None:
        """Simulate until `reached`. Raises DeviceTimeout, which names `what` was awaited."""
        engine = self._open()
        deadline = time.monotonic() + timeout
        first = engine.cycles
        with _Translated():
            self._deliver()
            while not reached():
                before = self._work()
                engine.run(until, self._chunk)
                self._deliver()
                if reached():
                    return
                ran, problem = engine.cycles - first, ""
                if self._work() - before <= SLACK:
                    problem = "awaited in vain: the core waits too"
                elif self._cycle_limit is not None and ran >= self._cycle_limit:
                    problem = f"not there after {ran} cycles"
                elif time.monotonic() >= deadline:
                    problem = f"not there after {timeout:g} s ({ran} cycles)"
                if problem:
                    error = DeviceTimeout(f"{what} {problem}{self._state()}")
                    self._give_up()
                    raise error

    def _give_up(self) -> None:
        """End all transfers, as a DMA's reset does."""
        self.engine.drop()
        self._receiving.clear()

    def _work(self) -> int:
        """Something that grows while the core does anything but wait for a stream."""
        registers = {name: self.engine.read(REGISTERS[name].offset) for name in ("CYCLES_LO", "STALL_IN", "STALL_OUT")}
        ran = registers["CYCLES_LO"] - registers["STALL_IN"] - registers["STALL_OUT"]
        return (ran % (1 << 32)) + (SLACK + 1) * self.engine.moved

    def _state(self) -> str:
        pc = REGISTERS["STATUS"].fields["pc"].of(self.engine.read(REGISTERS["STATUS"].offset))
        return f" (instruction {pc}; {self.engine.sending} beats not taken, {self.engine.room} not received)"

    def _deliver(self) -> None:
        """Put what came into the buffers that wait for it, in order."""
        while self._receiving and self.engine.received:
            transfer = self._receiving[0]
            beats = self.engine.pull(len(transfer.buffer) - transfer.filled)
            transfer.buffer[transfer.filled : transfer.filled + len(beats)] = beats
            transfer.filled += len(beats)
            if transfer.done:
                self._receiving.popleft()
        while self._receiving and self._receiving[0].done:
            self._receiving.popleft()

    def _open(self) -> Engine:
        if self._closed:
            raise DeviceError("the device is closed")
        return self.engine


class _Translated:
    """An engine's errors as the host's."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, EngineError):
            raise DeviceError(str(error)) from error
