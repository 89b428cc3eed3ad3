"""Samples to rows of the tables and back. Every function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BindParameter, Connection, bindparam, delete, insert, literal, select, update

from .batch import KEY_BYTES, NO_LABEL, FeedbackBatch
from .codec import Codec
from .errors import StoreFormatError, UnknownSampleError
from .index import Split
from .schema import read_state, retired, sample

# Databases bound how many values one statement may carry.
_AT_ONCE = 500

_AMONG: BindParameter[Any] = bindparam("among", expanding=True)
_BY_ID = select(sample).where(sample.c.id.in_(_AMONG))
_KNOWN = select(sample.c.key, sample.c.id).where(sample.c.key.in_(_AMONG))
_LABEL = update(sample).where(sample.c.id == bindparam("which"))
_LABEL = _LABEL.values(label=bindparam("to"), target_class=bindparam("to"))
_INDEX = select(sample.c.id, sample.c.target_class, sample.c.split, sample.c.margin)
_KEYS = select(sample.c.key, sample.c.id).where(sample.c.id.in_(_AMONG))
_RETIRED = select(retired.c.key, retired.c.id)
_REMOVE = delete(sample).where(sample.c.id.in_(_AMONG))
_FORGET = delete(retired).where(retired.c.id <= bindparam("cut"))
_PAGE = select(sample).where(sample.c.id > bindparam("after")).order_by(sample.c.id).limit(bindparam("at_most"))


def key_bytes(keys: NDArray[np.uint8]) -> list[bytes]:
    """uint8 [n, 16] as n byte strings."""
    raw = keys.tobytes()
    return [raw[k : k + KEY_BYTES] for k in range(0, len(raw), KEY_BYTES)]


def known_keys(connection: Connection, keys: Sequence[bytes]) -> dict[bytes, int]:
    """The ids of those keys that are stored."""
    known: dict[bytes, int] = {}
    for part in _parts(keys):
        known.update((bytes(key), int(one)) for key, one in connection.execute(_KNOWN, {"among": part}))
    return known


def pack(batch: FeedbackBatch, ids: Sequence[int], codec: Codec) -> list[dict[str, Any]]:
    """The rows of `sample` that hold `batch` under `ids`."""
    teacher = codec.pack_teacher(batch.teacher)
    # The class is taken from what is stored: packing may make two probabilities equal.
    classes = np.where(batch.labels >= 0, batch.labels, codec.unpack_teacher(teacher).argmax(axis=1))
    columns = {
        "id": ids,
        "key": key_bytes(batch.keys),
        "split": ["held_out" if held else "train" for held in batch.held_out.tolist()],
        "target_class": classes.tolist(),
        "label": [None if label == NO_LABEL else label for label in batch.labels.tolist()],
        "margin": batch.margin.tolist(),
        "source": batch.source.tolist(),
        "time": batch.time.tolist(),
        "logits_exponent": batch.logits_exponent.tolist(),
        "teacher": teacher,
        "logits": codec.pack_logits(batch.student_logits),
        "data": codec.pack_data(batch.x),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def unpack(found: Sequence[Any], codec: Codec) -> FeedbackBatch:
    """Rows of `sample` as a batch."""
    return FeedbackBatch(
        x=codec.unpack_data([row.data for row in found]),
        teacher=codec.unpack_teacher([row.teacher for row in found]),
        student_logits=codec.unpack_logits([row.logits for row in found]),
        logits_exponent=np.array([row.logits_exponent for row in found], np.int64),
        labels=np.array([NO_LABEL if row.label is None else row.label for row in found], np.int64),
        held_out=np.array([row.split == "held_out" for row in found], np.bool_),
        source=np.array([row.source for row in found], np.str_),
        time=np.array([row.time for row in found], np.float64),
        keys=np.frombuffer(b"".join(row.key for row in found), np.uint8).reshape(-1, KEY_BYTES),
        ids=np.array([row.id for row in found], np.int64),
    )


def read(connection: Connection, ids: Sequence[int], codec: Codec) -> FeedbackBatch:
    """The samples of `ids`, in that order, repeats allowed; `UnknownSampleError` if one is missing."""
    found: dict[int, Any] = {}
    for part in _parts(list(dict.fromkeys(ids))):
        found.update((row.id, row) for row in connection.execute(_BY_ID, {"among": part}))
    missing = next((one for one in ids if one not in found), None)
    if missing is not None:
        raise UnknownSampleError(f"sample {missing} is not in the store: evicted, or never stored")
    return unpack([found[one] for one in ids], codec)


def page(connection: Connection, after: int, at_most: int, split: Split | None, codec: Codec) -> FeedbackBatch:
    """The first `at_most` samples with ids above `after`."""
    query = _PAGE if split is None else _PAGE.where(sample.c.split == literal(split))
    return unpack(connection.execute(query, {"after": after, "at_most": at_most}).all(), codec)


def index_rows(connection: Connection) -> Iterable[tuple[int, int, str, float]]:
    """(id, class, split, margin) of every sample, in no order: asking for one would read the samples themselves."""
    return [tuple(row) for row in connection.execute(_INDEX)]


def write(connection: Connection, packed: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows as `pack` makes them."""
    if packed:
        connection.execute(insert(sample), packed)


def label(connection: Connection, pairs: Sequence[tuple[int, int]]) -> None:
    """Write (id, class) pairs."""
    if pairs:
        connection.execute(_LABEL, [{"which": one, "to": category} for one, category in pairs])


def remove(connection: Connection, ids: Sequence[int]) -> None:
    """Delete samples."""
    for part in _parts(ids):
        connection.execute(_REMOVE, {"among": part})


def keys_of(connection: Connection, ids: Sequence[int]) -> dict[bytes, int]:
    """The keys of samples, with their ids."""
    keys: dict[bytes, int] = {}
    for part in _parts(ids):
        keys.update((bytes(key), int(one)) for key, one in connection.execute(_KEYS, {"among": part}))
    return keys


def retire(connection: Connection, keys: Mapping[bytes, int], *, forget_up_to: int) -> None:
    """Remember the keys of evicted samples; forget those with ids up to `forget_up_to`."""
    if keys:
        connection.execute(insert(retired), [{"id": one, "key": key} for key, one in keys.items()])
    connection.execute(_FORGET, {"cut": forget_up_to})


def retired_keys(connection: Connection) -> dict[bytes, int]:
    """The keys of evicted samples that are remembered, with their ids."""
    return {bytes(key): int(one) for key, one in connection.execute(_RETIRED)}


def check(connection: Connection, name: str) -> None:
    """Raise `StoreFormatError` if the database says that it is damaged, or holds what its counters do not say."""
    if connection.dialect.name == "sqlite":
        verdict = str(connection.exec_driver_sql("PRAGMA integrity_check").scalar())
        if verdict != "ok":
            raise StoreFormatError(f"{name} is damaged: {verdict.splitlines()[0]}")
    state = read_state(connection)
    ids = [row[0] for row in index_rows(connection)]
    if len(ids) != state.acknowledged - state.evicted or max(ids, default=0) > state.acknowledged:
        raise StoreFormatError(
            f"{name} holds {len(ids)} samples up to id {max(ids, default=0)}, "
            f"but counts {state.acknowledged} acknowledged and {state.evicted} evicted"
        )


def _parts(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))
