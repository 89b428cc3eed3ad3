"""The device's counters as one value."""

from __future__ import annotations

from dataclasses import dataclass

from insitu.arch.params import CoreParams


@dataclass(frozen=True, kw_only=True)
class Counters:
    """The device's counters since they were last cleared."""

    cycles: int
    macs: int
    instructions: int
    saturated: int
    stall_in: int
    stall_out: int
    accumulator_overflow: bool

    def busy(self, core: CoreParams) -> float:
        """Share of the array's multiply-accumulate slots that did useful work, 0 to 1."""
        return self.macs / (core.cells * self.cycles) if self.cycles else 0.0
