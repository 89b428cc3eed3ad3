"""What a device of a fleet keeps: feedback in this process, under the feedback store's rules."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from insitu.host.errors import HostError
from insitu.host.store import Eviction, FeedbackBatch, Split
from insitu.host.store.codec import Codec
from insitu.host.store.index import SampleIndex


class Memory:
    """Feedback of one device: a `Feedback` for its loop, that travels with it from one process to another.

    Counts bytes, evicts and draws as the feedback store does, and lasts as long as the process: a fleet of hundreds
    needs no database each. Keys are those of a stream that only goes forward: none comes twice. Raises HostError where
    byte_budget has no room for a sample.
    """

    def __init__(self, codec: Codec, *, byte_budget: int, eviction: Eviction = "reservoir", seed: int = 0) -> None:
        self._room = byte_budget // codec.sample_bytes
        if self._room < 1:
            raise HostError(f"a memory of {byte_budget} bytes: must be at least {codec.sample_bytes}, one sample")
        self._classes, self._sample_bytes = codec.classes, codec.sample_bytes
        self._index = SampleIndex((), eviction=eviction, seed=seed, revision=0)
        self._kept: FeedbackBatch | None = None  # by ascending id
        self._last = 0

    def __len__(self) -> int:
        return len(self._index)

    @property
    def bytes(self) -> int:
        """Payload kept, at most the budget."""
        return len(self) * self._sample_bytes

    def append(self, samples: FeedbackBatch) -> list[int]:
        """Keep samples; of a full memory the eviction policy decides. Their ids, from 1."""
        ids = np.arange(self._last + 1, self._last + 1 + len(samples))
        self._last += len(samples)
        fresh = samples.select(np.arange(len(samples)))
        fresh.ids[:] = ids
        rows = zip(ids.tolist(), samples.target_class.tolist(), samples.held_out, samples.margin.tolist(), strict=True)
        for sample, category, held_out, margin in rows:
            self._index.splits["held_out" if held_out else "train"].add(sample, category, margin)
        kept = fresh if self._kept is None else FeedbackBatch.concat([self._kept, fresh])
        gone = self._index.evict_down_to(self._room)
        self._kept = kept.select(~np.isin(kept.ids, gone)) if gone else kept
        return [int(sample) for sample in ids]

    def attach_label(self, ids: npt.ArrayLike, labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Give samples their true class; bool [n]: False where one is evicted by now."""
        found = []
        for sample, label in zip(np.asarray(ids).tolist(), np.asarray(labels).tolist(), strict=True):
            split = self._index.find(sample)
            found.append(split is not None)
            if split is not None and self._kept is not None:
                split.relabel(sample, label)
                self._kept.labels[np.searchsorted(self._kept.ids, sample)] = label
        return np.array(found, np.bool_)

    def counts_by_class(self, split: Split | None = None) -> npt.NDArray[np.int64]:
        """int64 [classes]: samples kept."""
        return self._index.counts(self._classes, split)

    def draw(
        self,
        n: int,
        rng: np.random.Generator,
        balanced: bool = True,
        split: Split = "train",
        newest: int | None = None,
    ) -> FeedbackBatch:
        """`n` samples, drawn with replacement. Raises UnknownSampleError where none is kept."""
        drawn = self._index.splits[split].draw(n, rng, balanced=balanced, newest=newest)
        assert self._kept is not None
        return self._kept.select(np.searchsorted(self._kept.ids, drawn))

    def iterate(self, batch: int, split: Split | None = None) -> Iterator[FeedbackBatch]:
        """Everything kept, in order of id, up to `batch` samples at a time."""
        if self._kept is None:
            return
        kept = self._kept if split is None else self._kept.select(self._kept.held_out == (split == "held_out"))
        for first in range(0, len(kept), batch):
            yield kept.select(np.arange(first, min(first + batch, len(kept))))
