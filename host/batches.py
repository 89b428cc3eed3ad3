"""The mini-batch composer: fresh feedback mixed with samples replayed from the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from insitu.host.store import FeedbackBatch, Split


class BatchError(ValueError):
    """A composer's setting is not allowed, or there is nothing to make a batch of."""


class ReplaySource(Protocol):
    """What the composer needs of a store; `insitu.host.store.FeedbackStore` is one."""

    def counts_by_class(self, split: Split | None = None) -> NDArray[np.int64]:
        """int64 [classes]: samples kept."""
        ...

    def draw(
        self,
        n: int,
        rng: np.random.Generator,
        balanced: bool = True,
        split: Split = "train",
        newest: int | None = None,
    ) -> FeedbackBatch:
        """`n` samples, drawn with replacement."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class MiniBatch:
    """Exactly the composer's `batch` samples: the first `fresh` just arrived, the others were drawn from the store."""

    samples: FeedbackBatch
    fresh: int
    step: int


@dataclass(frozen=True, kw_only=True)
class BatchComposer:
    """Makes mini-batches of exactly `batch` samples, `replay_share` of them (to the nearest sample) from the store.

    A stream that comes in bursts of a class makes a student forget the others; half of each batch from a reservoir,
    balanced over classes (`balanced`), prevents it.

    Training samples only: held-out ones are neither drawn nor taken from what arrives. Every choice is a function of
    (`seed`, step), of what arrived and of what the store holds, so that a run can be replayed.
    """

    batch: int
    seed: int
    replay_share: float = 0.5
    balanced: bool = True

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise BatchError(f"batch is {self.batch}; allowed: 1 or more")
        if not 0 <= self.replay_share <= 1:
            raise BatchError(f"replay_share is {self.replay_share}; allowed: 0..1")
        if self.seed < 0:
            raise BatchError(f"seed is {self.seed}; allowed: 0 or more")

    @property
    def fresh_share(self) -> int:
        """Fresh samples in a batch when enough have arrived."""
        return self.batch - int(np.floor(self.batch * self.replay_share + 0.5))

    def check_fresh(self) -> None:
        """Raise `BatchError` where no fresh sample finds a place in a batch."""
        if self.fresh_share == 0:
            raise BatchError(
                f"batch is {self.batch} and replay_share {self.replay_share}: no fresh sample finds a place; "
                "allowed: a larger batch, or a smaller share"
            )

    def compose(self, store: ReplaySource, step: int, fresh: FeedbackBatch | None = None) -> MiniBatch:
        """One mini-batch of step `step` (0 or more).

        More fresh samples than the share: as many as it takes, drawn without replacement. Fewer: all of them, and the
        store fills the rest. A store still empty: fresh samples fill the rest, each as often as any other to within
        one. Raises `BatchError` if there is neither.
        """
        if step < 0:
            raise BatchError(f"step is {step}; allowed: 0 or more")
        rng = np.random.default_rng((self.seed, step))
        arrived = None if fresh is None else fresh.select(~fresh.held_out)
        count = 0 if arrived is None else len(arrived)
        stored = int(store.counts_by_class("train").sum())
        if count == 0 and stored == 0:
            raise BatchError(f"step {step} has 0 fresh and 0 stored samples; allowed: 1 or more of either")
        taken = min(count, self.fresh_share) if stored else self.batch
        parts = []
        if arrived is not None and taken:
            rounds = -(-taken // count)
            rows = np.concatenate([rng.permutation(count) for _ in range(rounds)])[:taken]
            parts.append(arrived.select(rows))
        if taken < self.batch:
            parts.append(store.draw(self.batch - taken, rng, balanced=self.balanced))
        return MiniBatch(samples=FeedbackBatch.concat(parts), fresh=taken, step=step)

    def epoch(self, store: ReplaySource, first_step: int, fresh: FeedbackBatch) -> Iterator[MiniBatch]:
        """Mini-batches of steps `first_step`, `first_step + 1`, ... that use every fresh training sample once.

        The order is shuffled by (`seed`, `first_step`); the last batch has fewer fresh samples where they do not
        divide. Raises `BatchError` where a batch has no place for them.
        """
        self.check_fresh()
        return self._epoch(store, first_step, fresh.select(~fresh.held_out))

    def _epoch(self, store: ReplaySource, first_step: int, fresh: FeedbackBatch) -> Iterator[MiniBatch]:
        # A stream of its own: the first batch's draws must not follow the shuffle.
        order = np.random.default_rng((self.seed, first_step, 1)).permutation(len(fresh))
        for k, start in enumerate(range(0, len(order), self.fresh_share)):
            yield self.compose(store, first_step + k, fresh.select(order[start : start + self.fresh_share]))
