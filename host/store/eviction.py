"""Who goes first when the byte budget is full."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Literal, get_args

from .errors import FeedbackError

Eviction = Literal["reservoir", "class_balanced", "oldest", "margin"]

_MASK = (1 << 64) - 1


def priority(seed: int, ordinal: int) -> int:
    """A 64-bit number that is a function of the two alone (splitmix64's finaliser), even over all ordinals."""
    z = (seed * 0xD1342543DE82EF95 + (ordinal + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def check_eviction(eviction: str) -> None:
    """Raise `FeedbackError` if there is no such policy."""
    if eviction not in get_args(Eviction):
        raise FeedbackError(f"eviction is {eviction!r}; allowed: {get_args(Eviction)}")


class Victims:
    """The queue of samples to evict, worst first. Ties go to the sample that came first.

    - ``reservoir``: lowest `priority` first. Keeping the k highest of priorities drawn once a sample is a uniform
      sample without replacement of everything ever acknowledged, as algorithm R keeps, but needs no slots or state.
    - ``oldest``: first come, first gone.
    - ``margin``: the sample with the largest gap between the student's two best logits.
    - ``class_balanced``: from the class with most samples (the lower class at a tie), lowest `priority` first.

    Entries are not withdrawn when a label moves a sample to another class: `pop` skips those that no longer hold.
    """

    def __init__(self, eviction: Eviction, seed: int) -> None:
        self._eviction, self._seed = eviction, seed
        self._heaps: dict[int, list[tuple[float, int]]] = {}

    def add(self, sample: int, category: int, margin: float) -> None:
        """Queue a new `sample`."""
        key: float
        if self._eviction == "oldest":
            key = sample
        elif self._eviction == "margin":
            key = -margin
        else:
            key = priority(self._seed, sample)
        group = category if self._eviction == "class_balanced" else 0
        heappush(self._heaps.setdefault(group, []), (key, sample))

    def move(self, sample: int, category: int) -> None:
        """Tell that `sample` now belongs to another class."""
        if self._eviction == "class_balanced":
            self.add(sample, category, 0.0)

    def pop(self, category_of: dict[int, int], sizes: dict[int, int]) -> int:
        """Take out the sample to evict, given each sample's class and each class's size (one or more samples)."""
        group = 0
        if self._eviction == "class_balanced":
            group = min(sizes, key=lambda category: (-sizes[category], category))
        heap = self._heaps[group]
        while True:
            _, sample = heappop(heap)
            category = category_of.get(sample)
            if category is not None and (self._eviction != "class_balanced" or category == group):
                return sample
