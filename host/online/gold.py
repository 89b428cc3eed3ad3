"""Gold questions: samples whose class is known, asked beside each batch to see whether the teacher is to be trusted.

The guard judges by the teacher's labels, so a teacher that lies would have it serve the lie. Questions whose answers
are known from the laboratory tell the two apart, as they do with paid annotators (Snow et al. 2008, "Cheap and fast,
but is it good?"): what comes with gold answers worse than an honest teacher's is refused, before any of it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.host.errors import HostError
from insitu.models import draws
from insitu.models.datasets import Dataset

Images = npt.NDArray[np.float32]

#: Gold answers that a judgement looks back on.
WINDOW = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Gold:
    """Samples x float32 [n, ...] with their true classes y int64 [n], on which the teacher should be good.

    count: how many go with each batch. error: of an honest teacher on them, at most. alpha: chance that an honest
    teacher is refused at a batch. Raises HostError for values that are none.
    """

    x: Images
    y: npt.NDArray[np.int64]
    count: int = 8
    error: float = 0.1
    alpha: float = 1e-3

    def __post_init__(self) -> None:
        check_gold(self.count)
        if not self.count or not len(self.x):
            raise HostError(f"{self.count} gold questions of {len(self.x)} samples: must be at least 1 of 1")
        for name in ("error", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise HostError(f"gold {name} is {getattr(self, name)}: must lie between 0 and 1")

    def ask(
        self, teach: Callable[[Images], npt.NDArray[Any]], x: Images, position: int, recent: list[bool]
    ) -> npt.NDArray[Any] | None:
        """What the teacher says of the batch x float32 [n, ...] at a position of the stream, [n, classes]; None where
        it is not to be believed. recent: whether the last WINDOW gold questions were answered rightly; those asked here
        are added."""
        rows = self.rows(position)
        answers = teach(np.concatenate([x, self.x[rows]]))
        recent.extend((answers[len(x) :].argmax(axis=1) == self.y[rows]).tolist())
        del recent[:-WINDOW]
        return answers[: len(x)] if self.trusts(recent) else None

    def rows(self, position: int) -> npt.NDArray[np.int64]:
        """Which samples go with the batch at a position of the stream, int64 [count]: drawn by it alone."""
        share = draws.uniform(draws.keys(0, [position], "gold"), self.count)[0]
        return np.asarray((share.astype(np.float64) * len(self.x)).astype(np.int64))

    def trusts(self, recent: Sequence[bool]) -> bool:
        """Whether an honest teacher may have answered so: an exact binomial test of how many are right."""
        from scipy.stats import binom  # most of a second to import

        wrong = len(recent) - sum(recent)
        return wrong == 0 or float(binom.sf(wrong - 1, len(recent), self.error)) >= self.alpha

    @classmethod
    def of(cls, dataset: Dataset, count: int) -> Gold | None:
        """Questions of the laboratory's images, `count` with each batch; None where they are to be none."""
        return cls(x=dataset.x_train, y=dataset.y_train, count=count) if count else None


def check_gold(count: int, budget: int | None = None) -> None:
    """Raise HostError for a number of questions that cannot go with a batch, or leave a budget of labels no half."""
    if not 0 <= count <= WINDOW:
        raise HostError(f"gold is {count}: must lie from 0 to {WINDOW}")
    if budget is not None and budget < 2 * count:
        raise HostError(
            f"a budget of {budget} labels and {count} gold questions beside each batch: must be at least {2 * count} "
            "labels, or fewer questions"
        )
