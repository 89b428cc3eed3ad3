"""Eviction: the budget always holds, each policy gives up whom it says, and reopening changes nothing."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.host.store import RETRY_WINDOW, Eviction, FeedbackBatch, FeedbackStore
from insitu.host.store.eviction import priority
from insitu.host.store.index import SampleIndex
from insitu.host.store.sortedids import SortedIds

CLASSES = 3
SAMPLE_BYTES = 2 + 3 * CLASSES
POLICIES = get_args(Eviction)


def feedback(labels: Any, *, gaps: Any = 0, held_out: Any = False) -> FeedbackBatch:
    n = len(labels)
    logits = np.zeros((n, CLASSES), np.int8)
    logits[:, 1] = gaps
    return FeedbackBatch.of(
        np.zeros((n, 2), np.uint8), np.eye(CLASSES)[np.zeros(n, int)], logits, labels=labels, held_out=held_out
    )


def opened(path: Path, capacity: int | None, eviction: Any, seed: int = 0) -> FeedbackStore:
    budget = None if capacity is None else capacity * SAMPLE_BYTES
    return FeedbackStore.open(
        path, shape=(2,), classes=CLASSES, byte_budget=budget, eviction=eviction, seed=seed, durability="process"
    )


def kept(store: FeedbackStore) -> list[int]:
    return [one for page in store.iterate(1000) for one in page.ids.tolist()]


steps = st.lists(
    st.one_of(
        st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 127), st.booleans()), max_size=9),
        st.tuples(st.integers(1, 30), st.integers(0, 2)),
        st.just("reopen"),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(policy=st.sampled_from(POLICIES), capacity=st.integers(1, 12), steps=steps)
def test_usage_never_exceeds_the_budget(policy: Any, capacity: int, steps: list[Any]) -> None:
    """Appends, late labels and reopenings in any order; two stores, of which only one is reopened, keep the same."""
    with tempfile.TemporaryDirectory() as folder:
        one, two = opened(Path(folder) / "one", capacity, policy), opened(Path(folder) / "two", capacity, policy)
        total = 0
        for step in steps:
            if step == "reopen":
                two.close()
                two = opened(Path(folder) / "two", capacity, policy)
            elif isinstance(step, tuple):
                if step[0] <= total:
                    np.testing.assert_array_equal(one.attach_label(*step), two.attach_label(*step))
            elif step:
                labels, gaps, held_out = zip(*step, strict=True)
                assert one.append(feedback(labels, gaps=gaps, held_out=held_out)) == two.append(
                    feedback(labels, gaps=gaps, held_out=held_out)
                )
                total += len(step)
            usage = one.usage()
            assert usage.bytes <= capacity * SAMPLE_BYTES
            assert usage.samples == min(total, capacity)
            assert usage.evicted == total - usage.samples
            assert kept(one) == kept(two)
            np.testing.assert_array_equal(one.counts_by_class(), two.counts_by_class())
        one.check()
        two.check()
        one.close()
        two.close()


def test_oldest(tmp_path: Path) -> None:
    with opened(tmp_path / "s", 4, "oldest") as store:
        store.append(feedback([0] * 3))
        store.append(feedback([1] * 3))
        assert kept(store) == [3, 4, 5, 6]


def test_margin_gives_up_the_surest(tmp_path: Path) -> None:
    with opened(tmp_path / "s", 3, "margin") as store:
        store.append(feedback([0] * 5, gaps=[5, 90, 1, 40, 3]))
        assert kept(store) == [1, 3, 5]


def test_class_balanced_takes_from_the_largest_class(tmp_path: Path) -> None:
    with opened(tmp_path / "s", 9, "class_balanced") as store:
        store.append(feedback([0] * 20 + [1] * 2 + [2] * 5))
        assert store.counts_by_class().tolist() == [3, 2, 4]
        store.attach_label([one for one in kept(store) if one <= 20], [1] * 3)
        store.append(feedback([2]))
        assert store.counts_by_class().tolist() == [0, 4, 5]


def test_reservoir_is_uniform_over_all_that_came(tmp_path: Path) -> None:
    """Counts of kept samples by decile of arrival, against a chi-square bound (9 degrees of freedom, p = 0.001)."""
    deciles: Counter[int] = Counter()
    for seed in range(20):
        with opened(tmp_path / f"s{seed}", 50, "reservoir", seed) as store:
            for _ in range(10):
                store.append(feedback([0] * 50))
            deciles.update((one - 1) // 50 for one in kept(store))
    assert sum(deciles.values()) == 1000
    assert sum((deciles[k] - 100) ** 2 / 100 for k in range(10)) < 27.9


def test_priorities_depend_on_seed_and_ordinal_alone() -> None:
    assert priority(1, 2) == priority(1, 2)
    assert len({priority(seed, ordinal) for seed in range(50) for ordinal in range(50)}) == 2500


def split_sizes(store: FeedbackStore) -> tuple[int, int]:
    return int(store.counts_by_class("train").sum()), int(store.counts_by_class("held_out").sum())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("every", [2, 10])
def test_no_split_starves_the_other(tmp_path: Path, policy: Any, every: int) -> None:
    """Half or a tenth of what comes is held out; in the end a fifth of what is kept is, for the other split has 40."""
    with opened(tmp_path / "s", 50, policy) as store:
        for arrived in range(30, 451, 30):
            store.append(feedback([0, 1, 2] * 10, held_out=np.arange(arrived - 30, arrived) % every == 0))
            held_out_arrived = -(-arrived // every)
            held_out = min(held_out_arrived, max(10, 50 - (arrived - held_out_arrived)))
            assert split_sizes(store) == (min(50, arrived) - held_out, held_out)
        assert split_sizes(store) == (40, 10)


def test_held_out_samples_fill_a_store_with_room(tmp_path: Path) -> None:
    with opened(tmp_path / "s", 10, "oldest") as store:
        store.append(feedback([0] * 14, held_out=True))
        assert kept(store) == list(range(5, 15))
        store.append(feedback([0] * 3))
        assert kept(store) == list(range(8, 18))
        store.append(feedback([0] * 7))
        assert kept(store) == [13, 14, *range(17, 25)]


@pytest.mark.parametrize("policy", POLICIES)
def test_of_held_out_samples_the_oldest_goes_first(tmp_path: Path, policy: Any) -> None:
    with opened(tmp_path / "s", 50, policy) as store:
        for _ in range(5):
            store.append(feedback([0, 1, 2] * 10, gaps=range(30), held_out=np.arange(30) < 6))
        held_out = [int(one) for page in store.iterate(100, split="held_out") for one in page.ids]
        assert held_out == [*range(93, 97), *range(121, 127)]


def test_a_smaller_budget_evicts_at_once(tmp_path: Path) -> None:
    with opened(tmp_path / "s", None, "oldest") as store:
        store.append(feedback([0] * 10))
    with opened(tmp_path / "s", 4, "oldest") as store:
        assert kept(store) == [7, 8, 9, 10]
        assert store.usage().evicted == 6
    with opened(tmp_path / "s", 8, "oldest") as store:
        store.append(feedback([0] * 10))
        assert kept(store) == list(range(13, 21))


@pytest.mark.parametrize("policy", ["oldest", "reservoir"])
def test_evicted_keys_are_forgotten_in_the_end(tmp_path: Path, policy: Any) -> None:
    first = feedback([0] * 4)
    with opened(tmp_path / "s", 2, policy) as store:
        store.append(first)
        store.append(feedback([0] * (RETRY_WINDOW - 4)))
        assert store.append(first) == [1, 2, 3, 4]
        store.append(feedback([0] * 4))
        gone = first.select(~np.isin([1, 2, 3, 4], kept(store)))
        with opened(tmp_path / "s", 2, policy) as again:
            assert min(again.append(gone)) > RETRY_WINDOW


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 4000), thin=st.floats(0, 1))
def test_sorted_ids_against_a_list(seed: int, size: int, thin: float) -> None:
    rng = np.random.default_rng(seed)
    members = rng.permutation(2 * size)[:size]
    ids = SortedIds()
    for member in np.sort(members[: size // 2]).tolist() + members[size // 2 :].tolist():
        ids.add(member)
    gone = rng.random(size) < thin
    for member in members[gone].tolist():
        ids.remove(member)
    left = np.sort(members[~gone])
    np.testing.assert_array_equal(ids.take(np.arange(len(left))), left)
    probes = rng.integers(-1, 2 * size + 1, 20)
    assert [ids.rank(probe) for probe in probes.tolist()] == np.searchsorted(left, probes).tolist()
    with pytest.raises(KeyError):
        ids.remove(2 * size)


def test_an_index_without_a_policy_evicts_nothing() -> None:
    index = SampleIndex([(1, 0, "train", 0.0)], eviction=None, seed=0, revision=0)
    with pytest.raises(RuntimeError, match="without an eviction policy"):
        index.evict_down_to(0)
