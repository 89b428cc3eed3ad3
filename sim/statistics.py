"""What happened to each tensor: saturation, underflow, stalled updates, range. Collected only where asked for."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from insitu.arch.layout import Matrix, Memory


@dataclass
class TensorStatistics:
    """Sums over every time the tensor was written; a weight's are of its gradient and its update.

    elements: written. saturated: fits that changed their value, as SATURATED counts them (gradient and master each).
    underflowed: accumulators not zero that became zero. stalled: masters that an update left as they were though their
    accumulator was not zero. largest: magnitude of the largest accumulator, a real number.
    """

    elements: int = 0
    saturated: int = 0
    underflowed: int = 0
    stalled: int = 0
    largest: float = 0.0

    def to_json(self) -> dict[str, float]:
        """Counts, and the shares of `elements`."""
        total = max(1, self.elements)
        shares = {f"{k}_share": getattr(self, k) / total for k in ("saturated", "underflowed", "stalled")}
        return {**asdict(self), **shares}


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

    def add(
        self,
        matrix: Matrix,
        acc: npt.NDArray[np.int64],
        source: int,
        *,
        saturated: int,
        underflowed: int,
        stalled: int = 0,
    ) -> None:
        """Accumulators [rows, cols] of exponent `source` were written to a matrix."""
        entry = self.of(matrix)
        entry.elements += acc.size
        entry.saturated += saturated
        entry.underflowed += underflowed
        entry.stalled += stalled
        entry.largest = max(entry.largest, float(np.ldexp(float(np.abs(acc).max()), source)))
