"""The online-fix loop on digits that are turned: the student gains, within its budget, however often it is stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from insitu.host.batches import BatchError
from insitu.host.detector import Detector
from insitu.host.device.snapshot import Snapshot
from insitu.host.errors import CheckpointError, HostError
from insitu.host.online.guard import GuardPolicy
from insitu.host.online.loop import OnlineLoop
from insitu.host.online.policy import OnlinePolicy
from insitu.host.online.scene import Scene
from insitu.host.store import FeedbackBatch, Split
from tests.host import digits
from tests.host.device_suite import same
from tests.host.looping import CHUNK, Stopped, keys, looping, stop_after

SPLITS: tuple[Split, Split] = ("held_out", "train")


def few(images: int) -> Scene:
    """The scene of a few of its images, which the stream soon comes round to again."""
    scene = digits.scene()
    dataset = replace(scene.dataset, x_train=scene.dataset.x_train[:images], y_train=scene.dataset.y_train[:images])
    return replace(scene, dataset=dataset)


def certain(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A teacher who takes everything for a nought."""
    return np.tile(np.eye(digits.CLASSES, dtype=np.float32)[0], (len(x), 1))


def table_of(loop: OnlineLoop) -> digits.Table:
    assert isinstance(loop.stream, digits.Table)
    return loop.stream


def test_the_student_gains(tmp_path: Path) -> None:
    with looping(tmp_path, samples=1280) as loop:
        start = digits.accuracy(loop.driver)
        chunks: list[int] = []
        progress = loop.run(lambda chunk: chunks.append(chunk.asked))
        assert digits.accuracy(loop.driver) > start + 0.1
        assert progress.samples == 1280
        assert len(chunks) == 1280 // CHUNK
        assert sum(chunks) == progress.labels == table_of(loop).asked == len(loop.store)
        assert "promoted" in {what for _at, what in progress.verdicts}
        assert same(loop.guard.incumbent, loop.driver.snapshot())
        held_out = loop.store.counts_by_class("held_out").sum()
        assert 0.1 * 1280 < held_out < 0.3 * 1280


def test_samples_need_not_be_a_multiple_of_the_chunk(tmp_path: Path) -> None:
    with looping(tmp_path, samples=50, detector=Detector(kind="all")) as loop:
        sizes: list[int] = []
        assert loop.run(lambda chunk: sizes.append(chunk.asked)).samples == 50
        assert sizes == [32, 18]


@pytest.mark.parametrize("budget", [1, 45])
def test_label_budget(tmp_path: Path, budget: int) -> None:
    with looping(tmp_path, samples=320, label_budget=budget) as loop:
        progress = loop.run()
        assert progress.labels == table_of(loop).asked == len(loop.store) == budget
        assert progress.samples == 320
    with looping(tmp_path, samples=640, label_budget=budget) as loop:
        assert loop.run().labels == budget
        assert table_of(loop).asked == 0


def test_a_budget_is_spent_along_the_stream(tmp_path: Path) -> None:
    with looping(tmp_path, samples=320, label_budget=60, pace=0.25, detector=Detector(kind="all")) as loop:
        bought: list[int] = []
        loop.run(lambda chunk: bought.append(chunk.progress.bought))
    assert bought == [8, 16, 24, 32, 40, 48, 56, 60, 60, 60]


def test_what_a_quiet_stretch_leaves_a_busy_one_may_have(tmp_path: Path) -> None:
    with looping(tmp_path, samples=160, pace=0.5, audit=1e-9, detector=Detector(kind="all")) as loop:
        detect = loop.policy.detector.detect

        class Quiet:
            def detect(self, logits: Any, flagged: Any) -> Any:
                found = detect(logits, flagged)
                return replace(found, asks=found.asks & (loop.progress.samples > 96))

        loop.policy = replace(loop.policy, detector=Quiet())  # type: ignore[arg-type]
        asked: list[int] = []
        loop.run(lambda chunk: asked.append(chunk.asked))
    assert asked == [0, 0, 0, 32, 32]


