"""The demo on real digits, its own teacher and its own length: the student gains, and what it leaves behind is true."""

from __future__ import annotations

import json
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from insitu.arch.program import Program
from insitu.host.device import open_device
from insitu.host.device.snapshot import Snapshot
from insitu.host.online.policy import OnlinePolicy
from insitu.host.online.request import OnlineRun
from insitu.host.online.runner import Status, run
from insitu.host.store import FeedbackBatch, FeedbackStore
from insitu.host.train import accuracy
from insitu.models.datasets import load
from insitu.models.shifts import Shift

SAMPLES, SAMPLE_BYTES, KEEPS = 3000, 94, 300


class Demo:
    """One run, what it returned, what it was seen to do and what every acknowledged sample was."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed = out, seed
        self.seen: list[tuple[int, float, float]] = []
        self.said: list[str] = []
        self.acknowledged: dict[bytes, bytes] = {}
        self.request = OnlineRun(
            data="digits",
            shift="rotate:2",
            model="mlp:64-48-10",
            out=out,
            seed=seed,
            policy=OnlinePolicy(samples=SAMPLES),
            store_bytes=KEEPS * SAMPLE_BYTES + 17,
        )
        with pytest.MonkeyPatch.context() as patch:
            append = FeedbackStore.append

            def told(store: FeedbackStore, samples: FeedbackBatch) -> list[int]:
                ids = append(store, samples)
                self.acknowledged |= {k.tobytes(): x.tobytes() for k, x in zip(samples.keys, samples.x, strict=True)}
                return ids

            patch.setattr(FeedbackStore, "append", told)
            self.result = run(self.request, self._watch, self.said.append)

    def _watch(self, status: Status) -> None:
        self.seen.append((status.chunk.progress.samples, status.served, status.now))

    def store(self) -> FeedbackStore:
        return FeedbackStore.open(
            self.out / "feedback.db",
            shape=(1, 8, 8),
            classes=10,
            byte_budget=self.request.store_bytes,
            seed=self.seed,
        )

    def scalars(self) -> EventAccumulator:
        events = EventAccumulator(str(self.out / "scalars"), size_guidance={"scalars": 0})
        events.Reload()
        return events


@pytest.fixture(scope="module", params=[0, 1], ids="seed {}".format)
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return Demo(tmp_path_factory.mktemp("demo") / "run", request.param)


def test_gains_twenty_points(demo: Demo) -> None:
    result = demo.result
    assert result["accuracy_after"] >= result["accuracy_before"] + 0.20
    assert result["accuracy_before"] < result["accuracy_clean"] - 0.20
    assert result["accuracy_teacher"] > 0.9
    assert result["samples"] == SAMPLES
    assert 0 < result["labels"] < SAMPLES
    assert 0 < result["busy"] < 1


def test_never_serves_less_than_it_began_with(demo: Demo) -> None:
    assert demo.seen[-1][0] == SAMPLES
    served = [served for _at, served, _now in demo.seen]
    assert min(served) >= demo.result["accuracy_before"]
    assert served[-1] <= demo.result["accuracy_after"]


def test_what_is_served_is_in_the_checkpoint(demo: Demo) -> None:
    """Accuracy before and after, measured again from the files alone."""
    program = Program.load(demo.out / "student.insitu")
    digits = load("digits")
    scene = Shift.parse("rotate:2").apply(digits.x_test, seed=demo.seed + 7919)
    snapshot, _ = Snapshot.load(demo.out / "checkpoint.npz", program)
    with open_device(program.core) as device:
        device.load(program)
        device.restore(snapshot)
        assert accuracy(device, scene, digits.y_test) == demo.result["accuracy_after"]


def test_result_is_what_was_returned(demo: Demo) -> None:
    assert json.loads((demo.out / "result.json").read_text()) == demo.result
    assert demo.result["folder"] == str(demo.out)
    before, clean = (f"{demo.result[name]:.1%}" for name in ("accuracy_before", "accuracy_clean"))
    assert any(before in line and clean in line for line in demo.said)


def test_picture(demo: Demo) -> None:
    width, height, pixels = read_png((demo.out / "accuracy.png").read_bytes())
    assert 800 <= width <= 2000
    assert 500 <= height <= 1400
    # Mostly paper, and lines of more than one colour on it.
    colours, counts = np.unique(pixels.reshape(-1, pixels.shape[-1])[:, :3], axis=0, return_counts=True)
    assert counts.max() > 0.5 * counts.sum()
    assert tuple(colours[counts.argmax()]) == (255, 255, 255)
    vivid = colours.max(axis=1).astype(int) - colours.min(axis=1) > 100
    assert counts[vivid].sum() > 1000


def test_scalars_can_be_read_back(demo: Demo) -> None:
    events = demo.scalars()
    names = {"loss", "accuracy/served", "accuracy/training", "asked", "device/cycles", "saturated share"}
    assert names <= set(events.Tags()["scalars"])
    for name in names:
        points = events.Scalars(name)
        steps = [point.step for point in points]
        assert steps == sorted(set(steps))
        assert np.isfinite([point.value for point in points]).all()
    # A point for every chunk of 64; what was watched is what was written.
    assert [point.step for point in events.Scalars("asked")] == [at for at, _served, _now in demo.seen]
    for name, column in (("accuracy/served", 1), ("accuracy/training", 2)):
        expected = [row[column] for row in demo.seen]
        assert [point.value for point in events.Scalars(name)] == pytest.approx(expected, abs=1e-6)
    assert sum(point.value for point in events.Scalars("asked")) == demo.result["labels"]
    cycles = [point.value for point in events.Scalars("device/cycles")]
    assert cycles == sorted(cycles)
    assert cycles[-1] <= demo.result["cycles"]


def test_store_holds_what_was_acknowledged(demo: Demo) -> None:
    assert len(demo.acknowledged) == demo.result["labels"]
    with demo.store() as store:
        usage = store.usage()
        kept: dict[bytes, bytes] = {}
        for page in store.iterate(256):
            kept |= {key.tobytes(): x.tobytes() for key, x in zip(page.keys, page.x, strict=True)}
        store.check()
    assert usage.sample_bytes == SAMPLE_BYTES
    assert usage.acknowledged == demo.result["labels"]
    assert usage.samples == len(kept) == demo.result["stored"] == KEEPS < usage.acknowledged
    assert usage.evicted == usage.acknowledged - usage.samples
    assert usage.bytes == demo.result["stored_bytes"] == len(kept) * SAMPLE_BYTES <= demo.request.store_bytes
    assert all(demo.acknowledged[key] == x for key, x in kept.items())


def test_keys_are_of_run_and_position(demo: Demo) -> None:
    """Of the run and of its own place in the stream: 8 bytes each."""
    keys = np.array([np.frombuffer(key, "<i8") for key in demo.acknowledged])
    assert len(set(keys[:, 0])) == 1
    assert keys[:, 1].min() >= 0
    assert keys[:, 1].max() < SAMPLES
    assert len(np.unique(keys[:, 1])) == len(keys)


def read_png(data: bytes) -> tuple[int, int, Any]:
    """Width, height and pixels [height, width, channels] of an 8-bit PNG, its checksums checked."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, kinds = 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + body),)
        kinds.append(kind)
        at += 12 + length
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
    width, height = struct.unpack_from(">II", data, 16)
    pixels = (image.imread(BytesIO(data), format="png") * 255).round().astype(np.uint8)
    assert pixels.shape[:2] == (height, width)
    return width, height, pixels
