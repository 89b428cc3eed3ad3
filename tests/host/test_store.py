"""The feedback store: what goes in comes out, once, whatever is closed and opened in between."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insitu.host.store import FeedbackBatch, FeedbackError, FeedbackStore, UnknownSampleError, new_keys

SHAPE, CLASSES = (4, 3), 5


def feedback(n: int, *, seed: int = 0, **given: Any) -> FeedbackBatch:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, *SHAPE), dtype=np.uint8)
    logits = rng.integers(-128, 128, (n, CLASSES), dtype=np.int8)
    return FeedbackBatch.of(x, rng.dirichlet(np.ones(CLASSES), n), logits, **given)


def opened(path: Path | str, **settings: Any) -> FeedbackStore:
    return FeedbackStore.open(path, **({"shape": SHAPE, "classes": CLASSES} | settings))


def targets() -> list[Any]:
    url = os.environ.get("INSITU_TEST_POSTGRES")
    skip = pytest.mark.skipif(url is None, reason="INSITU_TEST_POSTGRES is not set")
    return ["sqlite", pytest.param(url, id="postgresql", marks=skip)]


@pytest.fixture(params=targets())
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    if request.param == "sqlite":
        return tmp_path / "store.sqlite"
    from sqlalchemy import create_engine, text

    engine = create_engine(request.param.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS sample, meta, retired"))
    engine.dispose()
    return str(request.param)


def test_round_trip_across_reopening(target: Path | str) -> None:
    batch = feedback(
        7,
        labels=[-1, 0, 4, -1, 2, -1, -1],
        source=["user", "margin", "confidence", "replay", "user", "all", "margin"],
        time=np.arange(7) + 0.25,
        held_out=[False, True] * 3 + [False],
        logits_exponent=-4,
    )
    with opened(target) as store:
        ids = store.append(batch)
    assert ids == [1, 2, 3, 4, 5, 6, 7]
    with opened(target) as store:
        got = store.fetch([7, 2, 2, 1])
        store.check()
        assert len(store) == store.acknowledged_total == 7
    for name in ("x", "student_logits", "logits_exponent", "labels", "source", "time", "held_out", "keys"):
        expected = getattr(batch, name)[[6, 1, 1, 0]]
        np.testing.assert_array_equal(getattr(got, name), expected, err_msg=name)
    assert got.student_logits.dtype == np.int8
    np.testing.assert_array_equal(got.teacher, batch.teacher[[6, 1, 1, 0]].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(got.ids, [7, 2, 2, 1])


def test_a_repeated_key_is_not_stored_again(target: Path | str) -> None:
    batch = feedback(6)
    with opened(target) as store:
        first = store.append(batch.select([0, 1, 2]))
        assert store.append(batch) == [*first, 4, 5, 6]
        assert store.append(batch) == [1, 2, 3, 4, 5, 6]
        assert store.acknowledged_total == 6


def test_a_repeated_key_is_known_after_eviction(target: Path | str) -> None:
    batch = feedback(8)
    budget = 3 * (12 + 3 * CLASSES)
    with opened(target, byte_budget=budget, eviction="reservoir") as store:
        ids = store.append(batch)
        assert store.append(batch) == ids
    with opened(target, byte_budget=budget, eviction="reservoir") as store:
        assert store.append(batch) == ids
        usage = store.usage()
        assert (usage.acknowledged, usage.evicted, usage.samples, usage.bytes) == (8, 5, 3, budget)
        store.check()


def test_labels_arrive_later(target: Path | str) -> None:
    batch = feedback(4)
    with opened(target) as store:
        ids = store.append(batch)
        assert store.attach_label(ids[1:3], [4, 0]).tolist() == [True, True]
        expected = batch.teacher.argmax(axis=1)
        expected[1:3] = [4, 0]
        np.testing.assert_array_equal(store.counts_by_class(), np.bincount(expected, minlength=CLASSES))
        with pytest.raises(FeedbackError, match=r"label 5; allowed: 0\.\.4"):
            store.attach_label([1], [5])
        with pytest.raises(FeedbackError, match=r"sample 9; allowed: 1\.\.4"):
            store.attach_label([9], [1])
    with opened(target) as store:
        np.testing.assert_array_equal(store.fetch(ids).labels, [-1, 4, 0, -1])
        np.testing.assert_array_equal(store.fetch(ids).target_class, expected)
        np.testing.assert_array_equal(store.counts_by_class(), np.bincount(expected, minlength=CLASSES))


def test_a_label_for_an_evicted_sample_is_told(target: Path | str) -> None:
    with opened(target, byte_budget=2 * (12 + 3 * CLASSES), eviction="oldest") as store:
        ids = store.append(feedback(3))
        assert store.attach_label(ids, [1, 1, 1]).tolist() == [False, True, True]
        with pytest.raises(UnknownSampleError, match="sample 1 is not in the store"):
            store.fetch(ids)


def test_draws_are_balanced_and_survive_reopening(target: Path | str) -> None:
    labels = np.array([0] * 90 + [3] * 9 + [4])
    with opened(target) as store:
        store.append(feedback(100, labels=labels))
        drawn = store.draw(3000, np.random.default_rng(1))
        counts = np.bincount(drawn.target_class, minlength=CLASSES)
        assert counts[[1, 2]].tolist() == [0, 0]
        assert (abs(counts[[0, 3, 4]] - 1000) < 100).all()
        plain = store.draw(3000, np.random.default_rng(1), balanced=False)
        assert abs(np.bincount(plain.target_class)[0] - 2700) < 100
        newest = store.draw(200, np.random.default_rng(1), newest=10)
        assert set(newest.ids.tolist()) == set(range(91, 101))
    with opened(target) as store:
        np.testing.assert_array_equal(store.draw(3000, np.random.default_rng(1)).ids, drawn.ids)


def test_held_out_is_never_drawn_for_training(target: Path | str) -> None:
    with opened(target) as store:
        store.append(feedback(10, held_out=np.arange(10) < 4))
        assert store.draw(100, np.random.default_rng(0)).ids.min() == 5
        assert store.draw(100, np.random.default_rng(0), split="held_out").ids.max() == 4
        assert store.counts_by_class("held_out").sum() == 4
        assert [len(page) for page in store.iterate(3)] == [3, 3, 3, 1]
        assert [page.ids.tolist() for page in store.iterate(3, "held_out")] == [[1, 2, 3], [4]]


def test_two_openings_see_each_other(target: Path | str) -> None:
    with opened(target) as one, opened(target) as two:
        assert one.append(feedback(3, seed=1)) == [1, 2, 3]
        assert two.append(feedback(3, seed=2)) == [4, 5, 6]
        assert one.append(feedback(3, seed=3)) == [7, 8, 9]
        two.attach_label([1], [4])
        assert len(one) == len(two) == 9
        np.testing.assert_array_equal(one.counts_by_class(), two.counts_by_class())
        one.check()


def test_threads_share_a_store(target: Path | str) -> None:
    with opened(target) as store:
        store.append(feedback(1))
        workers = [
            threading.Thread(target=lambda k=k: [store.append(feedback(4, seed=k)) for _ in range(5)]) for k in range(3)
        ]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            store.draw(8, np.random.default_rng(0))
        for worker in workers:
            worker.join()
        assert len(store) == 61
        store.check()


@pytest.mark.parametrize("encoding", ["float16", "uint8"])
def test_teacher_encodings(tmp_path: Path, encoding: Any) -> None:
    batch = feedback(50)
    with opened(tmp_path / "s", teacher_encoding=encoding) as store:
        got = store.fetch(store.append(batch)).teacher
    assert got.dtype == np.float32
    assert abs(got - batch.teacher).max() < (1 / 2048 if encoding == "float16" else 1 / 255)


def test_wide_logits(tmp_path: Path) -> None:
    wide = FeedbackBatch.of(
        np.zeros((1, *SHAPE), np.uint8), np.eye(CLASSES)[:1], np.array([[-32768, 1, 2, 3, 32767]], np.int16)
    )
    with opened(tmp_path / "wide", logits_encoding="int16") as store:
        np.testing.assert_array_equal(store.fetch(store.append(wide)).student_logits, wide.student_logits)
    with opened(tmp_path / "narrow") as store, pytest.raises(FeedbackError, match="int16; allowed in this store: int8"):
        store.append(wide)


def test_nothing_is_a_batch_too(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        assert store.append(feedback(0)) == []
        assert len(store.fetch([])) == 0
        with pytest.raises(UnknownSampleError, match="holds 0"):
            store.draw(1, np.random.default_rng(0))


def test_the_file_is_plain_sqlite(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        store.append(feedback(3, source="margin"))
    plain = sqlite3.connect(tmp_path / "s")
    assert (
        plain.execute("SELECT source, length(data), length(teacher) FROM sample").fetchall() == [("margin", 12, 10)] * 3
    )
    assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    plan = plain.execute("EXPLAIN QUERY PLAN SELECT id, target_class, split, margin FROM sample").fetchall()
    assert "COVERING INDEX" in plan[0][-1]
    plain.close()


def test_keys_are_distinct() -> None:
    assert len(np.unique(new_keys(1000), axis=0)) == 1000
