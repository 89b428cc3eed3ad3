"""Operands of instructions: which memory, how many rows and columns, over what window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.window import Window
from tests.arch.small import CONSTANT, small
from tests.reference.drawing import Case, on_any_core
from tests.reference.strategies import moves, pass_instructions
from tests.reference.vector_strategies import on_vector_cores, vector_instructions
from tests.reference.windows import Grid, operands


def shape(instruction: Instruction, operand: str) -> tuple[Memory, int, int]:
    m = instruction.matrices[operand]
    return m.memory, m.rows, m.cols


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        (small(Opcode.HALT), {}),
        (small(Opcode.LOAD, memory=Memory.WGT), {"d": (Memory.WGT, 2, 3)}),
        (small(Opcode.STORE, memory=Memory.ERR), {"a": (Memory.ERR, 2, 3)}),
        (
            small(Opcode.FORWARD),
            {"a": (Memory.ACT, 2, 4), "b": (Memory.WGT, 3, 4), "d": (Memory.ACT, 2, 3)},
        ),
        (
            small(Opcode.FORWARD, bias=1),
            {"a": (Memory.ACT, 2, 3), "b": (Memory.WGT, 3, 4), "d": (Memory.ACT, 2, 3)},
        ),
        (
            small(Opcode.BACKWARD),
            {"a": (Memory.ERR, 2, 4), "b": (Memory.WGT, 4, 3), "d": (Memory.ERR, 2, 3)},
        ),
        (
            small(Opcode.BACKWARD, mask=1),
            {"a": (Memory.ERR, 2, 4), "b": (Memory.WGT, 4, 3), "d": (Memory.ERR, 2, 3), "m": (Memory.ACT, 2, 3)},
        ),
        (
            small(Opcode.UPDATE),
            {"a": (Memory.ERR, 4, 2), "b": (Memory.ACT, 4, 3), "d": (Memory.WGT, 2, 3)},
        ),
        (
            small(Opcode.UPDATE, bias=1),
            {"a": (Memory.ERR, 4, 2), "b": (Memory.ACT, 4, 2), "d": (Memory.WGT, 2, 3)},
        ),
        (
            small(Opcode.LOSS),
            {"a": (Memory.ACT, 2, 3), "b": (Memory.ERR, 2, 3), "d": (Memory.ERR, 2, 3)},
        ),
        (
            small(Opcode.DW_FORWARD),
            {"a": (Memory.ACT, 2, 3), "b": (Memory.WGT, 1, 3), "d": (Memory.ACT, 2, 3)},
        ),
        (small(Opcode.DW_FORWARD, **CONSTANT), {"a": (Memory.ACT, 2, 3), "d": (Memory.ACT, 2, 3)}),
        (
            small(Opcode.DW_BACKWARD, mask=1, **CONSTANT),
            {"a": (Memory.ERR, 2, 3), "d": (Memory.ERR, 2, 3), "m": (Memory.ACT, 2, 3)},
        ),
        (small(Opcode.ADD), dict.fromkeys("abd", (Memory.ACT, 2, 3))),
        (small(Opcode.ADD, memory=1, mask=1), dict.fromkeys("abd", (Memory.ERR, 2, 3)) | {"m": (Memory.ACT, 2, 3)}),
        (small(Opcode.MULTIPLY), dict.fromkeys("abd", (Memory.ACT, 2, 3))),
        (
            small(Opcode.MULTIPLY, memory=1, table_bits=2),
            {"a": (Memory.ERR, 2, 3), "b": (Memory.ACT, 2, 3), "d": (Memory.ERR, 2, 3)},
        ),
        (small(Opcode.LOOKUP), dict.fromkeys("ad", (Memory.ACT, 2, 3))),
    ],
    ids=lambda value: value.opcode.name if isinstance(value, Instruction) else "",
)
def test_operands(instruction: Instruction, expected: dict[str, tuple[Memory, int, int]]) -> None:
    assert {name: shape(instruction, name) for name in instruction.matrices} == expected


#: A map of 3 x 5, an output of 2 x 4, a kernel of 2 x 3.
WINDOW = {"map_height": 3, "map_width": 5, "out_height": 2, "out_width": 4, "kernel_height": 2, "kernel_width": 3}
ONLY_MAP = {"map_height": 3, "map_width": 5}
ONE_TAP = WINDOW | {"kernel_height": 0, "kernel_width": 1}


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        # (memory, rows, columns of a group, groups, columns of the last)
        (
            small(Opcode.FORWARD, **WINDOW),
            {"a": (Memory.ACT, 30, 4, 1, 0), "b": (Memory.WGT, 3, 4, 6, 0), "d": (Memory.ACT, 16, 3, 1, 0)},
        ),
        (
            small(Opcode.FORWARD, bias=1, **WINDOW),
            {"a": (Memory.ACT, 30, 3, 1, 0), "b": (Memory.WGT, 3, 3, 6, 1), "d": (Memory.ACT, 16, 3, 1, 0)},
        ),
        (
            small(Opcode.FORWARD, bias=1, **ONE_TAP),
            {"a": (Memory.ACT, 30, 3, 1, 0), "b": (Memory.WGT, 3, 4, 1, 0), "d": (Memory.ACT, 16, 3, 1, 0)},
        ),
        (
            small(Opcode.BACKWARD, mask=1, **WINDOW),
            {
                "a": (Memory.ERR, 16, 4, 1, 0),
                "b": (Memory.WGT, 4, 3, 6, 0),
                "d": (Memory.ERR, 30, 3, 1, 0),
                "m": (Memory.ACT, 30, 3, 1, 0),
            },
        ),
        (
            small(Opcode.UPDATE, **WINDOW),
            {"a": (Memory.ERR, 32, 2, 1, 0), "b": (Memory.ACT, 60, 3, 1, 0), "d": (Memory.WGT, 2, 3, 6, 0)},
        ),
        (
            small(Opcode.UPDATE, bias=1, **WINDOW),
            {"a": (Memory.ERR, 32, 2, 1, 0), "b": (Memory.ACT, 60, 2, 1, 0), "d": (Memory.WGT, 2, 2, 6, 1)},
        ),
        (
            small(Opcode.UPDATE, bias=1, **ONE_TAP),
            {"a": (Memory.ERR, 32, 2, 1, 0), "b": (Memory.ACT, 60, 2, 1, 0), "d": (Memory.WGT, 2, 3, 1, 0)},
        ),
        (small(Opcode.POOL, **WINDOW), {"a": (Memory.ACT, 30, 3, 1, 0), "d": (Memory.ACT, 16, 3, 1, 0)}),
        (
            small(Opcode.UNPOOL, **WINDOW),
            {"a": (Memory.ERR, 16, 3, 1, 0), "b": (Memory.ACT, 30, 3, 1, 0), "d": (Memory.ERR, 30, 3, 1, 0)},
        ),
        # A kernel of one channel a lane has a row a tap and one of the bias.
        (
            small(Opcode.DW_FORWARD, bias=1, **WINDOW),
            {"a": (Memory.ACT, 30, 3, 1, 0), "b": (Memory.WGT, 7, 3, 1, 0), "d": (Memory.ACT, 16, 3, 1, 0)},
        ),
        (
            small(Opcode.DW_BACKWARD, mask=1, **WINDOW),
            {
                "a": (Memory.ERR, 16, 3, 1, 0),
                "b": (Memory.WGT, 6, 3, 1, 0),
                "d": (Memory.ERR, 30, 3, 1, 0),
                "m": (Memory.ACT, 30, 3, 1, 0),
            },
        ),
        (
            small(Opcode.DW_UPDATE, bias=1, **WINDOW),
            {"a": (Memory.ERR, 16, 3, 1, 0), "b": (Memory.ACT, 30, 3, 1, 0), "d": (Memory.WGT, 7, 3, 1, 0)},
        ),
        (small(Opcode.ADD, **ONLY_MAP), dict.fromkeys("abd", (Memory.ACT, 30, 3, 1, 0))),
        (
            small(Opcode.MULTIPLY, memory=1, broadcast=1, mask=1, **ONLY_MAP),
            {
                "a": (Memory.ERR, 30, 3, 1, 0),
                "b": (Memory.ACT, 2, 3, 1, 0),
                "d": (Memory.ERR, 30, 3, 1, 0),
                "m": (Memory.ACT, 30, 3, 1, 0),
            },
        ),
        (
            small(Opcode.REDUCE, mask=1, **ONLY_MAP),
            {
                "a": (Memory.ERR, 30, 3, 1, 0),
                "b": (Memory.ACT, 30, 3, 1, 0),
                "d": (Memory.ERR, 2, 3, 1, 0),
                "m": (Memory.ACT, 2, 3, 1, 0),
            },
        ),
        (small(Opcode.LOOKUP, **ONLY_MAP), dict.fromkeys("ad", (Memory.ACT, 30, 3, 1, 0))),
        (
            small(Opcode.LOAD, memory=Memory.WGT, bias=1, kernel_height=2, kernel_width=3),
            {"d": (Memory.WGT, 2, 2, 6, 1)},
        ),
        (small(Opcode.LOAD, memory=Memory.WGT, bias=1), {"d": (Memory.WGT, 2, 3, 1, 0)}),
        (small(Opcode.STORE, map_height=3, map_width=5), {"a": (Memory.ACT, 30, 3, 1, 0)}),
    ],
    ids=lambda value: value.opcode.name if isinstance(value, Instruction) else "",
)
def test_operands_over_a_window(
    instruction: Instruction, expected: dict[str, tuple[Memory, int, int, int, int]]
) -> None:
    got = {name: (m.memory, m.rows, m.cols, m.groups, m.tail) for name, m in instruction.matrices.items()}
    assert got == expected


@given(st.one_of(on_any_core(pass_instructions), on_vector_cores(vector_instructions), on_any_core(moves)))
def test_operands_are_those_of_the_contract(case: Case) -> None:
    for i in case.instructions:
        n = case.core.n
        grids = operands(i)
        assert set(i.matrices) == set(grids)
        for name, m in i.matrices.items():
            groups = (m.cols,) * m.groups + (m.tail,) * (m.tail > 0)
            assert Grid(memory=m.memory, base=m.base, pitch=m.pitch, rows=m.rows, groups=groups) == grids[name]
            address, bank = m.locate(n)
            places = [[grids[name].place(r, c, n) for c in range(m.width)] for r in range(m.rows)]
            assert np.stack([address, bank], axis=2).tolist() == [[list(place) for place in row] for row in places]


def test_a_window_of_an_instruction() -> None:
    w = small(Opcode.FORWARD, **WINDOW, stride=1, pad_height=2, pad_width=15).window
    assert (w.map_height, w.map_width, w.out_height, w.out_width) == (3, 5, 2, 4)
    assert (w.kernel_height, w.kernel_width, w.stride_height, w.stride_width) == (2, 3, 2, 2)
    assert (w.pad_height, w.pad_width) == (2, 15)
    for opcode in (Opcode.POOL, Opcode.UNPOOL):
        w = small(opcode, **WINDOW).window
        # A pool's kernels lie side by side.
        assert (w.stride_height, w.stride_width, w.pad_height, w.pad_width) == (2, 3, 0, 0)
    for opcode in (Opcode.ADD, Opcode.MULTIPLY, Opcode.LOOKUP):
        assert small(opcode, **ONLY_MAP).window == Window(map_height=3, map_width=5, out_height=3, out_width=5)
    w = small(Opcode.REDUCE, **ONLY_MAP).window
    # The one output pixel meets every map pixel.
    assert w == Window(map_height=3, map_width=5, kernel_height=3, kernel_width=5)
    assert w.reads.tolist() == [list(range(15))]
    # An extent of 0 is one.
    for opcode in set(Opcode) - {Opcode.HALT}:
        assert small(opcode).window == Window()


def test_operands_take_their_own_base_and_pitch() -> None:
    places = {f"{p}_{part}": 10 * k + j for k, p in enumerate("abdm", 1) for j, part in enumerate(("base", "pitch"))}
    matrices = small(Opcode.BACKWARD, mask=1, **places).matrices
    assert {name: (m.base, m.pitch) for name, m in matrices.items()} == {
        p: (10 * k, 10 * k + 1) for k, p in enumerate("abdm", 1)
    }
