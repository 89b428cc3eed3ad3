"""Gold questions: samples whose class is known, asked beside each batch to see whether the teacher is to be trusted.

The guard judges by the teacher's labels, so a teacher that lies would have it serve the lie. Questions whose answers
are known from the laboratory tell the two apart, as they do with paid annotators (Snow et al. 2008, "Cheap and fast,
but is it good?"): a batch whose gold answers are worse than an honest teacher's is refused, before any of its labels is
kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insitu.host.errors import HostError
from insitu.models import draws

#: Gold answers that a judgement looks back on.
WINDOW = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Gold:
    """Samples x float32 [n, ...] with their true classes y int64 [n], on which the teacher should be good.

    ask: how many go with each batch. error: of an honest teacher on them, at most. alpha: chance that an honest teacher
    is refused at a batch. Raises HostError for values that are none.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    ask: int = 8
    error: float = 0.1
    alpha: float = 1e-3

    def __post_init__(self) -> None:
        if not 1 <= self.ask <= WINDOW or not len(self.x):
            raise HostError(f"{self.ask} gold questions a batch of {len(self.x)}: allowed are 1 to {WINDOW} of some")
        for name in ("error", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise HostError(f"gold {name} is {getattr(self, name)}: must lie between 0 and 1")

    def rows(self, position: int) -> npt.NDArray[np.int64]:
        """Which samples go with the batch at a position of the stream, int64 [ask]: drawn by it alone."""
        share = draws.uniform(draws.keys(0, [position], "gold"), self.ask)[0]
        return np.asarray((share.astype(np.float64) * len(self.x)).astype(np.int64))

    def right(self, position: int, answers: npt.NDArray[np.float32]) -> list[bool]:
        """Which of a batch's gold questions, their answers float32 [ask, classes], were answered rightly."""
        return [bool(one) for one in answers.argmax(axis=1) == self.y[self.rows(position)]]

    def trusts(self, recent: Sequence[bool]) -> bool:
        """Whether so many right ones among the last WINDOW are what an honest teacher may give: an exact binomial
        test."""
        from scipy.stats import binom  # most of a second to import

        wrong = len(recent) - sum(recent)
        return wrong == 0 or float(binom.sf(wrong - 1, len(recent), self.error)) >= self.alpha
