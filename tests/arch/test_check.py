"""What one core can execute: its widths, its memories, rows that do not overlap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.arch.check import PlaceError, WidthError, check
from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from tests.reference.drawing import Case, on_any_core
from tests.reference.strategies import convolution_sequences, moves, pass_instructions, train_sequences

CORE = CoreParams(
    n=4,
    weight_bits=5,
    master_bits=12,
    activation_bits=7,
    error_bits=6,
    gradient_bits=9,
    target_bits=10,
    act_depth=64,
    err_depth=32,
    wgt_depth=48,
)
PITCHES = {"a_pitch": 2, "b_pitch": 2, "d_pitch": 2}
SHAPE = {"rows": 5, "cols": 6, "depth": 7}
PASSES: dict[Opcode, Instruction] = {
    Opcode.FORWARD: Instruction(opcode=Opcode.FORWARD, width=7, weight_width=5, **SHAPE, **PITCHES),
    Opcode.BACKWARD: Instruction(
        opcode=Opcode.BACKWARD, width=6, weight_width=5, mask=1, m_pitch=2, **SHAPE, **PITCHES
    ),
    Opcode.UPDATE: Instruction(opcode=Opcode.UPDATE, width=9, master_width=12, **SHAPE, **PITCHES),
    Opcode.LOSS: Instruction(opcode=Opcode.LOSS, width=6, rows=5, cols=6, **PITCHES),
}
MOVES = [
    Instruction(opcode=opcode, memory=memory, rows=5, cols=6, **{f"{operand}_pitch": 2})
    for opcode, operand in [(Opcode.LOAD, "d"), (Opcode.STORE, "a")]
    for memory in Memory
]


@pytest.mark.parametrize("instruction", [*PASSES.values(), *MOVES, Instruction(opcode=Opcode.HALT)], ids=str)
def test_the_widest_a_core_has(instruction: Instruction) -> None:
    check(instruction, CORE)


@given(on_any_core(pass_instructions))
def test_passes_drawn_for_a_core(case: Case) -> None:
    check(case.instructions[0], case.core)


@settings(deadline=None)
@given(st.one_of(on_any_core(train_sequences), on_any_core(convolution_sequences), on_any_core(moves)))
def test_programs_drawn_for_a_core(case: Case) -> None:
    for instruction in case.instructions:
        check(instruction, case.core)


@pytest.mark.parametrize(
    ("opcode", "field", "role"),
    [
        (Opcode.FORWARD, "width", "activation"),
        (Opcode.FORWARD, "weight_width", "weight"),
        (Opcode.BACKWARD, "width", "error"),
        (Opcode.BACKWARD, "weight_width", "weight"),
        (Opcode.UPDATE, "width", "gradient"),
        (Opcode.UPDATE, "master_width", "master"),
        (Opcode.LOSS, "width", "error"),
    ],
)
def test_a_bit_more(opcode: Opcode, field: str, role: str) -> None:
    has = getattr(PASSES[opcode], field)
    wide = replace(PASSES[opcode], **{field: has + 1})
    with pytest.raises(WidthError, match=rf"{opcode.name}\.{field}={has + 1}: .*{role} datapath has {has} bits"):
        check(wide, CORE)


def operands() -> list[Any]:
    return [
        pytest.param(i, name, id=f"{i.opcode.name}-{m.memory.name}-{name}")
        for i in [*PASSES.values(), *MOVES]
        for name, m in i.matrices.items()
    ]


@pytest.mark.parametrize(("instruction", "operand"), operands())
def test_an_operand_ends_with_its_memory(instruction: Instruction, operand: str) -> None:
    matrix = instruction.matrices[operand]
    depth = CORE.depth(matrix.memory)
    last = depth - matrix.words(CORE.n)
    check(replace(instruction, **{f"{operand}_base": last}), CORE)
    with pytest.raises(PlaceError, match=rf"operand {operand}: ends at word {depth + 1} of {matrix.memory.name}"):
        check(replace(instruction, **{f"{operand}_base": last + 1}), CORE)


@pytest.mark.parametrize(("instruction", "operand"), operands())
def test_rows_do_not_overlap(instruction: Instruction, operand: str) -> None:
    matrix = instruction.matrices[operand]
    with pytest.raises(PlaceError, match=rf"operand {operand}: rows of {matrix.cols} elements.*pitch of 1 "):
        check(replace(instruction, **{f"{operand}_pitch": 1}), CORE)


def test_a_single_row_needs_no_pitch() -> None:
    check(Instruction(opcode=Opcode.LOAD, rows=1, cols=9), CORE)


def test_groups_of_columns_do_not_overlap() -> None:
    kernel = {"kernel_width": 2, "width": 2, "master_width": 8, "a_pitch": 1, "b_pitch": 1}
    shape = {"rows": 2, "cols": 4, "depth": 1}
    update = Instruction(opcode=Opcode.UPDATE, **shape, **kernel, d_pitch=2)  # type: ignore[arg-type]
    check(update, CORE)
    with pytest.raises(PlaceError, match="operand d: rows of 8 elements overlap at a pitch of 1 words"):
        check(replace(update, d_pitch=1), CORE)
