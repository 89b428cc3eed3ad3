"""What lies where as a step goes on: found in the instructions, whatever the compiler meant."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from insitu.arch.declaration import Declaration
from insitu.arch.isa import Opcode
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.arch.program import Program
from insitu.host import memory_map
from insitu.host.compiler.compile import compile_module
from insitu.host.errors import HostError
from insitu.models.mobile import mobilenet_v3

N = 8


def program(act_depth: int = 5000, err_depth: int = 2100) -> Program:
    """A student whose tensors do not all fit at once."""
    core = CoreParams(n=N, act_depth=act_depth, err_depth=err_depth, scales=128)
    x = np.random.default_rng(0).random((4, 1, 12, 12), dtype=np.float32)
    module = mobilenet_v3((1, 12, 12), 10, blocks=2).eval()
    made = compile_module(module, core=core, declaration=Declaration.parse("w8a8e8g8"), batch=3, calibration=x)
    return made.program


def test_nothing_lies_over_what_is_still_needed() -> None:
    found = memory_map.segments(program())
    for one, other in combinations(found, 2):
        if one.matrix.overlaps(other.matrix, N):
            # What one instruction reads last, that instruction's own result does not lie over.
            assert one.last < other.first or other.last < one.first, f"{one} and {other}"


def test_places_are_used_again() -> None:
    errors = [s for s in memory_map.segments(program()) if s.matrix.memory is Memory.ERR]
    assert sum(s.matrix.words(N) for s in errors) > 2100


def test_every_operand_is_in_a_segment_of_its_name() -> None:
    made = program()
    found = memory_map.segments(made)
    train = made.entry("train")
    for index, instruction in enumerate(train):
        for matrix in instruction.matrices.values():
            here = [s for s in found if s.matrix.overlaps(matrix, N) and s.first <= index <= s.last]
            assert len(here) == 1
            assert {made.tensors[name].matrix.base for name in here[0].names} == {matrix.base}
    logits = next(s for s in found if s.names == ("9.y",))
    assert [train[k].opcode for k in (logits.first, logits.last)] == [Opcode.FORWARD, Opcode.LOSS]
    weights = [s for s in found if s.matrix.memory is Memory.WGT]
    assert {(s.first, s.last) for s in weights} == {(0, len(train) - 1)}


def test_a_drawing_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = program()
    with pytest.raises(HostError, match=r"its name ends in \.svg, \.pdf, \.png"):
        memory_map.draw(made, tmp_path / "map")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        memory_map.draw(made, tmp_path / "map.svg")
    assert not list(tmp_path.iterdir())


def test_drawn(tmp_path: Path) -> None:
    made = program()
    memory_map.draw(made, tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text()
    assert "ACT" in text
    assert text.startswith("<?xml")
