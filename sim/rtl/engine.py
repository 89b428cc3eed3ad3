"""What an RTL engine is: a core's AXI ports, its clock, and the words of its memories."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.arch.registers import REGISTERS
from insitu.sim.rtl.errors import BusError

Beats = npt.NDArray[np.signedinteger[Any]]
#: Cycles an AXI access may take.
ACCESS_LIMIT = 10_000
#: Cycles that reset is held.
RESET_CYCLES = 4


class Until(IntFlag):
    """What `run` waits for; several at once wait for all."""

    IDLE = 1  #: STATUS.busy is clear
    SENT = 2  #: every pushed beat was taken
    RECEIVED = 4  #: every accepted beat has come


class Engine(Protocol):
    """A core under simulation. Registers are reached by AXI4-Lite handshakes, beats by AXI4-Stream ones.

    The clock stands still between calls. cycles: how often it has ticked.
    """

    core: CoreParams

    @property
    def cycles(self) -> int: ...

    @property
    def moved(self) -> int:
        """Beats that went in or out so far."""

    @property
    def sending(self) -> int:
        """Pushed beats not yet taken."""

    @property
    def room(self) -> int:
        """Accepted beats that have not come."""

    @property
    def received(self) -> int:
        """Beats that came and were not pulled."""

    def reset(self, cycles: int = RESET_CYCLES) -> None:
        """Hold reset, then release it; drops beats under way in both directions."""

    def read(self, offset: int) -> int:
        """A register. Raises BusError where the core refuses or does not answer."""

    def write(self, offset: int, value: int, strobe: int = 0xF) -> None:
        """Write a register's bytes that `strobe` names. Raises BusError likewise."""

    def push(self, beats: npt.NDArray[np.integer[Any]]) -> None:
        """Queue beats [count, n] for the core's input stream."""

    def accept(self, count: int) -> None:
        """Be ready to take `count` more beats; without it, the core's output waits."""

    def pull(self, count: int) -> Beats:
        """Up to `count` beats that have come, [count, n]."""

    def drop(self) -> None:
        """Give up what is under way on both streams, as a DMA's reset does, and take what the core still shows."""

    def run(self, until: Until, limit: int) -> bool:
        """Tick until all of `until` holds, or about `limit` cycles; whether it holds."""

    def stall(self, seed: int, *, send: float = 0.0, receive: float = 0.0, bus: float = 0.0) -> None:
        """Make this side of each interface wait at random, with these probabilities a cycle."""

    def name_operands(self, names: Mapping[int, str]) -> None:
        """What waveforms call the operands at places (arch.place); without waveforms it does nothing."""

    def image(self, memory: Memory) -> npt.NDArray[np.int64]:
        """A memory's words, int64 [depth, n]. Costs no cycles."""

    def set_image(self, memory: Memory, values: npt.NDArray[np.integer[Any]]) -> None:
        """Fill a memory from an image [depth, n]. Costs no cycles."""

    def close(self) -> None:
        """End the simulation; closing twice is harmless."""


def refused(action: str, offset: int) -> BusError:
    return BusError(f"{action} of {offset:#x}: the core refuses it (no such register, or part of one)")


def no_answer(action: str, offset: int) -> BusError:
    return BusError(f"{action} of {offset:#x}: no answer in {ACCESS_LIMIT} cycles")


STATUS = REGISTERS["STATUS"].offset
