"""`FeedbackStore`: teacher-labelled samples in a database, kept once acknowledged."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import rows, schema, writes
from .batch import FeedbackBatch, integers
from .codec import Codec, LogitsEncoding, TeacherEncoding
from .database import Database, Durability
from .errors import FeedbackError
from .eviction import Eviction, check_eviction
from .index import Split, check_split
from .transactions import IndexedDatabase


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a store holds. Bytes are payload: data, teacher and logits of the samples kept, not the database's own."""

    samples: int
    bytes: int
    byte_budget: int | None
    sample_bytes: int
    acknowledged: int
    evicted: int


class FeedbackStore:
    """Teacher-labelled samples of one shape. Made with `FeedbackStore.open`, used as a context manager.

    Safe to share between threads; several processes may open one store, each notices what the others wrote.
    """

    def __init__(self, database: IndexedDatabase, codec: Codec, byte_budget: int | None) -> None:
        self._database, self._codec, self._budget = database, codec, byte_budget

    @classmethod
    def open(
        cls,
        target: str | os.PathLike[str],
        *,
        shape: Sequence[int],
        classes: int,
        byte_budget: int | None = None,
        eviction: Eviction = "reservoir",
        seed: int = 0,
        durability: Durability = "power",
        teacher_encoding: TeacherEncoding = "float16",
        logits_encoding: LogitsEncoding = "int8",
        timeout_s: float = 10.0,
        as_it_is: bool = False,
    ) -> Self:
        """Open the store at `target`, or make it where there is none.

        - `target`: an SQLite file's path, a ``file:`` URI, or a URL ``sqlite:///...`` or ``postgresql://...``.
        - `shape`, `classes`, `seed` and the encodings (see `Codec`) belong to the store: `StoreMismatchError` if they
          are not those it was made with.
        - `byte_budget` (payload bytes, see `Usage`) and `eviction` (see `Victims`) may differ each time; a smaller
          budget evicts at once. Of a full store at most a fifth is held out (`HELD_OUT_SHARE`): what is evicted comes
          from the held-out samples where they are more, else from the others. A reservoir (of each split) whose budget
          was raised, or that began as another policy, is uniform only over what came since.
        - `durability`: what an acknowledged sample survives. ``process``: the death of this process, SIGKILL included,
          at any moment. ``power``: also power loss or a crash of the operating system (of the server, in PostgreSQL),
          at the price of a disk flush per `append`.
        - `timeout_s`: how long to wait for another writer before `StoreError`.
        - `as_it_is`: for who only reads: budget and policy stay what they are.

        Raises `FeedbackError` on a bad argument, `StoreFormatError` on a damaged or foreign database (which is left
        untouched), `StoreError` on any other refusal.
        """
        codec = Codec(
            shape=tuple(integers("shape", shape).tolist()),
            classes=int(integers("classes", classes)),
            teacher=teacher_encoding,
            logits=logits_encoding,
        )
        check_eviction(eviction)
        if byte_budget is not None and integers("byte_budget", byte_budget) < codec.sample_bytes:
            raise FeedbackError(f"byte_budget is {byte_budget}; allowed: {codec.sample_bytes} (one sample) or more")
        if not 0 <= integers("seed", seed) < 1 << 63:
            raise FeedbackError(f"seed is {seed}; allowed: 0..2**63-1")
        database = Database(target, durability=durability, timeout_s=timeout_s)
        queued = None if byte_budget is None else eviction
        store = cls(IndexedDatabase(database, eviction=queued, seed=seed), codec, byte_budget)
        try:
            store._set_up(database, schema.settings(codec, seed), schema.policy(byte_budget, eviction), as_it_is)
        except BaseException:
            store.close()
            raise
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the database go; closing twice is harmless, any other call afterwards is a `StoreError`."""
        self._database.close()

    # -- writing -------------------------------------------------------------------------------------------------

    def append(self, samples: FeedbackBatch) -> list[int]:
        """Store a batch in one transaction and return its ids in order; returning is the acknowledgement.

        Ids count acknowledged samples from 1 and are never used again. A sample whose key is known already (see
        `RETRY_WINDOW`) is not stored again and its old id is returned. Over budget, the eviction policy decides, and it
        may give up samples of this very batch: they are acknowledged, counted, and gone.

        Raises `FeedbackError` if the batch does not fit the store or holds a key twice, `StoreError` if the database
        refuses (full, read-only, locked): then nothing of the batch is kept, and it may be sent again.
        """
        self._codec.check(samples)
        keys = rows.key_bytes(samples.keys)
        if len(set(keys)) < len(keys):
            twice = next(key for place, key in enumerate(keys) if key in keys[:place])
            raise FeedbackError(f"key {twice.hex()} is twice in one batch; allowed: a key a sample")
        with self._database.write("cannot append to") as work:
            known = writes.append(work, samples, keys, self._codec, self._capacity)
        return [known[key] for key in keys]

    def attach_label(self, ids: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
        """Give samples their true class, in one transaction. Returns bool [n]: False where a sample is evicted by now.

        Raises `FeedbackError` on a label outside 0..classes-1, an id that was never given out, and what is no integer.
        """
        wanted, classes = np.atleast_1d(integers("ids", ids)), np.atleast_1d(integers("labels", labels))
        if wanted.shape != classes.shape or wanted.ndim != 1:
            raise FeedbackError(f"{list(wanted.shape)} ids with {list(classes.shape)} labels; allowed: a label an id")
        wrong = (classes < 0) | (classes >= self._codec.classes)
        if wrong.any():
            raise FeedbackError(f"label {classes[wrong.argmax()]}; allowed: 0..{self._codec.classes - 1}")
        with self._database.write("cannot label in") as work:
            return writes.attach_label(work, wanted, classes)

    # -- reading -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.usage().samples

    @property
    def acknowledged_total(self) -> int:
        """Samples ever acknowledged, evicted ones included."""
        return self.usage().acknowledged

    def usage(self) -> Usage:
        """What the store holds now."""
        with self._database.read("cannot read") as work:
            return Usage(
                samples=len(work.index),
                bytes=len(work.index) * self._codec.sample_bytes,
                byte_budget=self._budget,
                sample_bytes=self._codec.sample_bytes,
                acknowledged=work.state.acknowledged,
                evicted=work.state.evicted,
            )

    def counts_by_class(self, split: Split | None = None) -> NDArray[np.int64]:
        """int64 [classes]: samples kept of each class (true label, else the teacher's), in one split or in both."""
        if split is not None:
            check_split(split)
        with self._database.read("cannot read") as work:
            return work.index.counts(self._codec.classes, split)

    def fetch(self, ids: ArrayLike) -> FeedbackBatch:
        """The samples of these ids, in this order, repeats allowed. `UnknownSampleError` if one is not there."""
        wanted = np.atleast_1d(integers("ids", ids)).tolist()
        with self._database.read("cannot read") as work:
            return rows.read(work.connection, wanted, self._codec)

    def draw(
        self,
        n: int,
        rng: np.random.Generator,
        balanced: bool = True,
        split: Split = "train",
        newest: int | None = None,
    ) -> FeedbackBatch:
        """`n` samples drawn independently, so repeats occur; only those are read from the database.

        - `balanced`: each from a class drawn uniformly among those present, then uniformly inside it; otherwise
          uniformly over the split.
        - `newest`: draw from only this many samples of the split, the latest ones.

        The outcome is a function of the state of `rng`, the ids kept and their classes, whether or not the store was
        closed in between. Raises `UnknownSampleError` if the split is empty.
        """
        check_split(split)
        if integers("n", n) < 0 or (newest is not None and newest < 1):
            raise FeedbackError(f"n is {n}, newest is {newest}; allowed: n >= 0, newest >= 1 or None")
        with self._database.read("cannot read") as work:
            drawn = work.index.splits[split].draw(n, rng, balanced=balanced, newest=newest)
            return rows.read(work.connection, drawn.tolist(), self._codec)

    def iterate(self, batch: int, split: Split | None = None) -> Iterator[FeedbackBatch]:
        """Everything kept, in order of id, up to `batch` samples at a time. Writing meanwhile is allowed."""
        if integers("batch", batch) < 1:
            raise FeedbackError(f"batch is {batch}; allowed: 1 or more")
        if split is not None:
            check_split(split)
        return self._pages(batch, split)

    def check(self) -> None:
        """Read the whole database and raise `StoreFormatError` if it is damaged or its counters disagree with it."""
        with self._database.read("cannot check") as work:
            rows.check(work.connection, self._database.database.name)

    # -- inside --------------------------------------------------------------------------------------------------

    def _pages(self, batch: int, split: Split | None) -> Iterator[FeedbackBatch]:
        last = 0
        while True:
            with self._database.read("cannot read") as work:
                page = rows.page(work.connection, last, batch, split, self._codec)
            if not len(page):
                return
            yield page
            last = int(page.ids[-1])

    @property
    def _capacity(self) -> int | None:
        return None if self._budget is None else self._budget // self._codec.sample_bytes

    def _set_up(self, database: Database, fixed: dict[str, str], chosen: dict[str, str], as_it_is: bool) -> None:
        with database.read("cannot open") as connection:
            made = schema.is_made(connection, database.name)
        if not made:
            with database.write("cannot make") as connection:
                # Another process may have been quicker.
                if not schema.is_made(connection, database.name):
                    schema.make(connection, {**fixed, **chosen})
        with database.read("cannot open") as connection:
            schema.check_settings(connection, database.name, fixed)
            same = as_it_is or schema.has(connection, chosen)
        database.use_wal()
        if not same:
            with self._database.write("cannot open") as work:
                schema.set_policy(work.connection, chosen)
                writes.evict(work, self._capacity, {})
