"""The register map of the AXI4-Lite slave: 32-bit registers, byte offsets, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import cache
from types import MappingProxyType

from insitu.arch.errors import require
from insitu.arch.params import PC_BITS, SCALES_ALLOWED

#: What a register holds.
WORD_MASK = (1 << 32) - 1
#: "INSI" in ASCII: what the ID register reads.
IDENTITY = int.from_bytes(b"INSI", "big")


class Access(StrEnum):
    """Who may do what from the bus."""

    RO = "ro"  #: read only
    RW = "rw"
    WO = "wo"  #: write only, reads as zero; a written 1 acts once


class Error(IntEnum):
    """STATUS.error: why the last program stopped."""

    NONE = 0
    ILLEGAL = 1  #: a word that is no instruction, or one this core lacks the width for
    ADDRESS = 2  #: an operand reaches beyond its memory
    ENTRY = 3  #: started at, or ran to, an instruction outside program memory
    ABORTED = 4  #: CONTROL.abort was written while a program ran


@dataclass(frozen=True)
class BitField:
    """`width` bits of a register at bit `lsb`."""

    lsb: int
    width: int
    doc: str

    def of(self, value: int) -> int:
        """The field's value in a register's value."""
        return (value >> self.lsb) & ((1 << self.width) - 1)

    def put(self, value: int) -> int:
        """The register bits that hold `value` in this field."""
        return (value & ((1 << self.width) - 1)) << self.lsb


@dataclass(frozen=True, kw_only=True)
class Register:
    """A register: its byte offset, access, reset value, meaning, and named bit fields. `count` registers in a row."""

    offset: int
    access: Access
    doc: str
    reset: int = 0
    count: int = 1
    fields: Mapping[str, BitField] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        require(self.offset % 4 == 0, f"register offset {self.offset:#x}: must be a multiple of 4")

    @property
    def end(self) -> int:
        """The byte offset just above it."""
        return self.offset + 4 * self.count


REGISTERS: Mapping[str, Register] = {
    "ID": Register(offset=0x00, access=Access.RO, reset=IDENTITY, doc='"INSI" in ASCII'),
    "VERSION": Register(offset=0x04, access=Access.RO, doc="version of the architecture"),
    "HASH_LO": Register(offset=0x08, access=Access.RO, doc="parameter hash, bits 31:0"),
    "HASH_HI": Register(offset=0x0C, access=Access.RO, doc="parameter hash, bits 63:32"),
    "CONTROL": Register(
        offset=0x10,
        access=Access.WO,
        doc="commands; of several at once the first of abort, start, step and load_program is obeyed, and clear",
        fields={
            "start": BitField(0, 1, "run the program at ENTRY; ignored while busy"),
            "abort": BitField(
                1,
                1,
                "stop the program, empty both streams, discard input until the next start, step or load",
            ),
            "clear": BitField(2, 1, "clear sticky flags and counters"),
            "step": BitField(4, 1, "run the one instruction at ENTRY, then stop with done; ignored while busy"),
            "load_program": BitField(
                3, 1, "take COUNT instructions from the stream into program memory, from ENTRY on"
            ),
        },
    ),
    "STATUS": Register(
        offset=0x14,
        access=Access.RO,
        doc="state and sticky flags",
        fields={
            "busy": BitField(0, 1, "a program runs or is being loaded"),
            "done": BitField(1, 1, "the last program ended; cleared by start"),
            "accumulator_overflow": BitField(2, 1, "sticky: an accumulator wrapped"),
            "error": BitField(8, 8, "why the last program stopped, see Error; cleared by start"),
            "pc": BitField(16, PC_BITS, "instruction being run, or at which the program stopped"),
        },
    ),
    "ENTRY": Register(offset=0x18, access=Access.RW, doc="instruction a program starts at"),
    "COUNT": Register(offset=0x1C, access=Access.RW, doc="instructions that load_program takes"),
    "SEED": Register(offset=0x20, access=Access.RW, reset=1, doc="seed of stochastic rounding; steps as programs draw"),
    "CYCLES_LO": Register(offset=0x24, access=Access.RO, doc="cycles programs have run, bits 31:0"),
    "CYCLES_HI": Register(offset=0x28, access=Access.RO, doc="cycles programs have run, bits 63:32"),
    "MACS_LO": Register(offset=0x2C, access=Access.RO, doc="useful multiply-accumulates, bits 31:0"),
    "MACS_HI": Register(offset=0x30, access=Access.RO, doc="useful multiply-accumulates, bits 63:32"),
    "STALL_IN": Register(offset=0x34, access=Access.RO, doc="cycles LOAD waited for the input stream"),
    "STALL_OUT": Register(offset=0x38, access=Access.RO, doc="cycles STORE waited for the output stream"),
    "INSTRUCTIONS": Register(offset=0x3C, access=Access.RO, doc="instructions completed"),
    "SATURATED": Register(offset=0x40, access=Access.RO, doc="elements clipped or wrapped where they were narrowed"),
    "SCALE": Register(
        offset=0x400,
        access=Access.RW,
        count=SCALES_ALLOWED[-1],
        doc="scale registers; those a core does not have are zero",
        fields={
            "exponent": BitField(0, 8, "exponent in use, two's complement"),
            "next": BitField(8, 8, "exponent that the next tracked run commits, two's complement"),
        },
    ),
}

#: Bytes of the register window.
WINDOW = 0x800


@cache
def find(offset: int) -> tuple[str, int]:
    """(name, index) of the register at a byte offset. Raises ArchError where there is none."""
    for name, register in REGISTERS.items():
        if register.offset <= offset < register.end and offset % 4 == 0:
            return name, (offset - register.offset) // 4
    require(False, f"no register at {offset:#x}")
    raise AssertionError
