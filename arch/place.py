"""Where an operand lies as one number, and what it is called there: for waveforms."""

from __future__ import annotations

from collections.abc import Mapping

from insitu.arch.isa import FIELDS
from insitu.arch.layout import Memory

#: Operands that a waveform names.
OPERANDS = ("a", "b", "d")
#: Letters of a name that are shown, its last.
NAME_LETTERS = 32
#: Bits of an operand's first word; of its place, the memory above them.
BASE_BITS = FIELDS["a_base"].width
#: The memory of an operand that an opcode does not have.
NO_MEMORY = len(Memory)
PLACE_BITS = NO_MEMORY.bit_length() + BASE_BITS


def place(memory: int, base: int) -> int:
    """An operand's place."""
    return memory << BASE_BITS | base


def operand_name(at: int, names: Mapping[int, str]) -> str:
    """The name given to a place; else its memory and word; nothing where there is no operand."""
    memory, base = at >> BASE_BITS, at & ((1 << BASE_BITS) - 1)
    return names.get(at) or ("" if memory == NO_MEMORY else f"{Memory(memory).name}[{base:#x}]")
