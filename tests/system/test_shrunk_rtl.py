"""A shrunk student on the RTL: the same bits, and the saving that the cycle model foretold."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import nn

from insitu.arch.declaration import Declaration
from insitu.host.compiler.compile import compile_module
from insitu.host.compiler.trace import trace
from insitu.host.device import open_device
from insitu.host.shrink import twin
from insitu.host.shrink.request import Shrink
from insitu.host.shrink.runner import Shrinking, shrink
from insitu.host.shrink.tuning import Feedback
from insitu.host.verify import open_engine, training, verify
from insitu.sim import cycles
from tests.system.sweep_cases import CORES

SHAPE, CLASSES, BATCH = (1, 8, 8), 4, 2
#: A core that the sweep compiles too.
CORE = CORES["n4-widest"][0]
DECLARATION = Declaration.parse("w5m11a7e3g13c48t6")


def student() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 10, 1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(40, CLASSES)),
        )


def test_a_shrunk_student_saves_what_the_model_says() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((24, *SHAPE), dtype=np.float32)
    targets = rng.dirichlet(np.full(CLASSES, 0.3), len(x)).astype(np.float32)
    module = student()
    compiled = compile_module(
        module, core=CORE, declaration=DECLARATION, batch=BATCH, calibration=x, targets=targets, sample_range=1.0
    )
    with open_device(CORE) as driver:
        driver.load(compiled.program)
        driver.write_weights(compiled.masters)
        served = driver.snapshot()
    graph = trace(copy.deepcopy(module), SHAPE)
    twin.load(graph, compiled.program, served)
    found = shrink(
        Shrinking(
            request=Shrink(folder=Path(), to=0.6, by="thinet"),
            shape=SHAPE,
            graph=graph,
            program=compiled.program,
            served=served,
            lr=0.1,
            stream_lr=0.1,
            seed=0,
            feedback=Feedback(x=x, targets=targets, held_out=x[:0], classes=np.empty(0, np.int64)),
            x_test=x,
            y_test=targets.argmax(axis=1),
        )
    )
    assert found.report["after"]["agreement"] is None
    taken = []
    engine = open_engine(CORE)
    try:
        for program, masters in ((compiled.program, compiled.masters), (found.program, found.snapshot.masters)):
            result = verify(program, training(program, masters, x, targets, steps=2), engine)
            assert result.mismatches == 0, str(result.first)
            taken.append(result)
    finally:
        engine.close()
    before, after = taken
    # Both load their masters, take two steps, answer once, give their masters back.
    runs = {"load_weights": 1, "train": 2, "infer": 1, "store_weights": 1}
    foretold = [
        sum(times * cycles.report(program, entry).cycles for entry, times in runs.items())
        for program in (compiled.program, found.program)
    ]
    assert before.rtl_cycles - after.rtl_cycles == foretold[0] - foretold[1] > 0
    assert found.report["before"]["cycles"] - found.report["after"]["cycles"] == (
        cycles.report(compiled.program, "train").cycles - cycles.report(found.program, "train").cycles
    )
    assert found.report["after"]["cycles"] <= 0.6 * found.report["before"]["cycles"]
