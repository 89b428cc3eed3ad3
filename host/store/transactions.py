"""Transactions over the database and its index in memory together: both change, or neither."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock

from sqlalchemy import Connection

from . import rows, schema
from .database import Database
from .errors import StoreError
from .eviction import Eviction
from .index import SampleIndex
from .schema import State


@dataclass
class Transaction:
    """What the body of a transaction works with; it raises the counts itself."""

    connection: Connection
    index: SampleIndex
    state: State
    acknowledged: int = 0
    evicted: int = 0


class IndexedDatabase:
    """A `Database` whose index is loaded on first use, and again after another process wrote or a write failed."""

    def __init__(self, database: Database, *, eviction: Eviction | None, seed: int) -> None:
        self.database = database
        self._eviction, self._seed = eviction, seed
        self._index: SampleIndex | None = None
        self._lock = RLock()
        self._closed = False

    @contextmanager
    def write(self, doing: str) -> Iterator[Transaction]:
        """Commit what the body did and the new counters; on any exception, nothing."""
        with self._lock:
            self._refuse_closed()
            try:
                with self.database.write(doing) as connection:
                    state = schema.read_state(connection, lock=True)
                    work = Transaction(connection, self._current(connection, state), state)
                    yield work
                    schema.write_state(
                        connection,
                        State(
                            acknowledged=state.acknowledged + work.acknowledged,
                            evicted=state.evicted + work.evicted,
                            revision=state.revision + 1,
                        ),
                    )
                work.index.revision = state.revision + 1
            except BaseException:
                self._index = None
                raise

    @contextmanager
    def read(self, doing: str) -> Iterator[Transaction]:
        """One consistent view of the database and an index that fits it."""
        with self._lock:
            self._refuse_closed()
            with self.database.read(doing) as connection:
                state = schema.read_state(connection)
                yield Transaction(connection, self._current(connection, state), state)

    def close(self) -> None:
        """Let the database go; closing twice is harmless."""
        with self._lock:
            self._closed, self._index = True, None
            self.database.close()

    def _current(self, connection: Connection, state: State) -> SampleIndex:
        if self._index is None or self._index.revision != state.revision:
            self._index = SampleIndex(
                rows.index_rows(connection),
                eviction=self._eviction,
                seed=self._seed,
                revision=state.revision,
                retired=rows.retired_keys(connection),
            )
        return self._index

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreError(f"{self.database.name} is closed")
