"""The mini-batch composer: exact sizes, the stated share, balance, and a run that can be replayed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insitu.host.batches import BatchComposer, BatchError
from insitu.host.store import FeedbackBatch, FeedbackStore

CLASSES = 4


def feedback(labels: Any, *, held_out: Any = False) -> FeedbackBatch:
    n = len(labels)
    x = np.arange(n, dtype=np.uint8)[:, None]
    return FeedbackBatch.of(
        x, np.full((n, CLASSES), 0.25), np.zeros((n, CLASSES), np.int8), labels=labels, held_out=held_out
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeedbackStore]:
    path = tmp_path_factory.mktemp("store") / "s"
    with FeedbackStore.open(path, shape=(1,), classes=CLASSES) as store:
        store.append(feedback([0] * 80 + [1] * 15 + [2] * 5))
        yield store


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore.open(tmp_path / "s", shape=(1,), classes=CLASSES) as store:
        yield store


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.integers(1, 40), share=st.floats(0, 1), arrived=st.integers(0, 60), step=st.integers(0, 2**40))
def test_size_and_share(store: FeedbackStore, batch: int, share: float, arrived: int, step: int) -> None:
    composer = BatchComposer(batch=batch, seed=3, replay_share=share)
    fresh = feedback([3] * arrived)
    made = composer.compose(store, step, fresh)
    assert len(made.samples) == batch
    assert made.fresh == min(arrived, composer.fresh_share)
    assert abs(composer.fresh_share - batch * (1 - share)) <= 0.5 + 1e-9
    assert (made.samples.ids[: made.fresh] == -1).all()
    assert (made.samples.ids[made.fresh :] > 0).all()
    assert len(np.unique(made.samples.x[: made.fresh])) == made.fresh
    again = composer.compose(store, step, fresh)
    np.testing.assert_array_equal(made.samples.keys, again.samples.keys)


def test_seed_and_step_choose(store: FeedbackStore) -> None:
    fresh = feedback([3] * 50)
    pairs = [(seed, step) for seed in (0, 1) for step in (0, 1)]
    made = [
        BatchComposer(batch=20, seed=seed).compose(store, step, fresh).samples.keys.tobytes() for seed, step in pairs
    ]
    assert len(set(made)) == 4


def test_replay_is_balanced(store: FeedbackStore) -> None:
    for balanced, expected in ((True, [1000, 1000, 1000, 0]), (False, [2400, 450, 150, 0])):
        made = BatchComposer(batch=3000, seed=0, balanced=balanced).compose(store, 0)
        assert made.fresh == 0
        assert (abs(np.bincount(made.samples.target_class, minlength=CLASSES) - expected) < 110).all()


def test_an_empty_store_repeats_what_arrived(empty: FeedbackStore) -> None:
    made = BatchComposer(batch=16, seed=0).compose(empty, 0, feedback([0] * 5))
    assert made.fresh == 16
    assert set(np.bincount(made.samples.x[:, 0]).tolist()) == {3, 4}
    empty.append(feedback([0], held_out=True))
    assert BatchComposer(batch=16, seed=0).compose(empty, 0, feedback([0] * 5)).fresh == 16


def test_a_store_of_one_sample_will_do(empty: FeedbackStore) -> None:
    empty.append(feedback([2]))
    made = BatchComposer(batch=8, seed=0).compose(empty, 0, feedback([0, 1]))
    assert (made.fresh, made.samples.target_class[2:].tolist()) == (2, [2] * 6)


def test_held_out_samples_are_left_out(empty: FeedbackStore) -> None:
    fresh = feedback([0, 1, 2], held_out=[True, False, True])
    made = BatchComposer(batch=6, seed=0).compose(empty, 0, fresh)
    assert made.samples.target_class.tolist() == [1] * 6
    with pytest.raises(BatchError, match="step 4 has 0 fresh and 0 stored samples"):
        BatchComposer(batch=6, seed=0).compose(empty, 4, fresh.select([0, 2]))


def test_an_epoch_uses_every_fresh_sample_once(store: FeedbackStore) -> None:
    made = list(BatchComposer(batch=16, seed=5).epoch(store, 10, feedback([3] * 21)))
    assert [one.fresh for one in made] == [8, 8, 5]
    assert [one.step for one in made] == [10, 11, 12]
    assert all(len(one.samples) == 16 for one in made)
    used = np.concatenate([one.samples.x[: one.fresh, 0] for one in made])
    assert sorted(used.tolist()) == list(range(21))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch": 0}, "batch is 0; allowed: 1 or more"),
        ({"replay_share": 1.5}, r"replay_share is 1.5; allowed: 0\.\.1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_settings(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(BatchError, match=message):
        BatchComposer(**({"batch": 4, "seed": 0} | setting))


def test_bad_calls(store: FeedbackStore) -> None:
    with pytest.raises(BatchError, match="step is -1"):
        BatchComposer(batch=4, seed=0).compose(store, -1)
    with pytest.raises(BatchError, match=r"batch is 4 and replay_share 1\.0: no fresh"):
        BatchComposer(batch=4, seed=0, replay_share=1.0).epoch(store, 0, feedback([0]))
