"""Whether a core can execute an instruction: the units and widths it asks for, and where its operands lie."""

from __future__ import annotations

from functools import lru_cache

from insitu.arch.declaration import Role
from insitu.arch.errors import ArchError
from insitu.arch.isa import KNOWN, USED, Instruction
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams


class WidthError(ArchError):
    """An instruction asks for a wider datapath than the core has."""


class UnitError(ArchError):
    """An instruction asks for a unit that the core does not have."""


class PlaceError(ArchError):
    """An operand reaches beyond its memory, or its rows overlap."""


#: The role of what a pass narrows, by the memory that it narrows to: its datapath bounds the `width` field.
WIDTH_ROLE = {Memory.ACT: Role.ACTIVATION, Memory.ERR: Role.ERROR, Memory.WGT: Role.GRADIENT}


@lru_cache(maxsize=KNOWN)
def check(instruction: Instruction, core: CoreParams) -> None:
    """Raise UnitError, WidthError or PlaceError, all ArchError, where `core` cannot execute `instruction`."""
    name = instruction.opcode.name
    used = USED[instruction.opcode]
    limits = {"weight_width": Role.WEIGHT, "master_width": Role.MASTER, "momentum_width": Role.MOMENTUM}
    if "width" in used:
        limits["width"] = WIDTH_ROLE[instruction.d.memory]
    for field, role in limits.items():
        asked, has = getattr(instruction, field), core.width(role)
        if field in used and asked > has:
            raise WidthError(f"{name}.{field}={asked}: this core's {role} datapath has {has} bits")
    said = [field for field in used if getattr(instruction, field)]
    if units := core.lacks(instruction.opcode, *said):
        raise UnitError(f"{name}: this core has {' and '.join(f'{unit}=0' for unit in units)}")
    for field in ("sa", "sb", "sd", "sm"):
        if (index := getattr(instruction, field)) >= core.scales:
            raise PlaceError(f"{name}.{field}={index}: this core has {core.scales} scale registers")
    tables_end = instruction.table_base + (1 << instruction.table_bits)
    if instruction.table_bits and tables_end > core.tab_depth:
        raise PlaceError(f"{name}: its table ends at word {tables_end} of TAB, which has {core.tab_depth}")
    for operand, matrix in instruction.matrices.items():
        end, depth = matrix.end(core.n), core.depth(matrix.memory)
        if end > depth:
            memory = matrix.memory.name
            raise PlaceError(f"{name}, operand {operand}: ends at word {end} of {memory}, which has {depth}")
        if matrix.rows > 1 and matrix.pitch < matrix.row_words(core.n):
            raise PlaceError(
                f"{name}, operand {operand}: rows of {matrix.width} elements overlap at a pitch of {matrix.pitch} words"
            )


@lru_cache(maxsize=KNOWN)
def check_apart(instruction: Instruction, n: int) -> None:
    """Raise PlaceError where D lies over an operand: the pass is then not defined, and no core looks for it."""
    places = instruction.matrices
    for operand, matrix in places.items():
        if operand != "d" and "d" in places and matrix.overlaps(places["d"], n):
            raise PlaceError(
                f"{instruction.opcode.name}: D at word {places['d'].base} lies over operand {operand} at {matrix.base}"
            )
