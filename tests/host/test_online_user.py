"""What the stream and its user hand over is a function of the position; flags ask, true labels arrive and teach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from insitu.host.detector import Detector
from insitu.host.online.loop import Chunk
from tests.host import digits
from tests.host.looping import Stopped, looping, stop_after

Labels = npt.NDArray[np.int64]


@pytest.mark.parametrize("chunk", [1, 7, 50])
def test_however_the_stream_is_cut_it_is_the_same(tmp_path: Path, chunk: int) -> None:
    """Samples, flags and labels, over the end of the training set, against one cut in a single piece."""
    scene, count = replace(digits.scene(), flag_rate=0.5, label_rate=0.5), 60
    first = len(scene.dataset.x_train) - 25
    x, y = scene.stream(first, count)
    assert len(np.unique(x.reshape(count, -1), axis=0)) == count
    wrong = (y + 1) % 10
    parts = [(at, min(chunk, first + count - at)) for at in range(first, first + count, chunk)]
    streams = [scene.stream(*part) for part in parts]
    np.testing.assert_array_equal(np.concatenate([images for images, _ in streams]), x)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in streams]), y)
    flags = [scene.flags(at, wrong[at - first : at - first + size]) for at, size in parts]
    np.testing.assert_array_equal(np.concatenate(flags), scene.flags(first, wrong))
    told = [scene.labels(at + np.arange(size)) for at, size in parts]
    np.testing.assert_array_equal(np.concatenate(told), scene.labels(first + np.arange(count)))


@pytest.mark.parametrize("chunk", [1, 7])
def test_however_the_stream_is_cut_the_audit_is_the_same(tmp_path: Path, chunk: int) -> None:
    count, audits = 60, []
    for size in (count, chunk):
        settings: dict[str, Any] = {"chunk": size, "rehearsals": 0, "detector": Detector(kind="all")}
        with looping(tmp_path / str(size), keep=False, samples=count, **settings) as loop:
            loop.run()
            batch = loop.store.fetch(range(1, count + 1))
            audits.append(batch.held_out)
            np.testing.assert_array_equal(batch.x, np.rint(digits.scene().stream(0, count)[0] * 255))
    np.testing.assert_array_equal(*audits)
    assert 0 < audits[0].sum() < count


def test_what_is_pictured() -> None:
    """The same wherever the stream comes round to it, another for other pixels."""
    scene = digits.scene()
    count = len(scene.dataset.x_train)
    lap, again = (np.sort(scene.pictured(np.arange(first, first + count))) for first in (0, count))
    np.testing.assert_array_equal(lap, again)
    assert len(np.unique(lap)) == len(np.unique(scene.dataset.x_train.reshape(count, -1), axis=0))
    following = count + np.arange(count)
    again = following[scene.pictured(following) == scene.pictured(np.array([0]))]
    first, second = scene.dataset.x_train[scene._order(np.array([0, again[0]]))]
    np.testing.assert_array_equal(first, second)


def test_rates() -> None:
    scene = replace(digits.scene(), flag_rate=0.3, label_rate=0.6)
    positions = np.arange(1000)
    _, y = scene.stream(0, 1000)
    flags, labels = scene.flags(0, np.where(positions < 500, y, (y + 1) % 10)), scene.labels(positions)
    assert not flags[:500].any()
    assert flags[500:].mean() == pytest.approx(0.3, abs=0.07)
    np.testing.assert_array_equal(labels[labels >= 0], y[labels >= 0])
    assert (labels >= 0).mean() == pytest.approx(0.6, abs=0.05)
    silent = digits.scene()
    assert not silent.flags(0, (y + 1) % 10).any()
    assert (silent.labels(positions) == -1).all()


class Told:
    """A user who flags wrong answers at even positions and knows the labels of every third."""

    def __init__(self) -> None:
        self.flagged: list[int] = []
        self.told: list[int] = []

    def flags(self, first: int, answers: Labels) -> npt.NDArray[np.bool_]:
        positions = first + np.arange(len(answers))
        flagged = (answers != digits.scene().stream(first, len(answers))[1]) & (positions % 2 == 0)
        self.flagged += positions[flagged].tolist()
        return flagged

    def labels(self, positions: Labels) -> Labels:
        self.told += positions[positions % 3 == 0].tolist()
        return true_labels(positions)


def true_labels(positions: Labels) -> Labels:
    """Of every third position; -1 at the others."""
    return np.where(positions % 3 == 0, digits.scene().stream(0, 200)[1][positions], -1)


def test_flags_ask_and_true_labels_arrive(tmp_path: Path) -> None:
    user, taught, chunks = Told(), [], []
    with looping(tmp_path, samples=160, user=user, detector=Detector(kind="margin", threshold=1e-6)) as loop:
        train = loop.driver.train

        def told(x: Any, targets: Any) -> Any:
            taught.append((x, targets))
            return train(x, targets)

        def watch(chunk: Chunk) -> None:
            chunks.append(len(taught))

        loop.driver.train = told  # type: ignore[method-assign]
        progress = loop.run(watch)
        batch = loop.store.fetch(range(1, len(loop.store) + 1))
    positions = np.ascontiguousarray(batch.keys[:, 8:]).view(np.int64)[:, 0]
    flagged = np.isin(positions, user.flagged)
    assert progress.flagged == len(user.flagged) == flagged.sum() > 5
    assert set(batch.source[flagged & ~batch.held_out]) == {"user"}
    assert set(batch.source[~flagged]) <= {"audit", "margin"}
    # Each sample that was asked for, once; the last chunk's too.
    np.testing.assert_array_equal(np.sort(user.told), np.sort(positions[positions % 3 == 0]))
    assert progress.true_labels == len(user.told)
    np.testing.assert_array_equal(batch.labels, true_labels(positions))
    # The first chunk's labels are not known while it trains; from then on what is known is taught as it is.
    place = {x.tobytes(): at for x, at in zip(batch.x, positions, strict=True)}
    for step, (x, targets) in enumerate(taught):
        chunk = int(np.searchsorted(chunks, step, side="right"))
        for image, target in zip(x, targets, strict=True):
            at = place[np.rint(255 * image).astype(np.uint8).tobytes()]
            known = at % 3 == 0 and at // 32 < chunk
            assert target.max() == pytest.approx(1 if known else 0.91, abs=1e-3)
            assert target.argmax() == digits.scene().stream(int(at), 1)[1][0]


def test_true_labels_survive_a_broken_run(tmp_path: Path) -> None:
    with looping(tmp_path / "whole", samples=160, user=Told()) as loop:
        wanted = loop.run()
    for stop in (stop_after(1), stop_after(2), None):
        with looping(tmp_path / "broken", samples=160, user=Told()) as loop:
            if stop is None:
                assert loop.run() == wanted
            else:
                with pytest.raises(Stopped):
                    loop.run(stop)
    assert wanted.true_labels > 0


def test_a_budget_leaves_training_samples(tmp_path: Path) -> None:
    with looping(tmp_path, byte_budget=60 * (64 + 30), detector=Detector(kind="all")) as loop:
        loop.run()
        assert loop.store.counts_by_class("train").sum() == 48
        assert loop.store.counts_by_class("held_out").sum() == 12
