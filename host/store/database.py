"""One connection to SQLite or PostgreSQL: how it is opened, what a transaction is, how errors come out."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from .errors import FeedbackError, StoreError, StoreFormatError

Durability = Literal["power", "process"]

_SYNCHRONOUS = {"power": ("FULL", "on"), "process": ("NORMAL", "off")}
_DAMAGED = ("not a database", "malformed", "unsupported file format")


class Database:
    """A database with one pooled connection, not shared between threads at a time (the store holds a lock)."""

    def __init__(self, target: str | os.PathLike[str], *, durability: Durability, timeout_s: float) -> None:
        if durability not in get_args(Durability):
            raise FeedbackError(f"durability is {durability!r}; allowed: {get_args(Durability)}")
        if not 0 <= timeout_s <= 3600:
            raise FeedbackError(f"timeout_s is {timeout_s}; allowed: 0..3600 seconds")
        url = _url(target)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.name = store_name(target)
        arguments: dict[str, Any] = {"timeout": timeout_s, "check_same_thread": False, "isolation_level": None}
        try:
            self._engine = create_engine(
                url,
                connect_args=arguments if self.is_sqlite else {},
                poolclass=QueuePool,
                pool_size=1,
                max_overflow=0,
            )
        except NoSuchModuleError as unknown:
            raise FeedbackError(f"{self.name}: no database driver of that name; {_line(unknown)}") from unknown
        except ModuleNotFoundError as missing:
            raise StoreError(f"{self.name} needs the package {missing.name}, which is not installed") from missing
        _prepare(self._engine, *_SYNCHRONOUS[durability], timeout_s)

    @contextmanager
    def write(self, doing: str) -> Iterator[Connection]:
        """A transaction that excludes other writers from its start; commits at the end, rolls back on any exception."""
        with self._begun(doing, "BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def read(self, doing: str) -> Iterator[Connection]:
        """A transaction that sees one state of the database throughout and hinders nobody."""
        with self._begun(doing, "BEGIN") as connection:
            if not self.is_sqlite:
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield connection

    def use_wal(self) -> None:
        """Turn SQLite's write-ahead log on, which is where a commit survives SIGKILL in one sequential write."""
        if not self.is_sqlite:
            return
        with self._told("cannot set up"):
            raw = self._engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode=WAL")
        except sqlite3.Error as refusal:
            raise StoreError(f"cannot set up {self.name}: {_line(refusal)}") from refusal
        finally:
            raw.close()

    def close(self) -> None:
        """Close the connection; SQLite then folds its log into the file."""
        self._engine.dispose()

    @contextmanager
    def _begun(self, doing: str, begin: str) -> Iterator[Connection]:
        with self._told(doing), self._engine.connect() as connection:
            connection.execution_options(sqlite_begin=begin)
            with connection.begin():
                yield connection

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as refusal:
            why = _line(getattr(refusal, "orig", None) or refusal)
            kind = StoreFormatError if any(sign in why for sign in _DAMAGED) else StoreError
            raise kind(f"{doing} {self.name}: {why}") from refusal


def store_name(target: str | os.PathLike[str]) -> str:
    """What a database is called in messages and records: its file, or its URL without the password."""
    url = _url(target)
    return url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def _prepare(engine: Engine, synchronous: str, synchronous_commit: str, timeout_s: float) -> None:
    """Settings of each new connection. The driver's own idea of when to begin is off: it begins late, for reading."""

    @event.listens_for(engine, "connect")
    def _connected(raw: Any, _record: Any) -> None:
        cursor = raw.cursor()
        if engine.dialect.name == "sqlite":
            cursor.execute(f"PRAGMA synchronous={synchronous}")
        else:
            cursor.execute(f"SET synchronous_commit TO {synchronous_commit}")
            cursor.execute(f"SET lock_timeout TO {int(1000 * timeout_s)}")
            raw.commit()
        cursor.close()

    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def _url(target: str | os.PathLike[str]) -> URL:
    text = os.fspath(target)
    try:
        if text.startswith("file:"):
            # An SQLite URI as it stands, with its own query (mode=ro, ...).
            url = make_url(f"sqlite:///{text}{'&' if '?' in text else '?'}uri=true")
        elif "://" in text:
            url = make_url(text)
        else:
            url = URL.create("sqlite", database=str(Path(text)))
    except ArgumentError as wrong:
        raise FeedbackError(f"{text!r} is neither a path nor a database URL") from wrong
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise FeedbackError(f"database {backend!r}; allowed: sqlite, postgresql, or a file's path")
    if backend == "sqlite" and (not url.database or ":memory:" in url.database or url.query.get("mode") == "memory"):
        raise FeedbackError(f"{text!r} is a database in memory, which keeps nothing; allowed: a file")
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _line(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines()
    return lines[0].strip() if lines else type(problem).__name__
