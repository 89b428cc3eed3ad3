"""The core's parameters: one frozen description that the emulator, the core and the driver all derive from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

from insitu.arch.declaration import WIDTHS, Declaration, ExponentPolicy, Role
from insitu.arch.errors import ArchError, require
from insitu.arch.isa import FIELDS, MOMENTUM_FIELDS, POOLS, USED, VECTOR_UNIT, WINDOW_FIELDS, Opcode
from insitu.arch.layout import Memory

#: Raised by one whenever instruction words, registers or arithmetic change meaning; part of the hash.
ARCH_VERSION = 5
ARRAY_SIZES = (4, 8, 16, 32)
#: Words a bank may have: what the instruction's base field can address.
DEPTH_MAX = FIELDS["a_base"].maximum + 1
#: Bits of STATUS.pc, and instructions a program memory may have: it can show one beyond the last.
PC_BITS = 12
PROGRAM_DEPTH_MAX = (1 << PC_BITS) - 1
#: Words of the tables' memory: what the instruction's table field can address.
TABLES_MAX = FIELDS["table_base"].maximum + 1
#: Scale registers a core may have, and has unless it says otherwise.
SCALES_ALLOWED = (64, 128, 256)
SCALES = SCALES_ALLOWED[0]
#: Parameters that are 0 where a core lacks a unit: opcodes that are gone with it, and fields of all others.
UNITS: Mapping[str, tuple[tuple[Opcode, ...], tuple[str, ...]]] = {
    "windows": ((*POOLS, *VECTOR_UNIT), WINDOW_FIELDS),
    "vector": (VECTOR_UNIT, ()),
    "momentum_bits": ((), MOMENTUM_FIELDS),
}


@dataclass(frozen=True, kw_only=True)
class CoreParams:
    """An accelerator: array size, the widths its datapaths have, the depth of its memories.

    n: cells on a side of the array, lanes and banks (4, 8, 16 or 32).
    *_bits: width of each role's datapath; a program may use less, never more. momentum_bits: 0 for a core without
    velocities, which has neither their memory nor what moves masters by them.
    *_depth: words of N elements in each memory (tab_depth: of functions' tables, 1 for a core that looks nothing up);
    program_depth counts instructions. scales: scale registers, 64, 128 or 256; a layer takes four.
    windows: 1 for a core that walks over kernels and maps and pools, 0 for one of matrix products alone. vector: 1 for
    a core with the vector unit and its tables, 0 for one without; the unit goes over windows. What a core lacks changes
    neither values nor cycles of what it has.
    Raises ArchError on any value outside its range.
    """

    n: int = 8
    weight_bits: int = 8
    master_bits: int = 16
    activation_bits: int = 8
    error_bits: int = 8
    gradient_bits: int = 8
    accumulator_bits: int = 32
    target_bits: int = 8
    momentum_bits: int = 0
    act_depth: int = 8192
    err_depth: int = 4096
    wgt_depth: int = 12288
    tab_depth: int = 1024
    program_depth: int = 256
    scales: int = SCALES
    windows: int = 1
    vector: int = 1

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            require(isinstance(value, int) and not isinstance(value, bool), f"{f.name}={value!r}: must be an integer")
        require(self.n in ARRAY_SIZES, f"n={self.n}: the array's side is one of {', '.join(map(str, ARRAY_SIZES))}")
        for role in Role:
            low, high = WIDTHS[role]
            width = self.width(role)
            none = role is Role.MOMENTUM and width == 0
            require(
                none or low <= width <= high,
                f"{role}_bits={width}: allowed are {low} to {high}{', or 0' * (role is Role.MOMENTUM)}",
            )
        require(
            self.master_bits >= self.weight_bits,
            f"master_bits={self.master_bits} under weight_bits={self.weight_bits}: a master is at least as wide",
        )
        for name in ("act_depth", "err_depth", "wgt_depth"):
            require(
                1 <= getattr(self, name) <= DEPTH_MAX, f"{name}={getattr(self, name)}: allowed are 1 to {DEPTH_MAX}"
            )
        require(
            self.scales in SCALES_ALLOWED,
            f"scales={self.scales}: a core has {', '.join(map(str, SCALES_ALLOWED))} scale registers",
        )
        require(1 <= self.tab_depth <= TABLES_MAX, f"tab_depth={self.tab_depth}: allowed are 1 to {TABLES_MAX}")
        require(
            1 <= self.program_depth <= PROGRAM_DEPTH_MAX,
            f"program_depth={self.program_depth}: allowed are 1 to {PROGRAM_DEPTH_MAX}",
        )

        for name in ("windows", "vector"):
            require(
                getattr(self, name) in (0, 1), f"{name}={getattr(self, name)}: a core has them (1) or has them not (0)"
            )
        require(self.windows >= self.vector, "vector=1 with windows=0: the vector unit goes over windows")

    def width(self, role: Role) -> int:
        """Bits of a role's datapath."""
        return getattr(self, f"{role.value}_bits")

    @cached_property
    def memories(self) -> tuple[Memory, ...]:
        """The memories that the core has."""
        lacking = {Memory.VEL: not self.momentum_bits, Memory.TAB: not self.vector}
        return tuple(m for m in Memory if not lacking.get(m))

    @cached_property
    def opcodes(self) -> tuple[Opcode, ...]:
        """The passes that the core has."""
        return tuple(op for op in Opcode if not self.lacks(op))

    def fields(self, opcode: Opcode) -> tuple[str, ...]:
        """The fields of an instruction that mean something to this core; all others must be zero. None of an opcode
        that it does not have."""
        if opcode not in self.opcodes:
            return ()
        return ("opcode", *(name for name in USED[opcode] if not self.lacks(opcode, name)))

    def lacks(self, opcode: Opcode, *fields: str) -> tuple[str, ...]:
        """The units, by their parameters, that an opcode with something in these fields takes and this core has not."""
        return tuple(
            unit
            for unit, (opcodes, names) in UNITS.items()
            if not getattr(self, unit) and (opcode in opcodes or any(name in names for name in fields))
        )

    def depth(self, memory: Memory) -> int:
        """Words of a memory, 0 of one that the core does not have."""
        if memory not in self.memories:
            return 0
        if memory is Memory.VEL:
            return self.wgt_depth
        return getattr(self, f"{memory.name.lower()}_depth")

    def word_bits(self, memory: Memory) -> int:
        """Bits of one element of a memory."""
        return {
            Memory.ACT: self.activation_bits,
            Memory.ERR: max(self.error_bits, self.target_bits),
            Memory.WGT: self.master_bits,
            Memory.TAB: self.activation_bits,
            Memory.VEL: self.momentum_bits,
        }[memory]

    @cached_property
    def lane_bits(self) -> int:
        """Bits of a stream lane: the narrowest of 8, 16, 32 that carries an element of any memory."""
        widest = max(self.word_bits(m) for m in self.memories)
        return next(b for b in (8, 16, 32) if b >= widest)

    @property
    def stream_bits(self) -> int:
        """Bits of a stream beat: N lanes, and never less than one 32-bit program word."""
        return max(32, self.n * self.lane_bits)

    @property
    def cells(self) -> int:
        """Multiply-accumulate cells of the array."""
        return self.n * self.n

    @cached_property
    def hash(self) -> int:
        """64 bits that differ whenever two cores would run a program differently. Stable over versions of Python."""
        text = json.dumps({"arch": ARCH_VERSION, **self.to_json()}, sort_keys=True, separators=(",", ":"))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

    def to_json(self) -> dict[str, int]:
        """A JSON-ready dictionary; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CoreParams:
        """The parameters of a `to_json` dictionary. Raises ArchError where a field is missing or unknown."""
        names = {f.name for f in fields(cls)}
        if not isinstance(data, Mapping) or set(data) != names:
            raise ArchError(f"not core parameters: expected exactly the fields {', '.join(sorted(names))}")
        return cls(**data)

    @classmethod
    def parse(cls, text: str) -> CoreParams:
        """Read "edge8", "n=16" or "edge8,n=16,wgt_depth=32768": a preset, then fields that change it."""
        head, *rest = text.split(",")
        if "=" in head:
            head, rest = "edge8", [head, *rest]
        if head not in PRESETS:
            raise ArchError(f"core {head!r}: presets are {', '.join(PRESETS)}; or give fields such as n=16")
        changes: dict[str, int] = {}
        names = {f.name for f in fields(cls)}
        for item in rest:
            key, _, value = item.partition("=")
            if key not in names:
                raise ArchError(f"core field {key!r}: fields are {', '.join(sorted(names))}")
            if key in changes:
                raise ArchError(f"core {text!r}: {key} twice")
            try:
                changes[key] = int(value)
            except ValueError as error:
                raise ArchError(f"core field {item!r}: {value!r} is not an integer") from error
        return replace(PRESETS[head], **changes)

    @property
    def declaration(self) -> Declaration:
        """Formats as wide as the datapaths, exponents delayed."""
        declared = Declaration.parse("w8", exponent=ExponentPolicy.DELAYED)
        formats: dict[str, Any] = {r.value: replace(declared.role(r), width=self.width(r)) for r in Role}
        return replace(declared, **formats)

    def with_declaration(self, declaration: Declaration) -> CoreParams:
        """The same array and memories with just the datapath widths a declaration needs."""
        layers = [declaration, *(declaration.at(name) for name in declaration.layers)]
        return replace(self, **{f"{r.value}_bits": max(d.role(r).width for d in layers) for r in Role})


#: Named cores. The comment is the reason each exists.
PRESETS: Mapping[str, CoreParams] = {
    # the smallest array that still trains: proofs, waveforms, tests
    "tiny4": CoreParams(n=4, act_depth=1024, err_depth=512, wgt_depth=2048, tab_depth=512),
    # one low-cost FPGA (ECP5-85F, Artix-7): 64 multipliers, students of up to 96 k weights on chip, 784-100-50-10 at
    # batch 64; a quarter of the 85F's block RAMs is left over, for where all are taken wires go from end to end
    "edge8": CoreParams(n=8),
    # the same FPGA for perceptrons alone: what they have no use for takes no logic, and is in no critical path
    "dense8": CoreParams(n=8, windows=0, vector=0),
    # mid-range FPGA: 256 multipliers, 16 KiB words keep a 784-256-128-10 perceptron and its batch of 64 on chip
    "edge16": CoreParams(n=16, act_depth=8192, err_depth=4096, wgt_depth=32768),
    # large FPGA: 1,024 multipliers
    "wide32": CoreParams(n=32, act_depth=8192, err_depth=4096, wgt_depth=16384),
}
