"""Verification finds nothing where nothing is wrong, and says what is wrong where something is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from insitu.arch.declaration import Declaration
from insitu.arch.isa import Opcode
from insitu.arch.layout import Memory
from insitu.host.compiler.compile import compile_module
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


@pytest.mark.slow
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


def test_differences_are_in_the_units_of_what_was_written(engine: Engine) -> None:
    """A depthwise update's of its masters; of what a pool moves the words alone are shown."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, tiny.CLASSES))
    x = np.random.default_rng(0).random((8, 2, 4, 4), dtype=np.float32)
    targets = np.eye(tiny.CLASSES, dtype=np.float32)[np.arange(8) % tiny.CLASSES]
    made = compile_module(
        module, core=tiny.CORE, declaration=Declaration.parse("w8a8e8g8"), batch=2, calibration=x, targets=targets
    )
    program, spoilt = made.program, {Opcode.POOL: Memory.ACT, Opcode.DW_UPDATE: Memory.WGT}
    found: dict[Opcode, int | None] = {}

    def spoil(run: Run, report: Report) -> None:
        if report.count:
            found[program.instructions[report.index].opcode] = report.differences[0].exponent
        opcode = program.instructions[min(report.index + 1, len(program.instructions) - 1)].opcode
        if run.entry == "train" and opcode in spoilt:
            image = engine.image(spoilt[opcode])
            image[0, 0] ^= 1
            engine.set_image(spoilt[opcode], image)

    verify(program, training(program, made.masters, x, targets, steps=1), engine, progress=spoil)
    update = next(i for i in program.instructions if i.opcode is Opcode.DW_UPDATE)
    assert program.scales[update.sm] != program.scales[update.sd]
    assert found == {Opcode.POOL: None, Opcode.DW_UPDATE: program.scales[update.sm]}


def test_exact_exponents_are_refused(engine: Engine) -> None:
    compiled = tiny.compiled()
    words = tuple(replace(i, exact=1, track=0) if i.track else i for i in compiled.program.instructions)
    with pytest.raises(DeviceError, match="exact exponents take two passes"):
        verify(replace(compiled.program, instructions=words), runs(1), engine)


def test_bad_requests(engine: Engine) -> None:
    with pytest.raises(DeviceError, match="'abacus'.*rtl, pysim"):
        open_engine(tiny.CORE, "abacus")
    with pytest.raises(DeviceError, match="no values"):
        verify(tiny.compiled().program, [Run(entry="train", values={})], engine)
