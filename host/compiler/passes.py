"""A training step as passes over named tensors, before anything has a place: what the plan places and emit encodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from insitu.arch.declaration import Declaration, Role
from insitu.arch.isa import Opcode
from insitu.arch.layout import Memory
from insitu.arch.samples import Samples
from insitu.host.compiler.graph import Node


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A tensor that wants a place.

    rows: those of one pixel; cols: of one group. formats: of what it holds; scale_of: whose scale register it has, its
    own where "". fixed: its exponent stays where calibration puts it, whatever the policy. seen: what calibration
    measures its exponent from, a field of `Ranges` and a key of that; None of masters, whose values are known.
    """

    name: str
    memory: Memory
    rows: int
    cols: int
    role: Role
    formats: Declaration
    pixels: int = 1
    groups: int = 1
    tail: int = 0
    bias: bool = False
    layer: str = ""
    scale_of: str = ""
    fixed: bool = False
    samples: Samples | None = None
    seen: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Pass:
    """An instruction to be: operands by tensors' names, "" where it has none.

    node: whose pass it is. formats: those by which it narrows, None where it moves elements as they are. gradient: of
    an update, the layer whose gradient's scale register it narrows to. constant: of B's elements, as a real number.
    table: the node whose table is looked up. fields: as in the instruction.
    """

    opcode: Opcode
    node: Node
    a: str = ""
    b: str = ""
    d: str = ""
    m: str = ""
    formats: Declaration | None = None
    gradient: str = ""
    constant: float = 0.0
    table: str = ""
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def reads(self) -> tuple[str, ...]:
        """Tensors it reads; an update reads what it writes."""
        return tuple(name for name in (self.a, self.b, self.m, self.d if self.gradient else "") if name)
