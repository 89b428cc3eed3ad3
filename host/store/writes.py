"""What an append or a label does to the database and to the index, inside one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from . import rows
from .batch import FeedbackBatch
from .codec import Codec
from .errors import FeedbackError
from .transactions import Transaction

RETRY_WINDOW = 16_384
"""An `append` may be repeated under its keys while its samples are kept, and at least until this many more samples
have been acknowledged."""


def append(
    work: Transaction, samples: FeedbackBatch, keys: Sequence[bytes], codec: Codec, capacity: int | None
) -> dict[bytes, int]:
    """Store the samples whose keys are new and make room; returns the id of every key."""
    known = {key: work.index.retired[key] for key in keys if key in work.index.retired}
    known.update(rows.known_keys(work.connection, keys))
    fresh = [place for place, key in enumerate(keys) if key not in known]
    ids = [work.state.acknowledged + k for k in range(1, len(fresh) + 1)]
    packed = rows.pack(samples.select(fresh), ids, codec)
    for row in packed:
        work.index.splits[row["split"]].add(row["id"], row["target_class"], row["margin"])
    work.acknowledged = len(packed)
    gone = evict(work, capacity, {row["id"]: row["key"] for row in packed})
    rows.write(work.connection, [row for row in packed if row["id"] not in gone])
    known.update((row["key"], row["id"]) for row in packed)
    return known


def evict(work: Transaction, capacity: int | None, arriving: Mapping[int, bytes]) -> set[int]:
    """Make room and return who went. `arriving` (id to key) are in the index already but not yet in the database."""
    if capacity is None:
        return set()
    gone = work.index.evict_down_to(capacity)
    work.evicted = len(gone)
    cut = work.state.acknowledged + work.acknowledged - RETRY_WINDOW
    stored = [one for one in gone if one not in arriving]
    keys = rows.keys_of(work.connection, [one for one in stored if one > cut])
    keys.update((arriving[one], one) for one in gone if one in arriving and one > cut)
    rows.remove(work.connection, stored)
    rows.retire(work.connection, keys, forget_up_to=cut)
    work.index.retire(keys, forget_up_to=cut)
    return set(gone)


def attach_label(work: Transaction, ids: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Label the samples that are still there; returns which were."""
    wrong = (ids < 1) | (ids > work.state.acknowledged)
    if wrong.any():
        raise FeedbackError(f"sample {ids[wrong.argmax()]}; allowed: 1..{work.state.acknowledged}")
    places = [work.index.find(one) for one in ids.tolist()]
    triples = list(zip(places, ids.tolist(), classes.tolist(), strict=True))
    rows.label(work.connection, [(one, category) for split, one, category in triples if split is not None])
    for split, one, category in triples:
        if split is not None:
            split.relabel(one, category)
    return np.array([split is not None for split in places], np.bool_)
