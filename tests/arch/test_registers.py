"""The register map holds together."""

from __future__ import annotations

import itertools

import pytest

from insitu.arch.errors import ArchError
from insitu.arch.params import SCALES_ALLOWED
from insitu.arch.registers import IDENTITY, REGISTERS, WINDOW, Access, BitField, Register, find

ALL = pytest.mark.parametrize("name", REGISTERS)


def test_no_two_registers_overlap() -> None:
    spans = sorted((r.offset, r.end, name) for name, r in REGISTERS.items())
    for (_, end, first), (offset, _, second) in itertools.pairwise(spans):
        assert end <= offset, f"{first} runs into {second}"
    assert spans[0][0] >= 0
    assert spans[-1][1] <= WINDOW


@ALL
def test_fields_fit_and_do_not_overlap(name: str) -> None:
    taken = 0
    for field in REGISTERS[name].fields.values():
        bits = field.put(-1)
        assert 0 < bits < 2**32
        assert bits.bit_count() == field.width
        assert taken & bits == 0
        taken |= bits


@ALL
def test_registers_say_what_they_are(name: str) -> None:
    register = REGISTERS[name]
    assert register.doc
    assert all(field.doc for field in register.fields.values())
    assert 0 <= register.reset < 2**32


@ALL
def test_find_gives_every_word_of_a_register(name: str) -> None:
    register = REGISTERS[name]
    for index in range(register.count):
        assert find(register.offset + 4 * index) == (name, index)


def test_find_knows_exactly_the_declared_words() -> None:
    declared = {offset for r in REGISTERS.values() for offset in range(r.offset, r.end, 4)}
    for offset in sorted(set(range(WINDOW + 64)) - declared):
        with pytest.raises(ArchError, match=f"no register at {offset:#x}$"):
            find(offset)


def test_find_refuses_what_lies_below() -> None:
    with pytest.raises(ArchError, match="-0x4"):
        find(-4)


def test_fields_put_and_take() -> None:
    field = BitField(8, 8, "")
    for value in (0, 1, 0x7F, 0xFF):
        assert field.of(field.put(value)) == value
        assert field.of(field.put(value) | 0xFFFF00FF) == value
    assert field.put(0x1FF) == 0xFF00
    assert field.put(-1) == 0xFF00
    assert BitField(0, 1, "").of(0xFFFFFFFE) == 0


def test_an_offset_inside_a_word_is_refused() -> None:
    with pytest.raises(ArchError, match="0x6"):
        Register(offset=6, access=Access.RO, doc="")


def test_the_landmarks() -> None:
    assert IDENTITY == 0x494E5349
    assert REGISTERS["ID"].reset == IDENTITY
    assert REGISTERS["ID"].offset == 0
    assert REGISTERS["SCALE"].count == SCALES_ALLOWED[-1]
    assert REGISTERS["SEED"].reset != 0
