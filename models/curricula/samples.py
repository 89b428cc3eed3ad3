"""Sample policies: which samples of a pool, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from insitu.models.curricula.context import Context, Who
from insitu.models.curricula.numbers import softmax
from insitu.models.curricula.pool import UNKNOWN, Pool
from insitu.models.errors import InvalidInputError

Rows = NDArray[np.int64]


class SamplePolicy(Protocol):
    """Which samples, in which order: a function of the context's seed, the pass, and what students answer.

    pretext: whether its labels are a task of its own, so that a student's outputs mean something else before and after.
    """

    pretext: ClassVar[bool]

    def pool(self, context: Context) -> Pool:
        """The samples that are drawn from, made of the context's pool: some of it, or more than it, as they lie or
        changed. Its classes are those the student is to tell apart."""
        ...

    def steps(self, pool: Pool, batch: int) -> int:
        """Mini-batches of a pass over that pool."""
        ...

    def batches(self, pool: Pool, context: Context, number: int) -> Iterator[Rows]:
        """The mini-batches of a pass, `number` from 0: places in `pool`, at most `context.batch` each."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Every sample once a pass, in a new order each."""

    pretext: ClassVar[bool] = False

    def pool(self, context: Context) -> Pool:
        return context.pool

    def steps(self, pool: Pool, batch: int) -> int:
        return -(-len(pool) // batch)

    def batches(self, pool: Pool, context: Context, number: int) -> Iterator[Rows]:
        order = context.rng(0, number).permutation(len(pool))
        for first in range(0, len(order), context.batch):
            yield order[first : first + context.batch]


@dataclass(frozen=True)
class ClassBalanced(Uniform):
    """As many draws as there are labelled samples, each of a class chosen evenly among those there are, then of its
    samples evenly (Kang et al. 2020, section 4.1)."""

    def batches(self, pool: Pool, context: Context, number: int) -> Iterator[Rows]:
        rng = context.rng(0, number)
        groups = [rows for c in range(pool.classes) if len(rows := np.flatnonzero(pool.y == c))]
        if not groups:
            raise InvalidInputError("class-balanced samples of a pool without labels; allowed: labels = true")
        for first in range(0, len(pool), context.batch):
            size = min(context.batch, len(pool) - first)
            chosen = rng.integers(len(groups), size=size)
            places = rng.random(size)
            yield np.array([groups[g][int(p * len(groups[g]))] for g, p in zip(chosen, places, strict=True)])


@dataclass(frozen=True)
class TopK(Uniform):
    """The K samples likeliest of each class, among those that have it among their P likeliest classes; their label is
    that class (Yalniz et al. 2019, section 3.2). A sample may be several classes' choice.

    k: samples a class. p: classes a sample is considered for. of: whose probabilities, the teacher's or the student's.
    balanced: each class's choice repeated until all have as many as the largest.

    Raises:
        InvalidInputError: k or p below 1, or nobody of that name.
    """

    k: int = 1000
    p: int = 1
    of: Who = "teacher"
    balanced: bool = False

    def __post_init__(self) -> None:
        if self.k < 1 or self.p < 1:
            raise InvalidInputError(f"top-k of k={self.k}, p={self.p}; allowed are whole numbers from 1 up")
        check_who(self.of)

    def pool(self, context: Context) -> Pool:
        probabilities = softmax(context.ask(self.of)(context.pool.x))
        p = min(self.p, probabilities.shape[1])
        likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :p]
        among = np.zeros(probabilities.shape, np.bool_)
        np.put_along_axis(among, likeliest, True, axis=1)
        chosen: list[Rows] = []
        for c in range(probabilities.shape[1]):
            rows = np.flatnonzero(among[:, c])
            chosen.append(rows[np.argsort(-probabilities[rows, c], kind="stable")[: self.k]])
        if self.balanced:
            most = max(map(len, chosen))
            chosen = [np.resize(rows, most) if len(rows) else rows for rows in chosen]
        labels = np.repeat(np.arange(len(chosen)), [len(rows) for rows in chosen])
        return replace(context.pool.select(np.concatenate(chosen)), y=labels)


@dataclass(frozen=True)
class Rotations:
    """Every image turned by 0, 90, 180 and 270 degrees, all four in one mini-batch; the label is the turn, 0 to 3
    (Gidaris et al. 2018, section 2.2: the copies together in the batch learn better)."""

    pretext: ClassVar[bool] = True

    def pool(self, context: Context) -> Pool:
        x = context.pool.x
        if x.shape[-1] != x.shape[-2]:
            raise InvalidInputError(f"rotations of images of {x.shape[-2]} x {x.shape[-1]}; allowed are square ones")
        turned = np.stack([np.rot90(x, k, axes=(2, 3)) for k in range(4)], axis=1)
        return Pool(x=turned.reshape(-1, *x.shape[1:]), y=np.tile(np.arange(4), len(x)), classes=4)

    def steps(self, pool: Pool, batch: int) -> int:
        return -(-(len(pool) // 4) // self._images(batch))

    def batches(self, pool: Pool, context: Context, number: int) -> Iterator[Rows]:
        order, size = context.rng(0, number).permutation(len(pool) // 4), self._images(context.batch)
        for first in range(0, len(order), size):
            yield (4 * order[first : first + size, None] + np.arange(4)).reshape(-1)

    @staticmethod
    def _images(batch: int) -> int:
        if batch < 4:
            raise InvalidInputError(f"rotations in mini-batches of {batch}; allowed are 4 samples and more")
        return batch // 4


def check_who(who: str) -> None:
    """Raise InvalidInputError where nobody of that name labels."""
    if who not in get_args(Who):
        raise InvalidInputError(f"of {who!r}; allowed are {', '.join(get_args(Who))}")


def labelled(pool: Pool, what: str) -> None:
    """Raise InvalidInputError where a pool has samples without a label."""
    unknown = int((pool.y == UNKNOWN).sum())
    if unknown:
        raise InvalidInputError(f"{what} of a pool in which {unknown} of {len(pool)} samples have no label")
