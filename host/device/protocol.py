"""What a backend is: registers at offsets, buffers, transfers. Its shape follows PYNQ's MMIO, allocate and DMA."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from insitu.arch.params import CoreParams

#: Beats of a stream: [count, n], a signed integer of `lane_bits` a lane.
Buffer = npt.NDArray[np.signedinteger[Any]]


class Transfer(Protocol):
    """A transfer under way."""

    def wait(self, timeout: float) -> None:
        """Return when it has ended. Raises DeviceTimeout after `timeout` seconds."""


class Device(Protocol):
    """A core with a host interface. A buffer belongs to the device until its transfer has ended."""

    core: CoreParams
    #: Whether it takes exponents from a pass's own range, in two passes.
    exact_exponents: bool

    def read(self, offset: int) -> int:
        """The 32-bit register at a byte offset."""

    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at a byte offset."""

    def allocate(self, beats: int) -> Buffer:
        """A buffer of `beats` beats that both sides reach."""

    def send(self, buffer: Buffer) -> Transfer:
        """Begin to send a buffer into the core's stream, after those still being sent: sends queue up."""

    def receive(self, buffer: Buffer) -> Transfer:
        """Begin to fill a buffer from the core's stream, after those still being filled."""

    def wait_done(self, timeout: float) -> None:
        """Return when STATUS.busy is clear. Raises DeviceTimeout after `timeout` seconds."""

    def close(self) -> None:
        """Give the device back. Closing twice is harmless."""


@cache
def lane_dtype(core: CoreParams) -> np.dtype[np.signedinteger[Any]]:
    """The integer that a lane of a core's streams is."""
    return np.dtype(f"int{core.lane_bits}")