def test_running_again_stores_nothing_twice(tmp_path: Path) -> None:
    stored = []
    for seed, run, samples in ((1, "a", 96), (1, "a", 96), (1, "a", 128), (2, "a", 96), (1, "b", 96)):
        with looping(tmp_path, keep=False, seed=seed, run=run, samples=samples, detector=Detector(kind="all")) as loop:
            loop.run()
            assert len(set(keys(loop.store))) == len(loop.store)
            stored.append(len(loop.store))
    assert stored == [96, 96, 128, 128 + 96, 128 + 96 + 96]


def test_a_finished_run_stays_finished(tmp_path: Path) -> None:
    with looping(tmp_path, samples=320) as loop:
        loop.run()
        served, samples = loop.driver.snapshot(), keys(loop.store)
    with looping(tmp_path, samples=320) as loop:
        assert loop.run(stop_after(1)).samples == 320
        assert same(loop.driver.snapshot(), served)
        assert keys(loop.store) == samples


def test_resumes_where_it_stopped(tmp_path: Path) -> None:
    with looping(tmp_path) as loop:
        with pytest.raises(Stopped):
            loop.run(stop_after(10))
        before, weights, stored = loop.progress, loop.driver.snapshot(), keys(loop.store)
        incumbent = loop.guard.incumbent
    assert before.samples == 10 * CHUNK
    with looping(tmp_path) as loop:
        asked: list[int] = []
        kept_on = table_of(loop).stream

        def stream(first: int, count: int) -> Any:
            asked.append(first)
            if len(asked) == 1:
                assert same(loop.driver.snapshot(), weights)
                assert same(loop.guard.incumbent, incumbent)
                assert loop.progress == before
            return kept_on(first, count)

        loop.stream.stream = stream  # type: ignore[method-assign]
        progress = loop.run()
        assert asked == list(range(10 * CHUNK, 640, CHUNK))
        assert progress.samples == 640
        assert progress.labels == len(loop.store)
        assert keys(loop.store)[: len(stored)] == stored


def test_a_broken_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    settings: dict[str, Any] = {"samples": 960, "guard": GuardPolicy(every=24)}
    with looping(tmp_path / "whole", **settings) as loop:
        wanted, served, stored = loop.run(), loop.driver.snapshot(), keys(loop.store)
    for chunks in (10, 3, 7, None):
        with looping(tmp_path / "broken", **settings) as loop:
            if chunks is not None:
                with pytest.raises(Stopped):
                    loop.run(stop_after(chunks))
                continue
            progress = loop.run()
            assert progress == wanted
            assert keys(loop.store) == stored
            assert same(loop.driver.snapshot(), served)


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    with looping(tmp_path, samples=64) as loop:
        loop.run()
    whole = (tmp_path / "checkpoint.npz").read_bytes()
    with looping(tmp_path, seed=2, run="b") as loop:
        with pytest.raises(CheckpointError, match=f"{tmp_path} holds a run of run a, not b; seed 1, not 2: give this"):
            loop.run()
        assert loop.progress.samples == 0
        assert loop.driver.read_weights().keys() == digits.compiled().masters.keys()
        for name, q in loop.driver.read_weights().items():
            np.testing.assert_array_equal(q, digits.compiled().masters[name])
    assert (tmp_path / "checkpoint.npz").read_bytes() == whole


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "plain"])
def test_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "checkpoint.npz"
    with looping(tmp_path, samples=64) as loop:
        loop.run()
        plain: Snapshot = loop.driver.snapshot()
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "cut": whole[:-100],
            "empty": b"",
            "flipped": whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :],
            "plain": plain.to_bytes(),  # a snapshot, and no online run's
        }[damage]
    )
    damaged = path.read_bytes()
    with looping(tmp_path) as loop, pytest.raises(CheckpointError, match="checkpoint"):
        loop.run()
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    ("policy", "quoted"),
    [
        ({"samples": 0}, "samples is 0: must be at least 1"),
        ({"chunk": -4}, "chunk is -4"),
        ({"rehearsals": -1}, "rehearsals is -1: must be at least 0"),
        ({"audit": 0.0}, "audit is 0.0"),
        ({"audit": 1.0}, "audit is 1.0"),
        ({"audit": float("nan")}, "audit is nan"),
        ({"replay_share": 1.0}, r"replay_share is 1\.0: must be at least 0 and below 1"),
        ({"replay_share": 7}, "replay_share is 7"),
        ({"label_budget": 0}, "label_budget is 0: must be at least 1"),
        ({"pace": 0.0}, r"pace is 0\.0: must be finite and above 0"),
        ({"pace": float("inf")}, "pace is inf"),
    ],
)
def test_bad_policy(policy: dict[str, Any], quoted: str) -> None:
    with pytest.raises(HostError, match=quoted):
        OnlinePolicy(**policy)


