"""The tables, and the settings a store is made with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    inspect,
    select,
    update,
)

from .batch import SOURCE_CHARS
from .codec import Codec
from .errors import StoreFormatError, StoreMismatchError

FORMAT = "insitu feedback store"
SCHEMA_VERSION = 1

# SQLite's implicit row number, which is the table's own order, answers only to INTEGER.
_ROW = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()

meta = Table("meta", metadata, Column("name", String(40), primary_key=True), Column("value", Text, nullable=False))

sample = Table(
    "sample",
    metadata,
    Column("id", _ROW, primary_key=True, autoincrement=False),  # the how-manieth acknowledged sample, from 1
    Column("key", LargeBinary, nullable=False, unique=True),
    Column("split", String(8), nullable=False),
    Column("target_class", Integer, nullable=False),  # the label's, else the teacher's most likely
    Column("label", Integer),
    Column("margin", Double, nullable=False),  # the student's two best logits, apart
    Column("source", String(SOURCE_CHARS), nullable=False),
    Column("time", Double, nullable=False),
    Column("logits_exponent", Integer, nullable=False),
    Column("teacher", LargeBinary, nullable=False),
    Column("logits", LargeBinary, nullable=False),
    Column("data", LargeBinary, nullable=False),
)
# All that opening a store must read, so that it does not page through the samples themselves.
Index("sample_by_class", sample.c.split, sample.c.target_class, sample.c.id, sample.c.margin)

# Keys of evicted samples, for as long as a client may still retry them. They are looked up in memory: an index over
# random keys would cost each commit more pages than the samples themselves.
retired = Table(
    "retired",
    metadata,
    Column("id", _ROW, primary_key=True, autoincrement=False),
    Column("key", LargeBinary, nullable=False),
)

_SET = update(meta).where(meta.c.name == bindparam("which")).values(value=bindparam("to"))
_STATE = select(meta.c.name, meta.c.value).where(meta.c.name.in_(["acknowledged", "evicted", "revision"]))
_LOCK = select(meta.c.value).where(meta.c.name == "revision").with_for_update()


@dataclass(frozen=True, kw_only=True)
class State:
    """What changes with every write. `revision` counts them, so that a process notices another's."""

    acknowledged: int = 0
    evicted: int = 0
    revision: int = 0

    def as_meta(self) -> dict[str, str]:
        """As rows of `meta`."""
        return {name: str(getattr(self, name)) for name in ("acknowledged", "evicted", "revision")}


def read_state(connection: Connection, *, lock: bool = False) -> State:
    """The counters. With `lock`, other writers wait from here on."""
    # SQLite's writers wait at BEGIN already.
    if lock and connection.dialect.name != "sqlite":
        connection.execute(_LOCK)
    return State(**{str(name): int(value) for name, value in connection.execute(_STATE)})


def write_state(connection: Connection, state: State) -> None:
    """Set the counters."""
    _change(connection, state.as_meta())


def set_policy(connection: Connection, values: Mapping[str, str]) -> None:
    """Set the rows that `policy` gives."""
    _change(connection, values)


def has(connection: Connection, values: Mapping[str, str]) -> bool:
    """Whether `meta` says all this already."""
    found = _read_meta(connection)
    return all(found.get(name) == value for name, value in values.items())


def settings(codec: Codec, seed: int) -> dict[str, str]:
    """What a store is made with and never changes, as rows of `meta`."""
    return {
        "format": FORMAT,
        "schema_version": str(SCHEMA_VERSION),
        "shape": json.dumps(codec.shape),
        "classes": str(codec.classes),
        "teacher_encoding": codec.teacher,
        "logits_encoding": codec.logits,
        "seed": str(seed),
    }


def policy(byte_budget: int | None, eviction: str) -> dict[str, str]:
    """What the one who opens the store decides anew, as rows of `meta`."""
    return {"byte_budget": "none" if byte_budget is None else str(byte_budget), "eviction": eviction}


def is_made(connection: Connection, name: str) -> bool:
    """Whether the database holds a store of ours; False for an empty one, `StoreFormatError` for anything else.

    An SQLite file must hold nothing else; in PostgreSQL other tables may live beside ours.
    """
    found = set(inspect(connection).get_table_names())
    ours = {table.name for table in metadata.sorted_tables}
    if not found & ours and (not found or connection.dialect.name != "sqlite"):
        return False
    columns = {column["name"] for column in inspect(connection).get_columns("meta")} if "meta" in found else set()
    if ours <= found and columns == {"name", "value"}:
        made_as = connection.execute(select(meta.c.value).where(meta.c.name == "format")).scalar()
        if made_as == FORMAT:
            return True
    listed = ", ".join(sorted(found)[:5])
    raise StoreFormatError(f"{name} is not a feedback store (tables: {listed}); allowed: an empty database or a store")


def make(connection: Connection, values: Mapping[str, str]) -> None:
    """Create the tables and fill `meta`."""
    metadata.create_all(connection, checkfirst=False)
    rows = {**values, **State().as_meta()}
    connection.execute(meta.insert(), [{"name": name, "value": value} for name, value in rows.items()])


def check_settings(connection: Connection, name: str, wanted: Mapping[str, str]) -> None:
    """Raise `StoreMismatchError` naming the first setting of an existing store that is not as wanted."""
    found = _read_meta(connection)
    for key, value in wanted.items():
        if found.get(key) != value:
            raise StoreMismatchError(f"{name} was made with {key} {found.get(key)}, opened with {value}")


def _read_meta(connection: Connection) -> dict[str, str]:
    return {str(key): str(value) for key, value in connection.execute(select(meta.c.name, meta.c.value))}


def _change(connection: Connection, values: Mapping[str, str]) -> None:
    connection.execute(_SET, [{"which": name, "to": value} for name, value in values.items()])
