"""What happened to each tensor: saturation, underflow, stalled updates, range. Collected only where asked for."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from insitu.arch.isa import Instruction
from insitu.arch.layout import Matrix, Memory


@dataclass
class TensorStatistics:
    """Sums over every time the tensor was written.

    elements: written. saturated: outside the format before they were fitted. underflowed: not zero before rounding,
    zero after. stalled: masters whose accumulator was not zero, yet which an update left as they were.
    largest: magnitude of the largest accumulator; range_bits: the bits it takes, sign included.
    """

    elements: int = 0
    saturated: int = 0
    underflowed: int = 0
    stalled: int = 0
    largest: int = 0

    @property
    def range_bits(self) -> int:
        return self.largest.bit_length() + 1

    def to_json(self) -> dict[str, float]:
        """Counts, and the shares of `elements`."""
        total = max(1, self.elements)
        shares = {f"{k}_share": getattr(self, k) / total for k in ("saturated", "underflowed", "stalled")}
        return {**asdict(self), "range_bits": self.range_bits, **shares}


class Statistics:
    """Statistics by the place a tensor has: (memory, base)."""

    def __init__(self) -> None:
        self.tensors: dict[tuple[Memory, int], TensorStatistics] = defaultdict(TensorStatistics)

    def of(self, matrix: Matrix) -> TensorStatistics:
        """The statistics of the tensor at a matrix's place (a new one where nothing was written there)."""
        return self.tensors[matrix.memory, matrix.base]

    def clear(self) -> None:
        """Start again from nothing."""
        self.tensors.clear()

    def narrowed(
        self, instruction: Instruction, acc: npt.NDArray[np.int64], q: npt.NDArray[np.int16], shift: int
    ) -> None:
        """Accumulators [rows, cols] became q [rows, cols]."""
        entry = self.of(instruction.d)
        self._range(entry, acc, instruction.width, shift)
        entry.underflowed += int(np.count_nonzero((q == 0) & (acc != 0)))

    def updated(
        self,
        instruction: Instruction,
        acc: npt.NDArray[np.int64],
        before: npt.NDArray[np.int32],
        after: npt.NDArray[np.int32],
        shift: int,
    ) -> None:
        """Gradient accumulators [rows, cols] moved the masters from `before` to `after`."""
        entry = self.of(instruction.d)
        self._range(entry, acc, instruction.width, shift)
        entry.stalled += int(np.count_nonzero((acc != 0) & (before == after)))

    def _range(self, entry: TensorStatistics, acc: npt.NDArray[np.int64], width: int, shift: int) -> None:
        entry.elements += acc.size
        entry.largest = max(entry.largest, int(np.abs(acc).max()))
        half = 1 << (width - 1)
        scaled = acc << -shift if shift < 0 else acc
        right = max(0, shift)
        entry.saturated += int(np.count_nonzero((scaled >= half << right) | (scaled < -half << right)))
