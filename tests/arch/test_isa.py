"""Instructions: words and back, refusal of what is none, disassembly."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.arch.errors import ArchError
from insitu.arch.isa import (
    CONSTANT_MAX,
    FIELDS,
    MOMENTUM_FIELDS,
    UPDATES,
    USED,
    WORDS,
    Instruction,
    Opcode,
    assemble,
    disassemble,
)
from insitu.arch.layout import Memory
from insitu.arch.numbers import Overflow, Rounding
from tests.arch.small import CONSTANT, ENUMS, NO_WEIGHTS, instructions, small

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


def test_every_word_has_an_opcode_and_a_memory() -> None:
    assert sorted(Opcode) == list(range(FIELDS["opcode"].maximum + 1))
    assert sorted(Memory) == list(range(len(Memory)))
    assert max(Memory) <= FIELDS["memory"].maximum


@pytest.mark.parametrize(("memory", "allowed"), [(Memory.WGT, True), (Memory.TAB, False)])
def test_a_table_is_never_stored(memory: Memory, allowed: bool) -> None:
    words = small(Opcode.STORE).encode()
    words[0] |= np.uint32(memory << FIELDS["memory"].lsb)
    if allowed:
        assert Instruction.decode(words).a.memory is memory
        return
    with pytest.raises(ArchError, match=r"STORE.memory=3: tables are written and looked up, never read"):
        Instruction.decode(words)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("memory", 5, r"0 \(ACT\), 1 \(ERR\), 2 \(WGT\), 3 \(TAB\), 4 \(VEL\)"),
        ("opcode", 16, r"0 \(HALT\).*15 \(LOOKUP\)"),
        ("opcode", -1, r"0 \(HALT\)"),
    ],
)
def test_enumerations_are_checked_where_an_instruction_is_made(field: str, value: int, allowed: str) -> None:
    """What encodes must decode: a value that no enumeration has is refused at once."""
    values: dict[str, Any] = {"opcode": Opcode.LOAD, "rows": 1, "cols": 1, field: value}
    with pytest.raises(ArchError, match=f"{field}={value}: allowed are {allowed}"):
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
        (Opcode.ADD, {"track": 1, "exact": 1}, "track and exact"),
        (Opcode.REDUCE, {"cols": 0}, "2 x 0"),
        (Opcode.DW_FORWARD, {"width": 1}, r"width=1: allowed are 2 to 16"),
        (Opcode.DW_BACKWARD, {"weight_width": 0}, r"weight_width=0: allowed are 2 to 16"),
        (Opcode.DW_UPDATE, {"master_width": 33}, r"master_width=33: allowed are 2 to 32"),
        *(
            (o, {"memory": m}, rf"memory={m}: allowed are 0 \(ACT\) and 1 \(ERR\)")
            for o in (Opcode.ADD, Opcode.MULTIPLY)
            for m in (2, 3)
        ),
        (Opcode.ADD, {"memory": 1, "relu": 1}, "relu=1: of activations only"),
        (Opcode.MULTIPLY, {"memory": 1, "relu": 1}, "relu=1: of activations only"),
        (Opcode.ADD, {"memory": 0, "mask": 1}, "mask=1: of errors only"),
        (Opcode.MULTIPLY, {"memory": 0, "mask": 1}, "mask=1: of errors only"),
        (Opcode.DW_FORWARD, CONSTANT | {"constant": CONSTANT_MAX + 1}, "constant=16385: allowed are 1 to 16384, or 0"),
        (Opcode.DW_FORWARD, CONSTANT | {"bias": 1}, "constant=5 is in the place of B: bias=1 must be 0"),
        *(
            (o, CONSTANT | {name: 1}, f"constant=5 is in the place of B: {name}=1 must be 0")
            for o in (Opcode.DW_FORWARD, Opcode.DW_BACKWARD)
            for name in ("weight_rounding", *NO_WEIGHTS)
        ),
        *((Opcode.LOOKUP, {"table_bits": bits}, f"table_bits={bits}: allowed are 2 to 12") for bits in (0, 1, 13)),
        *((Opcode.MULTIPLY, {"table_bits": bits}, f"table_bits={bits}: allowed are 2 to 12") for bits in (1, 13)),
        (Opcode.LOOKUP, {"table_bits": 3, "table_base": 0x14}, "table_base=0x14: must be a multiple of .* 8 words"),
        (Opcode.MULTIPLY, {"table_bits": 2, "table_base": 2}, "table_base=0x2: must be a multiple of .* 4 words"),
    ],
)
def test_what_no_pass_can_be(opcode: Opcode, changes: dict[str, int], bad: str) -> None:
    with pytest.raises(ArchError, match=bad) as error:
        small(opcode, **changes)
    assert opcode.name in str(error.value)


@given(instructions())
def test_a_pass_draws_where_a_rounding_is_stochastic(instruction: Instruction) -> None:
    roundings = (instruction.rounding, instruction.update_rounding, instruction.momentum_rounding)
    assert instruction.draws == (Rounding.STOCHASTIC in roundings)


@pytest.mark.parametrize("opcode", UPDATES)
def test_velocities(opcode: Opcode) -> None:
    update = small(opcode, momentum_width=9, momentum_mul=256, velocity_fraction=-3, hold=1, d_base=5, d_pitch=2)
    assert update.velocities == replace(update.d, memory=Memory.VEL)
    assert small(opcode).velocities is None
    for name in MOMENTUM_FIELDS[1:]:
        with pytest.raises(ArchError, match=f"momentum_width=0: without velocities {name}=1 must be 0"):
            small(opcode, **{name: 1})
    for name, bad, allowed in (("momentum_width", 1, "2 to 16, or 0"), ("momentum_width", 17, "2 to 16, or 0"),
                               ("momentum_mul", 257, "0 to 256"), ("velocity_fraction", 16, "-24 to 15")):  # fmt: skip
        with pytest.raises(ArchError, match=f"{name}={bad}: allowed are {allowed}"):
            small(opcode, **({"momentum_width": 9} | {name: bad}))


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
