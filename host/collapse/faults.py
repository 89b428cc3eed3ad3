"""What can go wrong while a student learns in its scene: each begins at a sample of the stream and lasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.declaration import Role
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.host.compiler.rate import with_learning_rate
from insitu.host.device.driver import Driver
from insitu.host.device.emulated import EmulatedDevice
from insitu.host.errors import HostError
from insitu.models import draws

Real = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """The learning rate becomes `rate`."""

    rate: float

    def __str__(self) -> str:
        return f"learning rate {self.rate:g}"


@dataclass(frozen=True, kw_only=True)
class Liar:
    """The teacher takes each class for another one, `turn` classes on, and is sure of it; of a share of samples."""

    turn: int
    share: float = 1.0

    def __str__(self) -> str:
        return f"teacher lies by {self.turn} on {self.share:.0%}"

    def lies(self, answers: Real, x: Real) -> Real:
        """What it says instead of answers float32 [n, classes] to x. Which samples it lies about is decided by their
        pixels: asked again it says the same."""
        classes = answers.shape[1]
        seeds = np.rint(x.reshape(len(x), -1) * 255).astype(np.int64) @ np.arange(1, x[0].size + 1)
        lied = draws.uniform(draws.keys(0, seeds, "lie"), 1)[:, 0] < self.share
        sure = np.eye(classes, dtype=np.float32)[(answers.argmax(axis=1) + self.turn) % classes]
        return np.where(lied[:, None], sure, answers)


@dataclass(frozen=True, kw_only=True)
class Bits:
    """A bit of one bank of the weight memory reads as `value` at every address.

    stuck: whatever is written later, as a broken data line has it; else once, until it is written again, as an upset.
    """

    bank: int
    bit: int
    value: int = 1
    stuck: bool = True

    def __str__(self) -> str:
        return f"bit {self.bit} of bank {self.bank} {'stuck' if self.stuck else 'once'} at {self.value}"

    def applied(self, image: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.int64]:
        """The memory int64 [depth, n] of masters of `width` bits as it is with the fault."""
        found = image.copy()
        raw = found[:, self.bank] & ((1 << width) - 1)
        raw = raw | 1 << self.bit if self.value else raw & ~(1 << self.bit)
        found[:, self.bank] = raw - ((raw >> (width - 1)) << width)
        return found


Fault = LearningRate | Liar | Bits


class FaultyDevice(EmulatedDevice):
    """An emulated core whose weight memory can be damaged, between the runs of its programs."""

    def __init__(self, core: CoreParams, **options: Any) -> None:
        super().__init__(core, **options)
        self._fault: Bits | None = None

    def damage(self, fault: Bits) -> None:
        """Have a fault from now on. Raises HostError for a bank or a bit there is not."""
        width = self.core.width(Role.MASTER)
        if not (0 <= fault.bank < self.core.n and 0 <= fault.bit < width):
            raise HostError(f"{fault}: banks go to {self.core.n - 1}, bits to {width - 1}")
        self._apply(fault)
        self._fault = fault if fault.stuck else None

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        self._hold()

    def send(self, buffer: Any) -> Any:
        transfer = super().send(buffer)
        self._hold()
        return transfer

    def _hold(self) -> None:
        # A run that waits for samples has not ended: damage goes in when it has.
        if self._fault is not None and not self.emulator.busy:
            self._apply(self._fault)

    def _apply(self, fault: Bits) -> None:
        image = self.emulator.image(Memory.WGT)
        found = fault.applied(image, self.core.width(Role.MASTER))
        if (found != image).any():
            self.emulator.set_image(Memory.WGT, found)


class Injection:
    """A fault, or none, that strikes a loop: `teach` in place of the teacher, `strike` when its time has come."""

    def __init__(self, fault: Fault | None, teach: Callable[[Real], Real]) -> None:
        self.fault, self.struck = fault, False
        self._honest = teach

    def teach(self, x: Real) -> Real:
        """What the teacher says, or the lie."""
        answers = self._honest(x)
        return self.fault.lies(answers, x) if self.struck and isinstance(self.fault, Liar) else answers

    def strike(self, driver: Driver) -> None:
        """The fault begins."""
        self.struck = True
        if isinstance(self.fault, LearningRate):
            driver.replace_program(with_learning_rate(driver.program, self.fault.rate))
        elif isinstance(self.fault, Bits):
            assert isinstance(driver.device, FaultyDevice)
            driver.device.damage(self.fault)
