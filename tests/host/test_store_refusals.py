"""What the store refuses, in one line, and that a refusal costs nothing that was acknowledged."""

from __future__ import annotations

import resource
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insitu.host.store import (
    FeedbackBatch,
    FeedbackError,
    FeedbackStore,
    StoreError,
    StoreFormatError,
    StoreMismatchError,
)

SHAPE, CLASSES = (28, 28), 10


def feedback(n: int, **given: Any) -> FeedbackBatch:
    arrays: dict[str, Any] = {
        "x": np.random.default_rng(0).integers(0, 256, (n, *SHAPE), dtype=np.uint8),
        "teacher": np.full((n, CLASSES), 0.1),
        "student_logits": np.zeros((n, CLASSES), np.int8),
    }
    return FeedbackBatch.of(**(arrays | given))


def opened(path: Path | str, **settings: Any) -> FeedbackStore:
    return FeedbackStore.open(path, **({"shape": SHAPE, "classes": CLASSES} | settings))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store.sqlite"
    with opened(path) as store:
        store.append(feedback(3))
    return path


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shape": (14, 14)}, r"made with shape \[28, 28\], opened with \[14, 14\]"),
        ({"classes": 8}, "made with classes 10, opened with 8"),
        ({"seed": 7}, "made with seed 0, opened with 7"),
        ({"teacher_encoding": "uint8"}, "made with teacher_encoding float16, opened with uint8"),
    ],
)
def test_other_settings(path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreMismatchError, match=message):
        opened(path, **changed)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"shape": ()}, r"shape is \(\)"),
        ({"classes": 1}, "classes is 1; allowed: >= 2"),
        ({"byte_budget": 813}, "byte_budget is 813; allowed: 814"),
        ({"eviction": "random"}, "eviction is 'random'; allowed"),
        ({"byte_budget": float("nan")}, "byte_budget is float64"),
        ({"byte_budget": 1e6}, "byte_budget is float64"),
        ({"shape": (28.5, 28)}, "shape is float64"),
        ({"classes": 10.9}, "classes is float64"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is float64"),
        ({"durability": "none"}, "durability is 'none'"),
        ({"timeout_s": -1}, "timeout_s is -1"),
        ({"logits_encoding": "int4"}, "logits_encoding is 'int4'"),
    ],
)
def test_bad_settings(tmp_path: Path, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(FeedbackError, match=message):
        opened(tmp_path / "new", **setting)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("url", [":memory:", "sqlite://", "file::memory:", "mysql://host/db", "sqlite+nothing://"])
def test_bad_targets(url: str) -> None:
    with pytest.raises((FeedbackError, StoreError)) as caught:
        opened(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.zeros((3, 28, 28), np.float32)}, r"x is float32 \[3, 28, 28\]; allowed: uint8"),
        ({"teacher": np.full((3, CLASSES), 0.2)}, "teacher row 0 sums to 2"),
        ({"teacher": np.full((3, CLASSES), np.nan)}, "teacher row 0 sums to nan"),
        ({"student_logits": np.zeros((3, CLASSES))}, "student_logits is float64"),
        ({"labels": [0, 1, 10]}, r"labels holds 10; allowed: -1\.\.9"),
        ({"labels": [0.5, 1, 2]}, "labels is float64"),
        ({"labels": [0, 1]}, r"labels is int64 \[2\]; allowed: one value a sample, \[3\]"),
        ({"time": np.inf}, "time holds a value that is not finite"),
        ({"source": "x" * 33}, r"has 33 characters; allowed: 1\.\.32"),
        ({"source": ""}, "has 0 characters"),
        ({"keys": np.zeros((3, 8), np.uint8)}, r"keys is uint8 \[3, 8\]; allowed: uint8 \[3, 16\]"),
        ({"logits_exponent": 200}, "logits_exponent holds 200"),
    ],
)
def test_bad_batches(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(FeedbackError, match=message):
        feedback(3, **changed)


def test_numbers_are_not_cut(path: Path) -> None:
    """A label is not the class below it, an id not the sample before."""
    with opened(path) as store:
        for call in (
            lambda: store.attach_label([1.9], [2]),
            lambda: store.attach_label([1], [2.9]),
            lambda: store.fetch([1.5]),
            lambda: store.draw(1.5, np.random.default_rng(0)),  # type: ignore[arg-type]
            lambda: store.iterate(8.5),  # type: ignore[arg-type]
        ):
            with pytest.raises(FeedbackError, match=r"is float64 .*; allowed: integers"):
                call()
        assert (store.fetch([1, 2, 3]).labels == -1).all()
        assert store.attach_label([], []).tolist() == []


def test_bad_calls(path: Path) -> None:
    rng = np.random.default_rng(0)
    small = FeedbackBatch.of(np.zeros((1, 5), np.uint8), [[0.5, 0.5]], np.zeros((1, 2), np.int8))
    bad_split: Any = "test"
    with opened(path) as store:
        for call, message in (
            (lambda: store.append(small), r"shape \(5,\) and 2 classes; allowed in this store: shape \(28, 28\)"),
            (lambda: store.append(feedback(2, keys=np.zeros((2, 16), np.uint8))), "is twice in one batch"),
            (lambda: store.draw(-1, rng), "n is -1"),
            (lambda: store.draw(1, rng, newest=0), "newest is 0"),
            (lambda: store.draw(1, rng, split=bad_split), "split is 'test'"),
            (lambda: store.iterate(0), "batch is 0"),
            (lambda: store.attach_label([1, 2], [0]), "allowed: a label an id"),
        ):
            with pytest.raises(FeedbackError, match=message):
                call()
        assert len(store) == 3
    with pytest.raises(StoreError, match="is closed"):
        store.append(feedback(1))


def test_a_foreign_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "foreign.sqlite"
    for table in ("contacts (name TEXT)", "meta (who TEXT)"):
        other = sqlite3.connect(path)
        other.execute(f"CREATE TABLE {table}")
        other.commit()
        other.close()
        before = path.read_bytes()
        with pytest.raises(StoreFormatError, match="is not a feedback store .tables: contacts"):
            opened(path)
        assert path.read_bytes() == before
        assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(b"not SQLite at all " * 500)
    with pytest.raises(StoreFormatError, match="file is not a database"):
        opened(path)
    assert path.read_bytes() == b"not SQLite at all " * 500


def test_a_damaged_store_is_told(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[4096:] = b"\xa5" * (len(raw) - 4096)
    path.write_bytes(raw)
    with pytest.raises(StoreFormatError, match="malformed") as caught:
        opened(path)
    assert "\n" not in str(caught.value)


def test_a_directory_and_a_missing_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "store"):
        with pytest.raises(StoreError, match="unable to open database file") as caught:
            opened(path)
        assert str(path) in str(caught.value)


def test_read_only(path: Path) -> None:
    with opened(f"file:{path}?mode=ro") as store:
        assert len(store.draw(4, np.random.default_rng(0))) == 4
        with pytest.raises(StoreError, match="cannot append to .*: attempt to write a readonly database"):
            store.append(feedback(1))
        assert len(store) == 3


def test_another_writer_holds_the_store(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with opened(path, timeout_s=0) as store:
        with pytest.raises(StoreError, match="database is locked"):
            store.append(feedback(1))
        assert len(store) == 3
        other.execute("ROLLBACK")
        assert store.append(feedback(1)) == [4]
    other.close()


def fill(store: FeedbackStore) -> tuple[FeedbackBatch, int, str]:
    """Append until refused: the refused batch, how many samples went in before it, and the message."""
    for count in range(100):
        batch = feedback(64)
        try:
            store.append(batch)
        except StoreError as refusal:
            return batch, 64 * count, str(refusal)
    raise AssertionError("100 batches went in")


@pytest.mark.parametrize("budget", [None, 400 * 814])
def test_a_full_disk_keeps_what_was_acknowledged(path: Path, budget: int | None) -> None:
    """A limit on file sizes refuses the write itself, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    acknowledged = 3
    with opened(path, byte_budget=budget) as store:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
            batch, kept, message = fill(store)
            assert message.startswith("cannot append to")
            assert "\n" not in message
            acknowledged += kept
            assert store.usage().acknowledged == acknowledged
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert acknowledged > 3
        # Space is there again: the same batch goes in, once.
        store.append(batch)
        store.append(batch)
    with opened(path, byte_budget=budget) as store:
        store.check()
        assert store.acknowledged_total == acknowledged + 64


def test_sqlite_full(path: Path) -> None:
    from sqlalchemy import event

    with opened(path) as store:
        engine = store._database.database._engine

        @event.listens_for(engine, "begin")
        def _limit(connection: Any) -> None:
            connection.exec_driver_sql("PRAGMA max_page_count=30")

        _, kept, message = fill(store)
        assert message.endswith("database or disk is full")
        assert len(store) == store.acknowledged_total == 3 + kept
        store.check()
