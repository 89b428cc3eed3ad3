"""The cycle report and its timeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.arch.declaration import Declaration
from insitu.arch.errors import ArchError
from insitu.arch.isa import assemble
from insitu.arch.params import PRESETS, CoreParams
from insitu.arch.program import Program
from insitu.host.compiler.compile import compile_module
from insitu.models.students import mlp
from insitu.sim import cycles, timeline
from insitu.sim.emulator import Emulator
from tests.reference.drawing import Case, on_any_core
from tests.reference.strategies import convolution_sequences, train_sequences


def program(sizes: list[int], batch: int, core: CoreParams) -> Program:
    x = np.random.default_rng(0).random((8, sizes[0]), dtype=np.float32)
    return compile_module(mlp(sizes, seed=0), core=core, declaration=Declaration(), batch=batch, calibration=x).program


@pytest.fixture(scope="module")
def step() -> cycles.CycleReport:
    return cycles.report(program([784, 256, 128, 10], 64, PRESETS["edge16"]), "train")


def test_a_training_step_keeps_the_array_busy(step: cycles.CycleReport) -> None:
    assert step.busy >= 0.9
    forward, backward = 784 * 256 + 256 * 128 + 128 * 10, 256 * 128 + 128 * 10
    biases = 2 * (256 + 128 + 10)
    assert step.macs == 64 * (2 * forward + backward + biases)


def test_instructions_follow_one_another(step: cycles.CycleReport) -> None:
    ends = [0, *(t.end for t in step.instructions)]
    assert [t.start for t in step.instructions] == ends[:-1]
    assert ends[-1] == step.cycles


def test_units_add_up(step: cycles.CycleReport) -> None:
    assert sum(step.units().values()) == step.cycles
    assert step.units()["array"] * step.core.cells >= step.macs


@settings(max_examples=60)
@given(st.one_of(on_any_core(train_sequences), on_any_core(convolution_sequences)))
def test_the_emulator_counts_what_the_model_says(case: Case) -> None:
    report = cycles.time(case.core, case.instructions)
    emulator = Emulator(case.core)
    emulator.load_program(assemble(case.instructions))
    emulator.stream_in.put(case.stream_in)
    emulator.start(0)
    emulator.advance()
    assert (emulator.counters.cycles, emulator.counters.macs) == (report.cycles, report.macs)


def test_an_unknown_entry() -> None:
    with pytest.raises(ArchError, match="entry 'trian': this program has infer, train"):
        cycles.report(program([16, 4], 4, PRESETS["tiny4"]), "trian")


def test_timeline(step: cycles.CycleReport, tmp_path: Path) -> None:
    timeline.save(step, tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    complete = [e for e in events if e["ph"] == "X"]
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    by_track: dict[str, int] = {}
    for e in complete:
        by_track[tracks[e["tid"]]] = by_track.get(tracks[e["tid"]], 0) + e["dur"]
    # The instructions fill the time; so do the units between them.
    assert by_track.pop("instructions") == step.cycles
    assert sum(by_track.values()) == step.cycles
    for name, unit in (("array", "array"), ("vector", "vector"), ("stream", "stream")):
        assert by_track[name] == step.units()[unit]
    starts = sorted((e["ts"], e["ts"] + e["dur"]) for e in complete if tracks[e["tid"]] == "instructions")
    assert all(a[1] == b[0] for a, b in zip(starts, starts[1:], strict=False))
