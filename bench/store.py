"""Acknowledged samples a second: batches of 64 samples of 784 bytes, 10 classes, each `append` waited for.

    python bench/store.py [--json] [--batches 400] [--durability power]

One JSON object. `samples_per_second` is without eviction; `with_eviction` has, for each policy, a store that is full
before the clock starts, so that every append evicts as much as it brings.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np

from insitu.host.store import Eviction, FeedbackBatch, FeedbackStore

BATCH, SHAPE, CLASSES, KEPT = 64, (28, 28), 10, 4096


def batches(n: int) -> list[FeedbackBatch]:
    """Made before the clock starts: a client's samples exist when it stores them."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(n):
        x = rng.integers(0, 256, (BATCH, *SHAPE), dtype=np.uint8)
        teacher = rng.dirichlet(np.ones(CLASSES), BATCH)
        logits = rng.integers(-128, 128, (BATCH, CLASSES), dtype=np.int8)
        made.append(FeedbackBatch.of(x, teacher, logits, source="margin", logits_exponent=-4))
    return made


def rate(folder: Path, count: int, durability: Any, eviction: Any = None) -> float:
    """Samples a second over `count` appends to a store of its own."""
    settings: dict[str, Any] = {} if eviction is None else {"eviction": eviction, "byte_budget": KEPT * (784 + 30)}
    warm = KEPT // BATCH if eviction else 8
    work = batches(warm + count)
    path = folder / f"{eviction}.sqlite"
    with FeedbackStore.open(path, shape=SHAPE, classes=CLASSES, durability=durability, **settings) as store:
        for batch in work[:warm]:
            store.append(batch)
        start = time.perf_counter()
        for batch in work[warm:]:
            store.append(batch)
        return count * BATCH / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one line, for programs")
    parser.add_argument("--batches", type=int, default=400)
    parser.add_argument("--durability", choices=("power", "process"), default="power")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "samples_per_second": round(rate(Path(folder), options.batches, options.durability)),
            "durability": options.durability,
            "batch": BATCH,
            "sample_bytes": 784,
            "with_eviction": {
                policy: round(rate(Path(folder), options.batches, options.durability, policy))
                for policy in get_args(Eviction)
            },
        }
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
