"""The `pynq` backend: a core in a Zynq overlay, through PYNQ's Overlay, MMIO, allocate and DMA."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from insitu.arch.params import CoreParams
from insitu.arch.registers import REGISTERS, WINDOW
from insitu.fpga.vivado import CORE_CELL, DMA_CELL
from insitu.host.device.protocol import Buffer, lane_dtype
from insitu.host.errors import DeviceError, DeviceTimeout

#: AXI DMA: control register of its first channel, and the bit that resets both.
_DMACR, _DMA_RESET = 0x00, 1 << 2
#: Seconds a reset of the DMA may take.
_RESET_TIMEOUT = 1.0


class PynqDevice:
    """A core on a board.

    bitstream: the overlay's file, its .hwh beside it. base: the core's address, where the overlay's `ip_dict` does not
    tell. Transfers of a direction go one after the other, each begun when the one before it has ended; a transfer that
    times out, and CONTROL.abort, reset the DMA and give up all of them.
    """

    exact_exponents = False

    def __init__(
        self,
        core: CoreParams,
        *,
        bitstream: str | Path = "insitu.bit",
        core_cell: str = CORE_CELL,
        dma_cell: str = DMA_CELL,
        base: int | None = None,
    ) -> None:
        import pynq

        self.core = core
        self._pynq: Any = pynq
        self._overlay: Any = pynq.Overlay(str(bitstream))
        if base is None:
            if core_cell not in self._overlay.ip_dict:
                raise DeviceError(f"overlay {bitstream} has no {core_cell!r}: {', '.join(self._overlay.ip_dict)}")
            base = int(self._overlay.ip_dict[core_cell]["phys_addr"])
        self._mmio: Any = pynq.MMIO(base, WINDOW)
        self._dma: Any = getattr(self._overlay, dma_cell)
        self._sending = _Channel(self._dma.sendchannel)
        self._receiving = _Channel(self._dma.recvchannel)
        self._closed = False

    def read(self, offset: int) -> int:
        self._check_open()
        return int(self._mmio.read(offset))

    def write(self, offset: int, value: int) -> None:
        self._check_open()
        self._mmio.write(offset, int(value))
        control = REGISTERS["CONTROL"]
        if offset == control.offset and control.fields["abort"].of(value):
            self._give_up()

    def allocate(self, beats: int) -> Buffer:
        buffer: Buffer = self._pynq.allocate(shape=(beats, self.core.n), dtype=lane_dtype(self.core))
        buffer[:] = 0
        return buffer

    def send(self, buffer: Buffer) -> _Transfer:
        self._check_open()
        return self._queue(self._sending, _Transfer(self, self._reachable(buffer), None))

    def receive(self, buffer: Buffer) -> _Transfer:
        self._check_open()
        reachable = self._reachable(buffer)
        return self._queue(self._receiving, _Transfer(self, reachable, None if reachable is buffer else buffer))

    def wait_done(self, timeout: float) -> None:
        status = REGISTERS["STATUS"]
        deadline = time.monotonic() + timeout
        while status.fields["busy"].of(self.read(status.offset)):
            self._pump()
            if time.monotonic() >= deadline:
                raise DeviceTimeout(f"the program did not end in {timeout:g} s")

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise DeviceError("the device is closed")

    def _reachable(self, buffer: Buffer) -> Buffer:
        """The buffer itself where the DMA reaches it, else a copy in one that it reaches."""
        if hasattr(buffer, "physical_address"):
            return buffer
        copy = self.allocate(len(buffer))
        copy[:] = buffer
        return copy

    def _queue(self, channel: _Channel, transfer: _Transfer) -> _Transfer:
        transfer.channel = channel
        if len(transfer.buffer):
            channel.waiting.append(transfer)
            self._pump()
        else:
            transfer.done = True
        return transfer

    def _pump(self) -> None:
        """Note which transfers have ended and begin the next."""
        for channel in (self._sending, self._receiving):
            channel.pump()

    def settle(self, transfer: _Transfer, timeout: float) -> None:
        """Wait for a transfer of this device, and for those before it."""
        deadline = time.monotonic() + timeout
        while not transfer.done:
            self._check_open()
            if transfer.given_up:
                raise DeviceError("the transfer was given up")
            self._pump()
            if transfer.done:
                return
            if not transfer.channel.polled:
                # A simulated channel: time passes only in its own wait.
                transfer.channel.finish()
            elif time.monotonic() >= deadline:
                self._give_up()
                raise DeviceTimeout(f"{len(transfer.buffer)} beats were not transferred in {timeout:g} s")

    def _give_up(self) -> None:
        """Reset the DMA and forget all transfers."""
        active = self._sending.forget() | self._receiving.forget()
        registers = getattr(self._dma, "mmio", None)
        if not active or registers is None:
            return
        registers.write(_DMACR, _DMA_RESET)
        deadline = time.monotonic() + _RESET_TIMEOUT
        while registers.read(_DMACR) & _DMA_RESET:
            if time.monotonic() >= deadline:
                raise DeviceTimeout(f"the DMA did not reset in {_RESET_TIMEOUT:g} s")
        self._dma.sendchannel.start()
        self._dma.recvchannel.start()


class _Transfer:
    """A buffer on its way; `target` is where a received copy goes in the end."""

    channel: _Channel

    def __init__(self, device: PynqDevice, buffer: Buffer, target: Buffer | None) -> None:
        self.buffer, self.target = buffer, target
        self.done = self.given_up = False
        self._device = device

    def wait(self, timeout: float) -> None:
        self._device.settle(self, timeout)

    def finish(self) -> None:
        if self.target is not None:
            np.copyto(self.target, self.buffer)
        self.done = True


class _Channel:
    """One direction of the DMA and what waits for it, the transfer under way first."""

    def __init__(self, dma: Any) -> None:
        self._dma = dma
        self._active = False
        self.waiting: deque[_Transfer] = deque()

    @property
    def polled(self) -> bool:
        """Whether the channel can say that it is idle: PYNQ's can, a simulated one may not."""
        return hasattr(self._dma, "idle")

    def pump(self) -> None:
        if self._active and self.polled and self._dma.idle:
            self.finish()
        if not self._active and self.waiting:
            self._dma.transfer(self.waiting[0].buffer)
            self._active = True

    def finish(self) -> None:
        """The transfer under way has ended, or ends in the channel's own wait."""
        self._dma.wait()
        self._active = False
        self.waiting.popleft().finish()

    def forget(self) -> bool:
        """Give up everything; whether a transfer was under way."""
        active, self._active = self._active, False
        for transfer in self.waiting:
            transfer.given_up = True
        self.waiting.clear()
        return active
