"""The store's index in memory: which samples there are, by split and class, so that a draw reads only what it gets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .errors import FeedbackError, UnknownSampleError
from .eviction import Eviction, Victims
from .sortedids import SortedIds

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)

HELD_OUT_SHARE = 5
"""Held-out samples are given up first where they are more than one in this many of what the store has room for."""


def check_split(split: str) -> None:
    """Raise `FeedbackError` if there is no such split."""
    if split not in SPLITS:
        raise FeedbackError(f"split is {split!r}; allowed: {SPLITS}")


class SplitIndex:
    """The samples of one split."""

    def __init__(self, eviction: Eviction | None, seed: int) -> None:
        self.ids = SortedIds()
        self.category_of: dict[int, int] = {}
        self.by_class: dict[int, SortedIds] = {}
        self._victims = None if eviction is None else Victims(eviction, seed)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, sample: int, category: int, margin: float) -> None:
        """Enter one sample."""
        self.ids.add(sample)
        self._enter(sample, category)
        if self._victims is not None:
            self._victims.add(sample, category, margin)

    def relabel(self, sample: int, category: int) -> None:
        """Move one sample to another class."""
        if self.category_of[sample] == category:
            return
        self._leave(sample)
        self._enter(sample, category)
        if self._victims is not None:
            self._victims.move(sample, category)

    def pop_victim(self) -> int:
        """Take out the sample the eviction policy gives up first."""
        if self._victims is None:
            raise RuntimeError("an index without an eviction policy has no victims")
        sizes = {category: len(ids) for category, ids in self.by_class.items()}
        sample = self._victims.pop(self.category_of, sizes)
        self.ids.remove(sample)
        self._leave(sample)
        return sample

    def draw(self, n: int, rng: np.random.Generator, *, balanced: bool, newest: int | None) -> NDArray[np.int64]:
        """`n` ids, drawn independently (so with repeats) from the `newest` samples, or all."""
        if not len(self):
            raise UnknownSampleError(f"cannot draw {n} samples from a split that holds 0; allowed: 1 or more")
        first = 0 if newest is None else max(0, len(self) - newest)
        if not balanced:
            return self.ids.take(rng.integers(first, len(self), size=n))
        oldest = int(self.ids.take(np.array([first]))[0])
        categories = sorted(self.by_class)
        starts = np.array([self.by_class[category].rank(oldest) for category in categories])
        sizes = np.array([len(self.by_class[category]) for category in categories])
        present = np.flatnonzero(sizes > starts)
        which = present[rng.integers(len(present), size=n)]
        places = rng.integers(starts[which], sizes[which])
        drawn = np.empty(n, np.int64)
        for k in np.unique(which):
            drawn[which == k] = self.by_class[categories[k]].take(places[which == k])
        return drawn

    def _enter(self, sample: int, category: int) -> None:
        self.category_of[sample] = category
        self.by_class.setdefault(category, SortedIds()).add(sample)

    def _leave(self, sample: int) -> None:
        category = self.category_of.pop(sample)
        members = self.by_class[category]
        members.remove(sample)
        if not len(members):
            del self.by_class[category]


class SampleIndex:
    """Both splits, and the keys of samples evicted lately. `revision` says which state of the database it mirrors.

    Of held-out samples the oldest is given up first, whatever the eviction: they show how a student does now.
    """

    def __init__(
        self,
        rows: Iterable[tuple[int, int, str, float]],
        *,
        eviction: Eviction | None,
        seed: int,
        revision: int,
        retired: dict[bytes, int] | None = None,
    ) -> None:
        held_out: Eviction | None = None if eviction is None else "oldest"
        self.splits: dict[str, SplitIndex] = {
            "train": SplitIndex(eviction, seed),
            "held_out": SplitIndex(held_out, seed),
        }
        self.revision = revision
        self.retired = retired or {}
        self._swept = len(self.retired)
        for sample, category, split, margin in sorted(rows):
            self.splits[split].add(sample, category, margin)

    def __len__(self) -> int:
        return sum(len(split) for split in self.splits.values())

    def find(self, sample: int) -> SplitIndex | None:
        """The split that holds `sample`, if any does."""
        return next((split for split in self.splits.values() if sample in split.category_of), None)

    def evict_down_to(self, capacity: int) -> list[int]:
        """Take out samples until at most `capacity` are left: held-out ones where they exceed their share of it (see
        `HELD_OUT_SHARE`), else training samples. So neither split can starve the other."""
        gone: list[int] = []
        while len(self) > capacity:
            held_out = len(self.splits["held_out"]) > capacity // HELD_OUT_SHARE
            gone.append(self.splits["held_out" if held_out else "train"].pop_victim())
        return gone

    def retire(self, keys: dict[bytes, int], *, forget_up_to: int) -> None:
        """Remember the keys of evicted samples; forget those with ids up to `forget_up_to`."""
        self.retired.update(keys)
        # Sweeping seldom keeps the cost of a batch from growing with what is remembered.
        if len(self.retired) > 2 * self._swept + 1024:
            self.retired = {key: one for key, one in self.retired.items() if one > forget_up_to}
            self._swept = len(self.retired)

    def counts(self, classes: int, split: Split | None) -> NDArray[np.int64]:
        """int64 [classes]: samples of each class in `split`, or in both."""
        counts = np.zeros(classes, np.int64)
        for name in SPLITS if split is None else (split,):
            for category, ids in self.splits[name].by_class.items():
                counts[category] += len(ids)
        return counts
