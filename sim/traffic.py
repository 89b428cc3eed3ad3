"""What passes move through the ports of the memories, in words of N elements: what a step's energy goes with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from insitu.arch.isa import UPDATES, USED, Instruction, Opcode
from insitu.arch.layout import Memory, blocks
from insitu.arch.program import Program
from insitu.arch.timing import LOSS_READS, cost, terms


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Words of N elements read from, and written to, each memory."""

    reads: dict[Memory, int]
    writes: dict[Memory, int]

    @property
    def words(self) -> int:
        """All of them."""
        return sum(self.reads.values()) + sum(self.writes.values())


def traffic(program: Program, entry: str) -> Traffic:
    """Of one entry. Raises ArchError for an unknown entry."""
    return of(program.entry(entry), program.core.n)


def of(instructions: Sequence[Instruction], n: int) -> Traffic:
    """Of instructions on an N x N core. A step of the array asks both memories for a word, one of the vector unit for
    those that it takes; what is drained writes a word a row, reads it first where it is a master or a velocity, and
    the mask's beside it where there is one."""
    reads: Counter[Memory] = Counter()
    writes: Counter[Memory] = Counter()
    for i in instructions:
        used, drained = USED[i.opcode], 0
        if "d_base" in used:
            drained = i.d.rows * i.d.row_words(n)
            writes[i.d.memory] += drained
        for memory, words in _operands(i, n):
            reads[memory] += words
        if i.opcode in UPDATES:
            reads[Memory.WGT] += drained
            if i.velocities is not None:
                reads[Memory.VEL] += drained
                writes[Memory.VEL] += drained
        if i.mask and i.opcode is not Opcode.UNPOOL:  # whose mask is its B
            reads[Memory.ACT] += drained
    return Traffic(reads=dict(reads), writes=dict(writes))


def _operands(i: Instruction, n: int) -> list[tuple[Memory, int]]:
    """The words of A and B that an instruction reads."""
    columns = blocks(i.cols, n)
    match i.opcode:
        case Opcode.HALT | Opcode.LOAD:
            return []
        case Opcode.STORE:
            return [(i.a.memory, i.a.rows * i.a.row_words(n))]
        case Opcode.FORWARD | Opcode.BACKWARD | Opcode.UPDATE:
            steps = cost(i, n).issue
            return [(i.a.memory, steps), (i.b.memory, steps)]
        case Opcode.LOSS:
            return [(i.a.memory, LOSS_READS * i.rows * columns), (i.b.memory, i.rows * columns)]
        case Opcode.POOL:
            return [(i.a.memory, cost(i, n).vector)]
        case Opcode.UNPOOL:
            return [(m.memory, m.rows * m.row_words(n)) for m in (i.a, i.b)]
        case Opcode.LOOKUP:
            return [(i.a.memory, i.d.rows * columns), (Memory.TAB, i.d.rows * columns)]
        case Opcode.ADD | Opcode.MULTIPLY:
            tables = [(Memory.TAB, i.d.rows * columns)] if i.table_bits else []
            return [(m, i.d.rows * columns) for m in (i.a.memory, i.b.memory)] + tables
        case Opcode.REDUCE:
            met = int(terms(i).sum()) - i.d.rows * i.mask
            return [(i.a.memory, met * columns), (i.b.memory, met * columns)]
        case _:  # the depthwise passes
            met = int(terms(i).sum()) * columns
            return [(i.a.memory, met)] + ([] if i.constant else [(i.b.memory, met)])
