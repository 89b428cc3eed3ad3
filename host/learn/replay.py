"""A stream met once a pass, each mini-batch partly of samples kept from before, under a byte budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from insitu.host.store.codec import Codec
from insitu.host.store.eviction import Eviction, check_eviction
from insitu.host.store.index import SplitIndex
from insitu.models.curricula.context import Context
from insitu.models.curricula.pool import UNKNOWN, Pool
from insitu.models.errors import InvalidInputError

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """Samples as a scene sends them.

    order: `shuffled`; `sorted` by class; `bursts:N`, N of one class in a row; `late:C`, shuffled, class C in the second
    half alone; `last:C`, class C after all others. Classes are those of the labels given. bytes: of what is kept to be
    replayed, as the feedback store counts them (`Codec.sample_bytes`); 0 keeps nothing. eviction: the store's.
    share: of a mini-batch that is replayed. balanced: replayed samples are drawn evenly over classes.

    Raises InvalidInputError or FeedbackError for values that are none.
    """

    pretext: ClassVar[bool] = False
    order: str = "shuffled"
    bytes: int = 0
    eviction: Eviction = "reservoir"
    share: float = 0.5
    balanced: bool = True

    def __post_init__(self) -> None:
        kind, colon, number = self.order.partition(":")
        plain = kind in ("shuffled", "sorted") and not colon
        numbered = kind in ("bursts", "late", "last") and number.isascii() and number.isdigit()
        if not (plain or (numbered and int(number) >= (kind == "bursts"))):
            raise InvalidInputError(
                f"order {self.order!r}; allowed are shuffled, sorted, bursts:N, late:CLASS and last:CLASS"
            )
        if self.bytes < 0 or not 0 < self.share < 1:
            raise InvalidInputError(
                f"bytes {self.bytes}, share {self.share}; allowed are 0 and above, and numbers between 0 and 1"
            )
        check_eviction(self.eviction)

    def pool(self, context: Context) -> Pool:
        return context.pool

    def steps(self, pool: Pool, batch: int) -> int:
        return -(-len(pool) // self._fresh(batch))

    def batches(self, pool: Pool, context: Context, number: int) -> Iterator[Rows]:
        rng, fresh = context.rng(0, number), self._fresh(context.batch)
        kept = Reserve(pool, self.bytes, self.eviction, seed=int(context.rng(1).integers(1 << 31)))
        order = arranged(pool, self.order, rng)
        for first in range(0, len(order), fresh):
            came = order[first : first + fresh]
            yield np.concatenate([came, kept.draw(context.batch - fresh, rng, self.balanced)])
            margins: npt.NDArray[np.floating[Any]] = np.zeros(len(came))
            if self.eviction == "margin" and self.bytes:
                best = np.sort(context.student(pool.x[came]), axis=1)
                margins = best[:, -1] - best[:, -2]
            for row, margin in zip(came.tolist(), margins.tolist(), strict=True):
                kept.add(row, margin)

    def _fresh(self, batch: int) -> int:
        """Samples of a mini-batch that just came."""
        if not self.bytes:
            return batch
        found = batch - int(np.floor(batch * self.share + 0.5))
        if not 0 < found < batch:
            raise InvalidInputError(f"share {self.share} of mini-batches of {batch}; allowed are some samples of both")
        return found


def arranged(pool: Pool, order: str, rng: np.random.Generator) -> Rows:
    """Places of a pool's samples, int64 [n], each once, in an order of `Stream.order`."""
    rows = rng.permutation(len(pool))
    kind, _, number = order.partition(":")
    if kind == "shuffled":
        return rows
    y = pool.y[rows]
    if kind == "sorted":
        return rows[np.argsort(y, kind="stable")]
    if kind in ("late", "last"):
        late = rows[y == int(number)]
        if not len(late):
            raise InvalidInputError(f"order {order!r}: no sample is of that class")
        others = rows[y != int(number)]
        half = len(rows) // 2 if kind == "late" else len(others)
        return np.concatenate([others[:half], rng.permutation(np.concatenate([others[half:], late]))])
    size = int(number)
    bursts = [
        group[first : first + size]
        for c in np.unique(y)
        for group in [rows[y == c]]
        for first in range(0, len(group), size)
    ]
    return np.concatenate([bursts[i] for i in rng.permutation(len(bursts))])


class Reserve:
    """Places of a pool that are kept, as the feedback store would keep their samples."""

    def __init__(self, pool: Pool, budget: int, eviction: Eviction, seed: int) -> None:
        self._pool = pool
        self.room = budget // Codec(shape=pool.x.shape[1:], classes=pool.classes).sample_bytes  #: samples at most
        self._index = SplitIndex(eviction, seed)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def rows(self) -> list[int]:
        """What is kept, in ascending order."""
        return sorted(self._index.category_of)

    def add(self, row: int, margin: float = 0.0) -> None:
        """Keep a sample; another goes where there is no room, or this one."""
        category = int(self._pool.y[row])
        if category == UNKNOWN:
            raise InvalidInputError("a stream without labels cannot be kept by class; allowed: labels = true")
        if self.room == 0 or row in self._index.category_of:
            return
        self._index.add(row, category, margin)
        if len(self) > self.room:
            self._index.pop_victim()

    def draw(self, count: int, rng: np.random.Generator, balanced: bool) -> Rows:
        """Places of kept samples, int64 [count], drawn with replacement; none where nothing is kept."""
        if not len(self):
            return np.empty(0, np.int64)
        if not balanced:
            return rng.choice(np.array(self.rows), count)
        groups = [ids for _, ids in sorted(self._index.by_class.items())]
        chosen = rng.integers(len(groups), size=count)
        places = rng.random(count)
        return np.concatenate(
            [groups[g].take(np.array([int(p * len(groups[g]))])) for g, p in zip(chosen, places, strict=True)]
        )
