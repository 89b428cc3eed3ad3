"""Instructions: words and back, refusal of what is none, disassembly."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.arch.errors import ArchError
from insitu.arch.isa import FIELDS, USED, WORDS, Instruction, Opcode, assemble, disassemble
from insitu.arch.layout import Memory
from insitu.arch.numbers import Overflow, Rounding
from insitu.arch.window import Window
from tests.reference.drawing import Case, on_any_core
from tests.reference.strategies import moves, pass_instructions
from tests.reference.windows import Grid, operands

ENUMS = {"rounding": Rounding, "update_rounding": Rounding, "overflow": Overflow, "memory": Memory}
LOWEST = {"width": 2, "weight_width": 2, "master_width": 2, "rows": 1, "cols": 2, "depth": 2}
HIGHEST = {"width": 16, "weight_width": 16, "master_width": 32}

SMALL: dict[Opcode, dict[str, Any]] = {
    Opcode.HALT: {},
    Opcode.LOAD: {"rows": 2, "cols": 3},
    Opcode.STORE: {"rows": 2, "cols": 3},
    Opcode.FORWARD: {"rows": 2, "cols": 3, "depth": 4, "width": 8, "weight_width": 8},
    Opcode.BACKWARD: {"rows": 2, "cols": 3, "depth": 4, "width": 8, "weight_width": 8},
    Opcode.UPDATE: {"rows": 2, "cols": 3, "depth": 4, "width": 8, "master_width": 16},
    Opcode.LOSS: {"rows": 2, "cols": 3, "width": 8},
    Opcode.POOL: {"rows": 2, "cols": 3},
    Opcode.UNPOOL: {"rows": 2, "cols": 3},
}


def small(opcode: Opcode, **changes: Any) -> Instruction:
    return Instruction(opcode=opcode, **(SMALL[opcode] | changes))


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    """Any valid instruction: every field it reads anywhere in its range."""
    opcode = draw(st.sampled_from(Opcode))
    values: dict[str, Any] = {}
    for name in USED[opcode]:
        f = FIELDS[name]
        if name in ENUMS:
            values[name] = draw(st.sampled_from(ENUMS[name]))
        elif name == "weight_rounding":
            values[name] = draw(st.sampled_from([Rounding.FLOOR, Rounding.NEAREST]))
        else:
            values[name] = draw(st.integers(LOWEST.get(name, f.minimum), HIGHEST.get(name, f.maximum)))
    if values.get("track"):
        values["exact"] = 0
    if opcode in (Opcode.LOAD, Opcode.STORE):
        values["cols"] = max(values["cols"], 1 + values["bias"])
    return Instruction(opcode=opcode, **values)


# The table.


def test_no_two_fields_share_a_bit() -> None:
    taken = [0] * WORDS
    for name, f in FIELDS.items():
        assert 0 < f.mask < 2**32, name
        assert taken[f.word] & f.mask == 0, name
        taken[f.word] |= f.mask
        assert f.maximum - f.minimum == 2**f.width - 1, name
        assert f.doc, name


def test_every_field_is_read_by_some_instruction() -> None:
    assert {name for used in USED.values() for name in used} | {"opcode"} == set(FIELDS)
    assert set(USED) == set(Opcode)


# Words and back.


@given(instructions())
def test_decode_inverts_encode(instruction: Instruction) -> None:
    words = instruction.encode()
    assert words.dtype == np.uint32
    assert words.shape == (WORDS,)
    decoded = Instruction.decode(words)
    assert decoded == instruction
    assert Instruction.decode(words.tolist()) == instruction
    for name in ENUMS:
        assert type(getattr(decoded, name)) is ENUMS[name]
    assert type(decoded.opcode) is Opcode


@given(instructions(), st.integers(0, WORDS * 32 - 1))
def test_a_flipped_bit_is_another_instruction_or_none(instruction: Instruction, position: int) -> None:
    words = instruction.encode()
    words[position // 32] ^= np.uint32(1 << position % 32)
    try:
        other = Instruction.decode(words)
    except ArchError:
        return
    assert other != instruction
    assert np.array_equal(other.encode(), words)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=WORDS, max_size=WORDS))
def test_arbitrary_words_are_refused_or_exact(words: list[int]) -> None:
    try:
        instruction = Instruction.decode(words)
    except ArchError:
        return
    assert instruction.encode().tolist() == words


@pytest.mark.parametrize("word", range(WORDS))
def test_reserved_bits_are_refused(word: int) -> None:
    claimed = sum(f.mask for f in FIELDS.values() if f.word == word)
    for bit in range(40):
        if claimed >> bit & 1:
            continue
        words = small(Opcode.FORWARD).encode().tolist()
        words[word] |= 1 << bit
        with pytest.raises(ArchError, match=f"word {word} is {words[word]:#010x}"):
            Instruction.decode(words)


@pytest.mark.parametrize("value", [9, 12, 15])
def test_opcodes_that_are_none(value: int) -> None:
    with pytest.raises(ArchError, match=rf"opcode={value}: allowed are 0 \(HALT\).*8 \(UNPOOL\)"):
        Instruction.decode([value] + [0] * (WORDS - 1))


def test_a_memory_that_is_none() -> None:
    words = small(Opcode.LOAD).encode()
    words[0] |= np.uint32(3 << FIELDS["memory"].lsb)
    with pytest.raises(ArchError, match=r"memory=3: allowed are 0 \(ACT\), 1 \(ERR\), 2 \(WGT\)"):
        Instruction.decode(words)


@pytest.mark.parametrize(("opcode", "field", "value"), [(Opcode.LOAD, "memory", 3), (9, "opcode", 9)])
def test_enumerations_are_checked_where_an_instruction_is_made(opcode: Any, field: str, value: int) -> None:
    """What encodes must decode: a value that no enumeration has is refused at once."""
    values = {"opcode": opcode, "rows": 1, "cols": 1, field: value}
    with pytest.raises(ArchError, match=f"{field}={value}"):
        Instruction(**values)


@pytest.mark.parametrize("count", [0, 15, 17])
def test_the_number_of_words(count: int) -> None:
    with pytest.raises(ArchError, match=f"of {count} words: expected 16"):
        Instruction.decode([0] * count)


# What does not fit.


@pytest.mark.parametrize(
    ("opcode", "field"), [(opcode, name) for opcode in Opcode for name in USED[opcode] if name not in ENUMS]
)
def test_a_value_beyond_its_field(opcode: Opcode, field: str) -> None:
    for value in (FIELDS[field].minimum - 1, FIELDS[field].maximum + 1):
        with pytest.raises(ArchError, match=rf"\b{field}={value}: allowed are"):
            small(opcode, **{field: value})


@pytest.mark.parametrize(
    ("opcode", "field"), [(o, name) for o in Opcode for name in FIELDS if name not in (*USED[o], "opcode")]
)
def test_a_field_the_opcode_does_not_read(opcode: Opcode, field: str) -> None:
    with pytest.raises(ArchError, match=rf"{opcode.name} does not read {field}=1"):
        small(opcode, **{field: 1})


@pytest.mark.parametrize(
    ("opcode", "changes", "bad"),
    [
        (Opcode.LOAD, {"rows": 0}, "0 x 3"),
        (Opcode.STORE, {"cols": 0}, "2 x 0"),
        (Opcode.LOSS, {"rows": 0}, "0 x 3"),
        (Opcode.FORWARD, {"depth": 0}, "depth=0: must be at least 1"),
        (Opcode.FORWARD, {"depth": 1, "bias": 1}, "depth=1: must be at least 2"),
        (Opcode.BACKWARD, {"depth": 0}, "depth=0"),
        (Opcode.UPDATE, {"depth": 0}, "depth=0"),
        (Opcode.UPDATE, {"cols": 1, "bias": 1}, "cols=1"),
        (Opcode.FORWARD, {"width": 1}, r"width=1: allowed are 2 to 16"),
        (Opcode.LOSS, {"width": 17}, r"width=17: allowed are 2 to 16"),
        (Opcode.FORWARD, {"weight_width": 0}, r"weight_width=0: allowed are 2 to 16"),
        (Opcode.BACKWARD, {"weight_width": 31}, r"weight_width=31: allowed are 2 to 16"),
        (Opcode.UPDATE, {"master_width": 1}, r"master_width=1: allowed are 2 to 32"),
        (Opcode.UPDATE, {"master_width": 33}, r"master_width=33: allowed are 2 to 32"),
        (Opcode.LOSS, {"track": 1, "exact": 1}, "track and exact"),
    ],
)
def test_what_no_pass_can_be(opcode: Opcode, changes: dict[str, int], bad: str) -> None:
    with pytest.raises(ArchError, match=bad) as error:
        small(opcode, **changes)
    assert opcode.name in str(error.value)


# Operands.


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
    ],
    ids=lambda value: value.opcode.name if isinstance(value, Instruction) else "",
)
def test_operands(instruction: Instruction, expected: dict[str, tuple[Memory, int, int]]) -> None:
    assert {name: shape(instruction, name) for name in instruction.matrices} == expected


#: A map of 3 x 5, an output of 2 x 4, a kernel of 2 x 3.
WINDOW = {"map_height": 3, "map_width": 5, "out_height": 2, "out_width": 4, "kernel_height": 2, "kernel_width": 3}
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


@settings(deadline=None)
@given(st.one_of(on_any_core(pass_instructions), on_any_core(moves)))
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
    # An extent of 0 is one.
    for opcode in set(Opcode) - {Opcode.HALT}:
        assert small(opcode).window == Window()


def test_operands_take_their_own_base_and_pitch() -> None:
    places = {f"{p}_{part}": 10 * k + j for k, p in enumerate("abdm", 1) for j, part in enumerate(("base", "pitch"))}
    matrices = small(Opcode.BACKWARD, mask=1, **places).matrices
    assert {name: (m.base, m.pitch) for name, m in matrices.items()} == {
        p: (10 * k, 10 * k + 1) for k, p in enumerate("abdm", 1)
    }


@given(instructions())
def test_a_pass_draws_where_a_rounding_is_stochastic(instruction: Instruction) -> None:
    assert instruction.draws == (Rounding.STOCHASTIC in (instruction.rounding, instruction.update_rounding))


# Disassembly.


@given(instructions())
def test_disassembly_shows_every_field_that_is_not_zero(instruction: Instruction) -> None:
    opcode, *parts = str(instruction).split()
    assert opcode == instruction.opcode.name
    shown = dict(part.split("=") for part in parts)
    for name in FIELDS.keys() - {"opcode"}:
        value = getattr(instruction, name)
        if value:
            assert name in shown
        if name in shown:
            text = shown[name]
            assert (
                text == value.name.lower() if isinstance(value, Rounding | Overflow | Memory) else int(text, 0) == value
            )


@given(st.lists(instructions(), min_size=1, max_size=5))
def test_a_listing_numbers_its_lines(program: list[Instruction]) -> None:
    words = assemble(program)
    assert words.dtype == np.uint32
    assert words.shape == (len(program), WORDS)
    lines = disassemble(words).split("\n")
    assert [int(re.match(r" *(\d+)  ", line)[1]) for line in lines] == list(range(len(program)))  # type: ignore[index]
    assert [line.split(maxsplit=1)[1] for line in lines] == [str(i) for i in program]


def test_instructions_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small(Opcode.LOAD).rows = 9  # type: ignore[misc]
