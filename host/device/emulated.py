"""The `emulator` backend: the numba emulator behind the registers and streams of a real core."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from insitu.arch.isa import WORDS
from insitu.arch.numbers import EXPONENT_MAX, EXPONENT_MIN
from insitu.arch.params import ARCH_VERSION, CoreParams
from insitu.arch.registers import IDENTITY, REGISTERS, WORD_MASK, Access, Error, find
from insitu.host.device.protocol import Buffer, lane_dtype
from insitu.host.errors import DeviceError, DeviceTimeout
from insitu.sim.emulator import Emulator
from insitu.sim.rules import Rules
from insitu.sim.statistics import Statistics


@dataclass(frozen=True)
class _Sent:
    def wait(self, timeout: float) -> None:
        """The emulator takes beats at once."""


class _Receiving:
    def __init__(self, device: EmulatedDevice, buffer: Buffer) -> None:
        self.buffer, self.done = buffer, False
        self._device = device

    def wait(self, timeout: float) -> None:
        """Have the buffer filled, and those before it."""
        self._device.deliver()
        if not self.done:
            # Nothing runs while the host waits: what is not there now would never come.
            self._device.give_up(f"{len(self.buffer)} beats awaited")


class EmulatedDevice:
    """A core in this process. Programs run inside the register write, or the send, that lets them go on.

    statistics: collect per-tensor statistics in `self.statistics`. rules: of published integer training (sim/rules.py).
    """

    exact_exponents = True

    def __init__(self, core: CoreParams, *, statistics: bool = False, rules: Rules | None = None) -> None:
        self.core = core
        self.emulator = Emulator(core, statistics=statistics, rules=rules)
        self._statistics = self.emulator.statistics
        self._entry = 0
        self._count = 0
        self._loading: int | None = None  # the instruction the next words go to
        self._step = False
        self._receiving: deque[_Receiving] = deque()
        self._flushing = False  # after an abort, input is discarded until the next command to run or load
        self._closed = False

    @property
    def statistics(self) -> Statistics | None:
        return self._statistics

    def collect(self, wanted: bool) -> None:
        """Collect statistics of what comes, or let it pass: they take longer than what they are of. Only of a device
        opened with them."""
        self.emulator.statistics = self._statistics if wanted else None

    def read(self, offset: int) -> int:
        name, index = find(offset)
        emulator = self.emulator
        match name:
            case "ID":
                return IDENTITY
            case "VERSION":
                return ARCH_VERSION
            case "HASH_LO" | "HASH_HI":
                return _half(self.core.hash, name)
            case "STATUS":
                return self._status()
            case "ENTRY":
                return self._entry
            case "COUNT":
                return self._count
            case "SEED":
                return emulator.seed
            case "CYCLES_LO" | "CYCLES_HI":
                return _half(emulator.counters.cycles, name)
            case "MACS_LO" | "MACS_HI":
                return _half(emulator.counters.macs, name)
            case "INSTRUCTIONS":
                return emulator.counters.instructions & WORD_MASK
            case "SATURATED":
                return emulator.saturated & WORD_MASK
            case "SCALE":
                if index >= self.core.scales:
                    return 0
                fields = REGISTERS["SCALE"].fields
                exponent, following = emulator.scales[index]
                return fields["exponent"].put(exponent) | fields["next"].put(following)
        return 0  # write-only registers, and stalls: an emulated stream never makes the core wait

    def write(self, offset: int, value: int) -> None:
        self._check_open()
        name, index = find(offset)
        match name:
            case "CONTROL":
                self._control(value)
            case "ENTRY":
                self._entry = value
            case "COUNT":
                self._count = value
            case "SEED":
                self.emulator.seed = value
            case "SCALE":
                if index >= self.core.scales:
                    return
                fields = REGISTERS["SCALE"].fields
                self.emulator.scales[index][:] = [_signed(fields[f].of(value)) for f in ("exponent", "next")]
            case _:
                assert REGISTERS[name].access is Access.RO  # a bus write to a read-only register changes nothing

    def allocate(self, beats: int) -> Buffer:
        return np.zeros((beats, self.core.n), dtype=lane_dtype(self.core))

    def send(self, buffer: Buffer) -> _Sent:
        self._check_open()
        if not self._flushing:
            self.emulator.stream_in.put(buffer)
            self._go_on()
        return _Sent()

    def receive(self, buffer: Buffer) -> _Receiving:
        self._check_open()
        transfer = _Receiving(self, buffer)
        self._receiving.append(transfer)
        return transfer

    def deliver(self) -> None:
        """Fill the buffers that wait, in order, as far as what is in the stream fills them whole."""
        stream = self.emulator.stream_out
        while self._receiving and stream.pending >= len(self._receiving[0].buffer):
            transfer = self._receiving.popleft()
            transfer.buffer[:] = stream.take(len(transfer.buffer))
            transfer.done = True

    def give_up(self, awaited: str) -> None:
        """End all transfers, as a DMA's reset does. Raises DeviceTimeout, which names what was `awaited`."""
        self._receiving.clear()
        raise DeviceTimeout(f"{awaited}, {self.emulator.stream_out.pending} in the stream, nothing running")

    def wait_done(self, timeout: float) -> None:
        if self._loading is not None:
            raise DeviceTimeout(f"program memory waits for words: {self._count} instructions were announced")
        if self.emulator.busy:
            raise DeviceTimeout(f"instruction {self.emulator.pc} waits for samples that were not sent")

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise DeviceError("the device is closed")

    def _status(self) -> int:
        emulator, fields = self.emulator, REGISTERS["STATUS"].fields
        return (
            fields["busy"].put(emulator.busy or self._loading is not None)
            | fields["done"].put(emulator.done)
            | fields["accumulator_overflow"].put(emulator.accumulator_overflow)
            | fields["error"].put(emulator.error)
            | fields["pc"].put(emulator.pc)
        )

    def _control(self, value: int) -> None:
        fields, emulator = REGISTERS["CONTROL"].fields, self.emulator
        if fields["abort"].of(value):
            self._loading = None
            self._flushing = True
            self._receiving.clear()
            emulator.abort()
        if fields["clear"].of(value):
            emulator.clear()
        if fields["abort"].of(value) or emulator.busy or self._loading is not None:
            return
        if fields["start"].of(value) or fields["step"].of(value):
            self._flushing = False
            self._step = not fields["start"].of(value)
            emulator.start(self._entry)
        elif fields["load_program"].of(value):
            self._flushing = False
            if self._entry + self._count > self.core.program_depth:
                emulator.refuse(Error.ENTRY)
            else:
                self._loading = self._entry
        self._go_on()

    def _go_on(self) -> None:
        """Whatever can run now runs."""
        emulator = self.emulator
        if self._loading is not None:
            if emulator.stream_in.pending < self._count * WORDS:
                return
            words = emulator.stream_in.take(self._count * WORDS)
            emulator.load_program(_words(words, self.core), at=self._loading)
            self._loading = None
        if self._step and emulator.advance(1):
            emulator.finish()
        elif not self._step:
            emulator.advance()


def _words(beats: Buffer, core: CoreParams) -> np.ndarray[tuple[int, int], np.dtype[np.uint32]]:
    """The low 32 bits of each beat: instruction words [count, WORDS]."""
    lanes = 32 // core.lane_bits
    words = np.ascontiguousarray(beats[:, :lanes], dtype=lane_dtype(core)).view("<u4")
    return words.reshape(-1, WORDS)


def _half(value: int, name: str) -> int:
    return value >> 32 & WORD_MASK if name.endswith("_HI") else value & WORD_MASK


def _signed(byte: int) -> int:
    return byte - (EXPONENT_MAX - EXPONENT_MIN + 1) if byte > EXPONENT_MAX else byte
