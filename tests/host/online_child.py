"""One run of the online-fix loop over what the parent prepared, telling what it does a line at a time.

    python online_child.py FOLDER SAMPLES

A line comes when its deed is done: `ack KEY ...` when the store has acknowledged, `step` for a training step, `saved`
for a checkpoint, `end SAMPLES` when the run has ended. No torch in here: the start must be cheap.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.program import Program
from insitu.host.device import Driver, open_device
from insitu.host.device.snapshot import Snapshot
from insitu.host.online.checkpoint import canonical
from insitu.host.online.guard import GuardPolicy
from insitu.host.online.loop import OnlineLoop
from insitu.host.online.policy import OnlinePolicy
from insitu.host.store import FeedbackBatch, FeedbackStore

SEED = 11
IDENTITY = canonical({"seed": SEED})


def tell(line: str) -> None:
    os.write(1, line.encode() + b"\n")


class TellingStore:
    """A store that tells what it has acknowledged."""

    def __init__(self, store: FeedbackStore) -> None:
        self._store = store

    def append(self, samples: FeedbackBatch) -> list[int]:
        ids = self._store.append(samples)
        tell("ack " + " ".join(key.tobytes().hex() for key in samples.keys))
        return ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class TellingDriver(Driver):
    """A driver that tells of its training steps."""

    def train(self, x: Any, targets: Any) -> Any:
        logits = super().train(x, targets)
        tell("step")
        return logits


class Recorded:
    """Stream and teacher out of arrays, both by position."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self._x, self._y, self._soft = (file[name] for name in ("x", "y", "soft"))
        self._place = {one.tobytes(): at for at, one in enumerate(self._x)}

    def stream(self, first: int, count: int) -> tuple[Any, Any]:
        return self._x[first : first + count], self._y[first : first + count]

    def pictured(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        return positions.astype(np.uint64)

    def teach(self, x: npt.NDArray[np.float32]) -> Any:
        return self._soft[[self._place[one.tobytes()] for one in x]]


def main(folder: Path, samples: int) -> None:
    program = Program.load(folder / "student.insitu")
    start, _ = Snapshot.load(folder / "start.npz", program)
    recorded = Recorded(folder / "scene.npz")
    with (
        open_device(program.core) as opened,
        FeedbackStore.open(folder / "feedback.db", shape=(1, 8, 8), classes=10, durability="process") as store,
    ):
        driver = TellingDriver(opened.device)
        driver.load(program)
        driver.restore(start)
        loop = OnlineLoop(
            driver,
            recorded,
            recorded.teach,
            TellingStore(store),  # type: ignore[arg-type]
            policy=OnlinePolicy(samples=samples, chunk=8, rehearsals=2, guard=GuardPolicy(every=8)),
            seed=SEED,
            identity=IDENTITY,
            folder=folder,
        )
        progress = loop.run(lambda _chunk: tell("saved"))
        tell(f"end {progress.samples}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
