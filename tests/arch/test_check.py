"""What one core can execute: its widths, its memories, rows that do not overlap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.arch.check import PlaceError, UnitError, WidthError, check, check_apart
from insitu.arch.isa import VECTOR_UNIT, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from tests.reference.drawing import Case, on_any_core
from tests.reference.strategies import convolution_sequences, moves, pass_instructions, train_sequences
from tests.reference.vector_strategies import (
    depthwise_sequences,
    on_vector_cores,
    vector_instructions,
    vector_sequences,
)

CORE = CoreParams(
    n=4,
    weight_bits=5,
    master_bits=12,
    activation_bits=7,
    error_bits=6,
    gradient_bits=9,
    target_bits=10,
    momentum_bits=8,
    act_depth=64,
    err_depth=32,
    wgt_depth=48,
    tab_depth=24,
)
PITCHES = {"a_pitch": 2, "b_pitch": 2, "d_pitch": 2}
SHAPE = {"rows": 5, "cols": 6, "depth": 7}
KERNEL = {"rows": 2, "cols": 6, "map_width": 3, "out_width": 2, "kernel_width": 2}
PASSES: dict[Opcode, Instruction] = {
    Opcode.FORWARD: Instruction(opcode=Opcode.FORWARD, width=7, weight_width=5, **SHAPE, **PITCHES),
    Opcode.BACKWARD: Instruction(
        opcode=Opcode.BACKWARD, width=6, weight_width=5, mask=1, m_pitch=2, **SHAPE, **PITCHES
    ),
    Opcode.UPDATE: Instruction(opcode=Opcode.UPDATE, width=9, master_width=12, momentum_width=8, **SHAPE, **PITCHES),
    Opcode.LOSS: Instruction(opcode=Opcode.LOSS, width=6, rows=5, cols=6, **PITCHES),
    Opcode.DW_FORWARD: Instruction(opcode=Opcode.DW_FORWARD, width=7, weight_width=5, **KERNEL, **PITCHES),
    Opcode.DW_BACKWARD: Instruction(
        opcode=Opcode.DW_BACKWARD, width=6, weight_width=5, mask=1, m_pitch=2, **KERNEL, **PITCHES
    ),
    Opcode.DW_UPDATE: Instruction(opcode=Opcode.DW_UPDATE, width=9, master_width=12, bias=1, **KERNEL, **PITCHES),
    Opcode.ADD: Instruction(opcode=Opcode.ADD, width=7, rows=5, cols=6, **PITCHES),
    Opcode.MULTIPLY: Instruction(
        opcode=Opcode.MULTIPLY, memory=Memory.ERR, width=6, mask=1, m_pitch=2, rows=5, cols=6, table_bits=4, **PITCHES
    ),
    Opcode.REDUCE: Instruction(opcode=Opcode.REDUCE, width=6, rows=5, cols=6, map_width=2, **PITCHES),
}
#: ADD and MULTIPLY narrow to what their memory holds.
ELSEWHERE = [
    Instruction(opcode=Opcode.ADD, memory=Memory.ERR, width=6, rows=5, cols=6, **PITCHES),
    Instruction(opcode=Opcode.MULTIPLY, width=7, rows=5, cols=6, **PITCHES),
]
LOOKUP = Instruction(
    opcode=Opcode.LOOKUP, rows=5, cols=6, a_pitch=2, d_pitch=2, table_base=16, table_bits=3, table_drop=1
)
MOVES = [
    Instruction(opcode=opcode, memory=memory, rows=5, cols=6, **{f"{operand}_pitch": 2})
    for opcode, operand in [(Opcode.LOAD, "d"), (Opcode.STORE, "a")]
    for memory in Memory
    if (opcode, memory) != (Opcode.STORE, Memory.TAB)
]
EVERY = [*PASSES.values(), *ELSEWHERE, LOOKUP, *MOVES]


@pytest.mark.parametrize("instruction", [*EVERY, Instruction(opcode=Opcode.HALT)], ids=str)
def test_the_widest_a_core_has(instruction: Instruction) -> None:
    check(instruction, CORE)


@given(on_any_core(pass_instructions))
def test_passes_drawn_for_a_core(case: Case) -> None:
    check(case.instructions[0], case.core)


@given(
    st.one_of(
        *(on_any_core(programs) for programs in (train_sequences, convolution_sequences, moves)),
        *(on_vector_cores(programs) for programs in (vector_instructions, vector_sequences, depthwise_sequences)),
    )
)
def test_programs_drawn_for_a_core(case: Case) -> None:
    for instruction in case.instructions:
        check(instruction, case.core)


def test_a_core_without_velocities() -> None:
    core = replace(CORE, momentum_bits=0)
    with pytest.raises(WidthError, match=r"UPDATE.momentum_width=8: this core's momentum datapath has 0 bits"):
        check(PASSES[Opcode.UPDATE], core)
    with pytest.raises(PlaceError, match="of VEL, which has 0"):
        check(Instruction(opcode=Opcode.LOAD, memory=Memory.VEL, rows=1, cols=1), core)


POOL = Instruction(opcode=Opcode.POOL, rows=2, cols=3, a_pitch=1, d_pitch=1)
PADDED = replace(PASSES[Opcode.FORWARD], pad_width=1)


@pytest.mark.parametrize(
    ("instruction", "lacks"),
    [
        *((PASSES[opcode], ("windows", "vector")) for opcode in PASSES if opcode in VECTOR_UNIT),
        (LOOKUP, ("windows", "vector")),
        *((i, ("windows",)) for i in (POOL, PADDED)),
        *((PASSES[opcode], ()) for opcode in PASSES if opcode not in VECTOR_UNIT),
    ],
    ids=lambda value: value.opcode.name if isinstance(value, Instruction) else None,
)
def test_a_core_without_units(instruction: Instruction, lacks: tuple[str, ...]) -> None:
    check(instruction, CORE)
    for core in (replace(CORE, vector=0), replace(CORE, windows=0, vector=0)):
        units = [unit for unit in lacks if not getattr(core, unit)]
        if units:
            text = " and ".join(f"{unit}=0" for unit in units)
            with pytest.raises(UnitError, match=f"^{instruction.opcode.name}: this core has {text}$"):
                check(instruction, core)
        else:
            check(instruction, core)


def test_a_core_without_tables_has_no_memory_of_them() -> None:
    with pytest.raises(PlaceError, match="of TAB, which has 0"):
        check(Instruction(opcode=Opcode.LOAD, memory=Memory.TAB, rows=1, cols=1), replace(CORE, vector=0))


@pytest.mark.parametrize(
    ("opcode", "field", "role"),
    [
        (Opcode.FORWARD, "width", "activation"),
        (Opcode.FORWARD, "weight_width", "weight"),
        (Opcode.BACKWARD, "width", "error"),
        (Opcode.BACKWARD, "weight_width", "weight"),
        (Opcode.UPDATE, "width", "gradient"),
        (Opcode.UPDATE, "master_width", "master"),
        (Opcode.UPDATE, "momentum_width", "momentum"),
        (Opcode.LOSS, "width", "error"),
        (Opcode.DW_FORWARD, "width", "activation"),
        (Opcode.DW_FORWARD, "weight_width", "weight"),
        (Opcode.DW_BACKWARD, "width", "error"),
        (Opcode.DW_BACKWARD, "weight_width", "weight"),
        (Opcode.DW_UPDATE, "width", "gradient"),
        (Opcode.DW_UPDATE, "master_width", "master"),
        (Opcode.ADD, "width", "activation"),
        (Opcode.MULTIPLY, "width", "error"),
        (Opcode.REDUCE, "width", "error"),
    ],
)
def test_a_bit_more(opcode: Opcode, field: str, role: str) -> None:
    refused_a_bit_wider(PASSES[opcode], field, role)


@pytest.mark.parametrize(("instruction", "role"), list(zip(ELSEWHERE, ["error", "activation"], strict=True)))
def test_a_bit_more_than_its_memory(instruction: Instruction, role: str) -> None:
    refused_a_bit_wider(instruction, "width", role)


def refused_a_bit_wider(instruction: Instruction, field: str, role: str) -> None:
    has = getattr(instruction, field)
    wide = replace(instruction, **{field: has + 1})
    name = instruction.opcode.name
    with pytest.raises(WidthError, match=rf"{name}\.{field}={has + 1}: .*{role} datapath has {has} bits"):
        check(wide, CORE)


@pytest.mark.parametrize("instruction", [LOOKUP, PASSES[Opcode.MULTIPLY]], ids=str)
def test_a_table_ends_with_its_memory(instruction: Instruction) -> None:
    """TAB has 24 words: three tables of 8, one of 16."""
    size = 1 << instruction.table_bits
    last = 24 // size * size - size
    check(replace(instruction, table_base=last), CORE)
    with pytest.raises(PlaceError, match=rf"its table ends at word {last + 2 * size} of TAB, which has 24"):
        check(replace(instruction, table_base=last + size), CORE)


def test_without_a_table_none_is_looked_for() -> None:
    check(replace(PASSES[Opcode.MULTIPLY], table_bits=0, table_base=4095), CORE)


def operands() -> list[Any]:
    return [
        pytest.param(i, name, id=f"{i.opcode.name}-{m.memory.name}-{name}")
        for i in EVERY
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


@pytest.mark.parametrize(("d_base", "over"), [(0, "a"), (9, "a"), (10, ""), (19, "b"), (20, "b"), (30, "")])
def test_d_apart_from_what_it_is_of(d_base: int, over: str) -> None:
    """A takes words 0 to 9 of ACT, B 20 to 29: D, of ten words, between them or behind."""
    add = Instruction(opcode=Opcode.ADD, width=7, rows=5, cols=6, b_base=20, d_base=d_base, **PITCHES)  # type: ignore[arg-type]
    if over:
        with pytest.raises(PlaceError, match=f"ADD: D at word {d_base} lies over operand {over}"):
            check_apart(add, CORE.n)
    else:
        check_apart(add, CORE.n)


@pytest.mark.parametrize("field", ["sa", "sb", "sd", "sm"])
def test_scale_registers_end_with_the_cores(field: str) -> None:
    update = PASSES[Opcode.UPDATE]
    for scales in (64, 128, 256):
        core = replace(CORE, scales=scales)
        check(replace(update, **{field: scales - 1}), core)
        if scales < 256:
            with pytest.raises(PlaceError, match=rf"UPDATE\.{field}={scales}: this core has {scales} scale registers"):
                check(replace(update, **{field: scales}), core)
