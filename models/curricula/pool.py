"""Pools: the samples a stage may draw from, with the labels that came with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from insitu.models.errors import InvalidInputError

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Logits = NDArray[np.float32]

UNKNOWN = -1
"""The label of a sample that nobody has labelled."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Samples and their labels as they are given, right or wrong.

    Attributes:
        x: float32 [n, 1, H, W], n at least 1.
        y: int64 [n], each a class or UNKNOWN.
        classes: how many there are.

    Raises:
        InvalidInputError: no samples, arrays that do not belong together, or a label that is no class.
    """

    x: Images
    y: Labels
    classes: int

    def __post_init__(self) -> None:
        if len(self.x) == 0 or self.x.dtype != np.float32 or self.y.shape != (len(self.x),):
            raise InvalidInputError(
                f"pool of {self.x.dtype} {list(self.x.shape)} with labels {list(self.y.shape)}; "
                "expected float32 [n >= 1, ...] and [n]"
            )
        if self.y.min() < UNKNOWN or self.y.max() >= self.classes:
            raise InvalidInputError(
                f"labels span {self.y.min()}..{self.y.max()}; allowed are 0..{self.classes - 1}, or {UNKNOWN}: unknown"
            )

    def __len__(self) -> int:
        return len(self.x)

    def counts(self) -> NDArray[np.int64]:
        """Labelled samples of each class, int64 [classes]."""
        return np.bincount(self.y[self.y != UNKNOWN], minlength=self.classes)

    def select(self, rows: NDArray[np.int64]) -> Pool:
        """The samples at these places, in this order, each as often as it is named."""
        return replace(self, x=self.x[rows], y=self.y[rows])

    @staticmethod
    def joined(pools: Sequence[Pool]) -> Pool:
        """One pool of all samples, in the order of the pools."""
        if len(pools) == 1:
            return pools[0]
        return replace(pools[0], x=np.concatenate([p.x for p in pools]), y=np.concatenate([p.y for p in pools]))


def skewed(y: Labels, classes: int, ratio: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of a set whose classes thin out: class c keeps ratio ** -(c / (classes - 1)) of what the rarest class of `y`
    has, at least one sample (the long tail of Cui et al. 2019, section 5.1). Int64, in a random order.

    Raises:
        InvalidInputError: a ratio below 1, or a class without samples.
    """
    if not 1 <= ratio < np.inf:
        raise InvalidInputError(f"skew {ratio}; allowed are ratios of 1 and above")
    counts = np.bincount(y, minlength=classes)
    if counts.min() == 0:
        raise InvalidInputError(f"skew {ratio}: class {int(counts.argmin())} has no samples to thin out")
    keep = np.maximum(1, counts.min() * ratio ** -(np.arange(classes) / (classes - 1))).astype(int)
    rows = [rng.permutation(np.flatnonzero(y == c))[: keep[c]] for c in range(classes)]
    return rng.permutation(np.concatenate(rows))