def test_a_share_that_leaves_no_place_for_what_arrives(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"replay_share 0\.99: no fresh"), looping(tmp_path, replay_share=0.99):
        pass


# What is held out.


def pictures(scene: Scene, batch: FeedbackBatch) -> npt.NDArray[np.uint64]:
    """What stored samples show."""
    return scene.pictured(np.ascontiguousarray(batch.keys[:, 8:]).view(np.int64)[:, 0])


def test_no_picture_is_both_held_out_and_trained_on(tmp_path: Path) -> None:
    """However often the stream comes round to it, and whoever shares the store."""
    scene, trained = few(60), list[bytes]()
    for seed, run in ((1, "a"), (2, "b")):
        with looping(tmp_path, keep=False, seed=seed, run=run, samples=300, detector=Detector(kind="all")) as loop:
            loop.stream, loop.teach = scene, certain
            train = loop._train

            def spied(samples: FeedbackBatch, train: Any = train) -> float:
                trained.extend(key.tobytes() for key in samples.keys)
                return float(train(samples))

            loop._train = spied  # type: ignore[method-assign]
            loop.run()
            parts = {split: FeedbackBatch.concat(list(loop.store.iterate(512, split=split))) for split in SPLITS}
    held_out, kept = (set(pictures(scene, parts[split]).tolist()) for split in SPLITS)
    assert len(held_out) + len(kept) == 60
    assert not held_out & kept
    assert set(trained) == {key.tobytes() for key in parts["train"].keys}


@pytest.mark.parametrize("recent", [5, 128])
def test_the_guard_is_shown_each_picture_once_the_newest_ones(tmp_path: Path, recent: int) -> None:
    scene = few(60)
    with looping(tmp_path, keep=False, run="b", seed=2, samples=40, detector=Detector(kind="all")) as loop:
        loop.stream, loop.teach = few(40), certain  # another run's samples in the same store
        loop.run()
    shown = GuardPolicy(recent=recent)
    with looping(tmp_path, keep=False, samples=150, rehearsals=0, detector=Detector(kind="all"), guard=shown) as loop:
        loop.stream, loop.teach = scene, certain
        seen: list[tuple[Any, Any]] = []
        look = loop.guard.look

        def spied(x: Any, labels: Any) -> Any:
            seen.append((x, labels))
            return look(x, labels)

        loop.guard.look = spied  # type: ignore[method-assign]
        loop.run()
    positions = np.arange(150)
    audited = loop._audited(positions)
    last = dict(zip(scene.pictured(positions[audited]).tolist(), positions[audited].tolist(), strict=True))
    x, labels = seen[-1]
    wanted = [np.rint(255 * scene.stream(at, 1)[0][0]) for at in sorted(last.values())[-recent:]]
    np.testing.assert_array_equal(np.rint(255 * x), wanted)
    assert len(labels) == min(recent, len(last)) < len(last) + 1 <= audited.sum()


@pytest.mark.parametrize(
    ("policy", "quoted"),
    [({"alpha": 0.0}, "0.0"), ({"alpha": 1.5}, "1.5"), ({"every": 0}, "0"), ({"recent": 0}, "0"), ({"window": 0}, "0")],
)
def test_bad_guard_policy(policy: dict[str, Any], quoted: str) -> None:
    with pytest.raises(HostError, match=quoted):
        GuardPolicy(**policy)
