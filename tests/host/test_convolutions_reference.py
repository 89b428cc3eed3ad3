"""Whole convolutional students on the emulator and on the reference in plain integers, after every instruction."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from insitu.arch.declaration import Declaration, Role
from insitu.arch.isa import Opcode
from insitu.arch.numbers import Rounding
from insitu.arch.params import CoreParams
from insitu.arch.program import Program
from insitu.host.compiler.compile import Compiled, compile_module
from insitu.host.device.packing import Packing
from insitu.host.errors import CompileError
from insitu.host.verify import Run, training
from insitu.sim.emulator import Emulator
from tests.reference.compare import expect_equal
from tests.reference.machine import ReferenceMachine
from tests.sim.test_emulator import state_of

SHAPE, CLASSES, BATCH, SEED = (2, 7, 6), 3, 2, 5
FORMATS = Declaration.parse("w8a8e8g8", rounding={Role.ERROR.value: Rounding.STOCHASTIC})
CORE = CoreParams(n=4, act_depth=1024, err_depth=1024, wgt_depth=256).with_declaration(FORMATS)
X = np.random.default_rng(0).random((3 * BATCH, *SHAPE), dtype=np.float32)
TARGETS = np.random.default_rng(1).dirichlet(np.full(CLASSES, 0.3), len(X)).astype(np.float32)


#: First layers: sent as patches and as a map.
FIRST: dict[str, Callable[[], nn.Conv2d]] = {
    "3x3": lambda: nn.Conv2d(2, 5, 3, padding=1),
    "1x3, stride 2": lambda: nn.Conv2d(2, 5, (1, 3), bias=False, stride=2),
    "1x1": lambda: nn.Conv2d(2, 5, 1),
}


def compiled(first: str, core: CoreParams = CORE) -> Compiled:
    torch.manual_seed(3)
    lowest = FIRST[first]()
    module = nn.Sequential(
        lowest,
        nn.BatchNorm2d(5),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.ReLU(),
        nn.Conv2d(5, 6, (3, 2), stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(CLASSES),
    ).eval()
    with torch.no_grad():
        module(torch.zeros(1, *SHAPE))
    return compile_module(
        module, core=core, declaration=FORMATS, batch=BATCH, calibration=X, targets=TARGETS, learning_rate=0.5
    )


def beats(program: Program, run: Run) -> list[list[int]]:
    """What an entry's LOADs take, in order."""
    taken: list[list[int]] = []
    for instruction in program.entry(run.entry):
        if instruction.opcode is Opcode.LOAD:
            name = next(n for n in run.values if program.tensors[n].matrix == instruction.d)
            packing = Packing(name, program.tensors[name], program.core.n)
            empty = np.zeros((packing.beats, program.core.n), dtype=np.int64)
            taken += packing.fill(empty, run.values[name]).tolist()
    return taken


def compare(made: Compiled) -> None:
    """Load the masters, train twice, infer, read the masters back: on both, everything compared after each word."""
    program = made.program
    reference, emulator = ReferenceMachine(program.core), Emulator(program.core)
    reference.seed = emulator.seed = SEED
    for index, exponent in enumerate(program.scales):
        emulator.scales[index][:] = [exponent, exponent]
        reference.scale[index] = (exponent, exponent)
    emulator.load_program(program.words)
    for run in training(program, made.masters, X, TARGETS, steps=2):
        given = beats(program, run)
        emulator.stream_in.put(np.array(given, dtype=np.int64).reshape(-1, program.core.n))
        stream = iter(given)
        start = program.start(run.entry)
        emulator.start(start)
        for index, instruction in enumerate(program.entry(run.entry), start):
            reference.stream_out.clear()
            reference.execute(program.words[index].tolist(), stream)
            assert emulator.advance(1) == 1
            expect_equal(program.core, instruction, reference.state(), state_of(emulator))
        assert next(stream, None) is None


@pytest.mark.parametrize("first", FIRST)
def test_emulator_and_reference_agree(first: str) -> None:
    compare(compiled(first))


def test_where_errors_share_memory() -> None:
    with pytest.raises(CompileError) as refused:
        compiled("3x3", replace(CORE, err_depth=1))
    found = re.search(r"err_depth=(\d+)", str(refused.value))
    assert found is not None
    compare(compiled("3x3", replace(CORE, err_depth=int(found[1]))))
