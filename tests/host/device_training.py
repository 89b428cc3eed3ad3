"""What the driver promises over any backend: training, counters, replay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from insitu.arch.isa import Opcode
from insitu.arch.layout import Memory
from insitu.host.compiler.rate import with_learning_rate
from insitu.host.device import Driver
from insitu.host.device.snapshot import Snapshot
from insitu.host.errors import CheckpointError, DeviceError
from insitu.sim.emulator import Emulator
from tests.beats import from_beats, to_beats
from tests.host import tiny
from tests.host.device_suite import TARGETS, OnTiny, X, same
from tests.host.tiny import BATCH, CLASSES, CORE


class TrainingSuite(OnTiny):
    """Training steps, to the bit."""

    def test_train_equals_the_emulator(self, driver: Driver) -> None:
        program, masters = driver.program, tiny.compiled().masters
        emulator = Emulator(CORE)
        emulator.load_program(program.words)
        for register, exponent in zip(emulator.scales, program.scales, strict=False):
            register[:] = [exponent, exponent]
        emulator.seed = driver.seed
        for name, q in masters.items():
            program.tensors[name].matrix.write(image := emulator.image(Memory.WGT), q)
            emulator.set_image(Memory.WGT, image)
        driver.clear_counters()
        for seed in range(3):
            x, targets = tiny.samples(BATCH, seed)
            got = driver.train(x, targets)
            sample, target = program.initial_format("sample"), program.initial_format("target")
            emulator.stream_in.put(to_beats(sample.quantise(x.reshape(BATCH, -1)), CORE.n))
            emulator.stream_in.put(to_beats(target.quantise(targets), CORE.n))
            emulator.start(program.entries["train"])
            emulator.advance()
            assert emulator.done
            raw = from_beats(emulator.stream_out.take(emulator.stream_out.pending), BATCH, CLASSES)
            exponent = emulator.scales[program.tensors["3.y"].scale][0]
            np.testing.assert_array_equal(got, np.ldexp(raw.astype(np.float32), exponent))
        trained = driver.read_weights()
        for name, q in masters.items():
            matrix = program.tensors[name].matrix
            np.testing.assert_array_equal(trained[name], matrix.read(emulator.image(Memory.WGT)))
            assert not np.array_equal(trained[name], q)
        assert [(driver.scale(i), driver.scale(i, "next")) for i in range(64)] == [tuple(s) for s in emulator.scales]
        assert driver.seed == emulator.seed

    def test_short_batch_trains_as_if_filled_with_nothing(self, driver: Driver) -> None:
        start = driver.snapshot()
        logits = driver.train(X[:3], TARGETS[:3])
        assert logits.shape == (3, CLASSES)
        short = driver.snapshot()
        driver.restore(start)
        blank = np.arange(BATCH)[:, None] < 3
        whole = driver.train(X * blank[..., None, None], TARGETS * blank)
        np.testing.assert_array_equal(whole[:3], logits)
        assert same(driver.snapshot(), short)
        assert not np.array_equal(short.masters["1.weight"], start.masters["1.weight"])

    def test_training_lowers_the_loss(self, driver: Driver) -> None:
        def loss(z: npt.NDArray[np.float32]) -> float:
            return float((np.log(np.exp(z).sum(axis=1)) - (z * TARGETS).sum(axis=1)).mean())

        driver.replace_program(with_learning_rate(driver.program, 1.0))
        losses = [loss(driver.train(X, TARGETS)) for _ in range(24)]
        assert losses[-1] < 0.7 * losses[0]

    def test_gradient_of_the_host(self, driver: Driver) -> None:
        gradient = np.zeros((BATCH, CLASSES))
        gradient[:, 1], gradient[:, 2] = 0.5, -0.5
        start, seen = driver.infer(X), []
        logits = driver.train_with(X, lambda z: seen.append(z) or gradient)
        np.testing.assert_array_equal(logits, seen[0])
        end = driver.infer(X)
        assert (end[:, 1] < start[:, 1]).all()
        assert (end[:, 2] > start[:, 2]).all()
        before = driver.read_weights()
        driver.train_with(X, lambda _z: np.zeros((BATCH, CLASSES)))
        for name, q in driver.read_weights().items():
            np.testing.assert_array_equal(q, before[name])

    @pytest.mark.parametrize("bad", [np.zeros((BATCH, CLASSES + 1)), np.full((BATCH, CLASSES), np.nan), None])
    def test_bad_gradient_trains_nothing(self, driver: Driver, bad: Any) -> None:
        before = driver.infer(X)

        def gradient(_z: Any) -> Any:
            if bad is None:
                raise KeyError("the host's own")
            return bad

        with pytest.raises(KeyError if bad is None else DeviceError):
            driver.train_with(X, gradient)
        for name, q in driver.read_weights().items():
            np.testing.assert_array_equal(q, tiny.compiled().masters[name])
        np.testing.assert_allclose(driver.infer(X), before, atol=0.1)

    # Counters, replay, files.

    def test_counters(self, driver: Driver) -> None:
        driver.clear_counters()
        zero = driver.counters
        assert (zero.cycles, zero.macs, zero.instructions, zero.saturated, zero.busy(CORE)) == (0, 0, 0, 0, 0.0)
        driver.infer(X)
        one = driver.counters
        forward = [i for i in driver.program.entry("infer") if i.opcode is Opcode.FORWARD]
        assert one.macs == sum(i.rows * i.cols * i.depth for i in forward)
        assert one.instructions == len(driver.program.entry("infer"))
        assert one.busy(CORE) == one.macs / (16 * one.cycles)
        assert 0 < one.busy(CORE) < 1
        assert not one.accumulator_overflow
        driver.infer(X)
        assert driver.counters.macs == 2 * one.macs

    def test_clipped_elements_are_counted(self, driver: Driver) -> None:
        driver.clear_counters()
        for name in ("1.y", "3.y"):
            driver.set_scale(driver.program.tensors[name].scale, -30)
        driver.infer(X)
        assert 0 < driver.counters.saturated <= BATCH * (tiny.HIDDEN + CLASSES)

    def test_replay(self, driver: Driver) -> None:
        driver.train(X, TARGETS)
        start = driver.snapshot()
        first = driver.train(X, TARGETS)
        end = driver.snapshot()
        assert not same(start, end)
        driver.restore(start)
        assert same(driver.snapshot(), start)
        np.testing.assert_array_equal(driver.train(X, TARGETS), first)
        assert same(driver.snapshot(), end)
        driver.restore(replace(start, seed=start.seed + 1))
        driver.train(X, TARGETS)
        assert not same(driver.snapshot(), end)

    def test_snapshot_file(self, driver: Driver, tmp_path: Path) -> None:
        driver.train(X, TARGETS)
        start = driver.snapshot()
        start.save(tmp_path / "s.npz", note=np.arange(3))
        read, extra = Snapshot.load(tmp_path / "s.npz", driver.program)
        assert same(read, start)
        np.testing.assert_array_equal(extra["note"], [0, 1, 2])
        assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]
        with pytest.raises(CheckpointError, match="this program has"):
            Snapshot.load(tmp_path / "s.npz", tiny.compiled(hidden=5).program)
