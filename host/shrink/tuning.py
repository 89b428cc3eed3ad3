"""What a store teaches a student that was shrunk, and by how much it agrees with what the store holds out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.host.device.driver import Driver
from insitu.host.errors import HostError
from insitu.host.online.loop import real, targets_of
from insitu.host.store import FeedbackBatch, FeedbackStore, Split


@dataclass(frozen=True, kw_only=True, eq=False)
class Feedback:
    """Stored samples float32 [n, ...], what they teach, float32 [n, classes]: the teacher's distribution, or the true
    class where it is known; and those held out with the class of each, int64 [m]."""

    x: npt.NDArray[np.float32]
    targets: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, store: FeedbackStore, most: int) -> Feedback:
        """The newest samples of a store, at most so many, and all it holds out. Raises HostError where it has none."""
        taught, held = _all(store, "train"), _all(store, "held_out")
        if taught is None:
            raise HostError("the feedback store holds no sample to learn from: go on with the stream first")
        taught = taught.select(np.arange(max(0, len(taught) - most), len(taught)))
        none = np.empty((0, *taught.shape), np.float32)
        return cls(
            x=real(taught),
            targets=targets_of(taught),
            held_out=none if held is None else real(held),
            classes=np.empty(0, np.int64) if held is None else held.target_class,
        )

    def agreement(self, driver: Driver) -> float | None:
        """The share of what is held out that a device answers as it should; None where nothing is."""
        if not len(self.classes):
            return None
        return float((driver.infer(self.held_out).argmax(axis=1) == self.classes).mean())


def _all(store: FeedbackStore, split: Split) -> FeedbackBatch | None:
    pages: list[Any] = list(store.iterate(1024, split=split))
    return FeedbackBatch.concat(pages) if pages else None
