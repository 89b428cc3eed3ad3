"""Streams in their order, and what is kept of them under a byte budget."""

from __future__ import annotations

import numpy as np
import pytest

from insitu.host.learn.replay import Reserve, Stream, arranged
from insitu.host.store.codec import Codec
from insitu.host.store.errors import FeedbackError
from insitu.models.curricula.context import Context
from insitu.models.curricula.pool import UNKNOWN, Pool
from insitu.models.errors import InvalidInputError

CLASSES = 4
Y = np.repeat(np.arange(CLASSES), [40, 30, 20, 10])
POOL = Pool(x=np.arange(100, dtype=np.float32).reshape(-1, 1, 1, 1) / 100, y=Y, classes=CLASSES)
BYTES = Codec(shape=(1, 1, 1), classes=CLASSES).sample_bytes


def context(batch: int = 10) -> Context:
    def student(x: np.ndarray) -> np.ndarray:
        """Surer of each sample than of the one before."""
        return np.concatenate([x[:, 0, 0], np.zeros((len(x), CLASSES - 1), np.float32)], axis=1)

    return Context(pool=POOL, batch=batch, seed=(0, 0), teacher=student, student=student)


def order(text: str, seed: int = 0) -> np.ndarray:
    return arranged(POOL, text, np.random.default_rng(seed))


@pytest.mark.parametrize("text", ["shuffled", "sorted", "bursts:5", "late:1", "last:1"])
def test_each_sample_comes_once_in_another_order_a_seed(text: str) -> None:
    assert sorted(order(text).tolist()) == list(range(100))
    assert order(text).tolist() != order(text, seed=1).tolist()


def test_orders() -> None:
    assert (np.diff(Y[order("sorted")]) >= 0).all()
    bursts = Y[order("bursts:5")].reshape(20, 5)
    assert (bursts == bursts[:, :1]).all()
    assert len(np.unique(bursts[:8, 0])) > 1
    late = Y[order("late:1")]
    assert not (late[:50] == 1).any()
    assert (late[50:] == 1).sum() == 30
    assert set(late[50:].tolist()) == {0, 1, 2, 3}
    last = Y[order("last:1")]
    assert (last[70:] == 1).all()
    assert not (last[:70] == 1).any()
    with pytest.raises(InvalidInputError, match="late:9"):
        order("late:9")


def test_batches_are_half_fresh_and_half_of_what_came_before() -> None:
    policy = Stream(order="sorted", bytes=8 * BYTES)
    batches = list(policy.batches(POOL, context(), 0))
    assert len(batches) == policy.steps(POOL, 10) == 20
    assert [len(rows) for rows in batches] == [5] + [10] * 19
    fresh = np.concatenate([rows[:5] for rows in batches])
    assert sorted(fresh.tolist()) == list(range(100))
    for number, rows in enumerate(batches):
        assert set(rows[5:].tolist()) <= set(fresh[: 5 * number].tolist())


def test_without_a_budget_nothing_is_replayed() -> None:
    batches = list(Stream(order="sorted").batches(POOL, context(), 0))
    assert [len(rows) for rows in batches] == [10] * 10
    assert (np.diff(Y[np.concatenate(batches)]) >= 0).all()


def test_the_budget_is_in_bytes_of_the_store() -> None:
    kept = Reserve(POOL, 7 * BYTES + BYTES - 1, "reservoir", seed=0)
    for row in order("shuffled"):
        kept.add(int(row))
        assert len(kept) <= 7
    assert len(kept) == kept.room == 7
    assert len(Reserve(POOL, BYTES - 1, "reservoir", seed=0).rows) == 0


def filled(eviction: str, seed: int = 0) -> list[int]:
    kept = Reserve(POOL, 12 * BYTES, eviction, seed=seed)  # type: ignore[arg-type]
    for row in order("sorted"):
        kept.add(int(row), margin=float(row))
    return kept.rows


def test_evictions_differ_in_what_they_keep() -> None:
    assert np.bincount(Y[filled("class_balanced")]).tolist() == [3, 3, 3, 3]
    assert set(Y[filled("oldest")].tolist()) == {2, 3}
    assert filled("margin") == list(range(12))
    sizes = np.mean([np.bincount(Y[filled("reservoir", seed)], minlength=4) for seed in range(60)], axis=0)
    np.testing.assert_allclose(sizes, [4.8, 3.6, 2.4, 1.2], atol=0.8)


def test_margins_are_the_students_own() -> None:
    """A reserve by margin ends with those the student was least sure of, and another by what was replayed."""
    policy = Stream(bytes=12 * BYTES, eviction="margin", balanced=False)
    last = list(policy.batches(POOL, context(), 0))[-1]
    assert Y[last[5:]].max() == 0
    assert last[5:].max() < 15


def test_draws_are_even_over_classes_where_balanced() -> None:
    kept = Reserve(POOL, 100 * BYTES, "reservoir", seed=0)
    for row in range(100):
        kept.add(row)
    drawn = {b: Y[kept.draw(4000, np.random.default_rng(0), balanced=b)] for b in (True, False)}
    np.testing.assert_allclose(np.bincount(drawn[True]) / 4000, 0.25, atol=0.03)
    np.testing.assert_allclose(np.bincount(drawn[False]) / 4000, [0.4, 0.3, 0.2, 0.1], atol=0.03)


def test_refusals() -> None:
    with pytest.raises(InvalidInputError, match="'bursts:0'; allowed are shuffled, sorted, bursts:N"):
        Stream(order="bursts:0")
    with pytest.raises(FeedbackError, match="eviction is 'worst'"):
        Stream(eviction="worst")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="share 1"):
        Stream(share=1.0)
    with pytest.raises(InvalidInputError, match="mini-batches of 1;"):
        Stream(bytes=1).steps(POOL, 1)
    blind = Pool(x=POOL.x, y=np.full(100, UNKNOWN), classes=CLASSES)
    with pytest.raises(InvalidInputError, match="without labels"):
        Reserve(blind, 1000, "reservoir", seed=0).add(0)
