"""Verification finds nothing where nothing is wrong, and says what is wrong where something is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from insitu.arch.layout import Memory
from insitu.host.errors import DeviceError
from insitu.host.verify import Run, open_engine, training, verify
from insitu.sim.rtl.engine import Engine
from insitu.sim.rtl.lockstep import Report
from tests.host import tiny

X, TARGETS = tiny.samples(3 * tiny.BATCH, seed=4)


def runs(steps: int) -> Iterator[Run]:
    compiled = tiny.compiled()
    return training(compiled.program, compiled.masters, X, TARGETS, steps=steps)


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = open_engine(tiny.CORE)
    yield made
    made.close()


@pytest.mark.parametrize("stalls", [None, (3, 0.5)])
def test_equal(engine: Engine, stalls: tuple[int, float] | None) -> None:
    result = verify(tiny.compiled().program, runs(3), engine, stalls=stalls)
    assert result.mismatches == 0, str(result.first)
    assert result.steps == 3
    assert result.rtl_cycles == result.model_cycles > 0
    assert set(result.to_json()) == {"steps", "instructions", "mismatches", "rtl_cycles", "model_cycles"}


def test_equal_on_amaranths_simulator() -> None:
    interpreted = open_engine(tiny.CORE, "pysim")
    result = verify(tiny.compiled().program, list(runs(1))[:2], interpreted)
    interpreted.close()
    assert result.mismatches == 0, str(result.first)


def test_first_difference_is_shown(engine: Engine) -> None:
    program = tiny.compiled().program
    first_train = program.entries["train"]
    seen = []

    def spoil(run: Run, report: Report) -> None:
        """Flip a bit of a stored weight before the first training step's second instruction."""
        seen.append(report.index)
        if run.entry == "train" and report.index == first_train:
            image = engine.image(Memory.WGT)
            image[0, 0] ^= 1
            engine.set_image(Memory.WGT, image)

    result = verify(program, runs(1), engine, progress=spoil)
    assert result.mismatches == 1  # given the emulator's state again, the rest is equal
    assert result.first is not None
    assert result.first.index == first_train + 1
    text = str(result.first)
    assert f"instruction {first_train + 1}" in text
    assert "WGT[0x0] bank 0" in text
    assert "expected" in text
    assert len(seen) == result.instructions


def test_bad_requests(engine: Engine) -> None:
    with pytest.raises(DeviceError, match="'abacus'.*rtl, pysim"):
        open_engine(tiny.CORE, "abacus")
    with pytest.raises(DeviceError, match="no values"):
        verify(tiny.compiled().program, [Run(entry="train", values={})], engine)
