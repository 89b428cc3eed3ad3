"""Cycles: the latencies the core is built to and the cycle model computes from.

An instruction is fetched, set up, run and drained before the next is fetched; inside a pass the drain of one tile
overlaps the next. Tiles go down a column of tiles, then to the next column. With K the steps of a tile and D_t the
valid rows of tile t (what its drain takes), a pass of T tiles takes

    FETCH + SETUP + N + seeding + K + sum over t >= 1 of max(K, D_(t-1)) + pipeline + D_(T-1)

where `seeding` is only there for an instruction that draws random bits. The core's units state the latencies that these
constants are sums of, and refuse to be built where they differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from insitu.arch.errors import ArchError
from insitu.arch.generator import MIX_STAGES, STREAMS
from insitu.arch.isa import WORDS, Instruction, Opcode
from insitu.arch.layout import blocks
from insitu.arch.loss import PROBABILITY_BITS

#: From the start of an instruction to its verdict: one to begin, a word a cycle, eleven to check the operands.
FETCH = WORDS + 12
#: Multiples of the pitches for the column addresses, one bank a cycle, are made in N cycles; then two to start.
SETUP = 2
#: Cycles between an issued step and the first in which its sum is in the drain registers: request, address, one to the
#: banks, read, two for the words, five to round, two to rotate, operand, two to the cells, two for the product, sum.
ISSUE_TO_ACCUMULATOR = 19
#: From a row leaving the drain registers to its elements being written: a register, mask, seven to shift and round, two
#: to fit, a register, two to rotate, one to pass the masters, two to fit, two to the bank.
DRAIN_TO_MEMORY = 19
#: The same for an UPDATE, which multiplies, shifts and fits once more.
UPDATE_TO_MEMORY = 30
#: LOAD: from the last beat to its elements being written.
LOAD_TAIL = 9
#: STORE: from its beginning to the first beat on the stream.
STORE_HEAD = 13
#: LOSS, for each row: to find the maximum, and to sum, after the last read.
LOSS_ROW = 10
#: LOSS: cycles of a division: a bit each, one to round, one to load.
LOSS_DIVIDE = PROBABILITY_BITS + 3
#: LOSS: from the end of the last division's slot to its row entering the drain.
LOSS_TAIL = 17
#: LOSS: reads of a block: once for the maximum, once for the exponentials.
LOSS_READS = 2


def setup(n: int) -> int:
    """Cycles between decoding and the first step."""
    return SETUP + n


def seeding(instruction: Instruction, n: int) -> int:
    """Cycles in which the lanes' generators are seeded, one generator a cycle through the hash's stages."""
    return STREAMS * n + MIX_STAGES if instruction.draws else 0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one instruction takes, streams never making it wait. All but `macs` in cycles.

    issue: steps in which the array multiplies; wait: steps it waits for a drain to end; overhead: all the rest.
    stream: beats moved. macs: multiply-accumulates whose row and column are both valid.
    """

    cycles: int
    issue: int = 0
    wait: int = 0
    stream: int = 0
    vector: int = 0
    macs: int = 0

    @property
    def overhead(self) -> int:
        return self.cycles - self.issue - self.wait - self.stream - self.vector


def pipeline(opcode: Opcode) -> int:
    """Cycles that a product takes beyond its steps and its last drain."""
    return ISSUE_TO_ACCUMULATOR + (UPDATE_TO_MEMORY if opcode is Opcode.UPDATE else DRAIN_TO_MEMORY)


def cost(instruction: Instruction, n: int) -> Cost:
    """The cycles an instruction takes on an n x n array."""
    rows, cols, depth = instruction.rows, instruction.cols, instruction.depth
    fixed = FETCH + setup(n) + seeding(instruction, n)
    match instruction.opcode:
        case Opcode.HALT:
            return Cost(cycles=FETCH)
        case Opcode.LOAD:
            beats = rows * blocks(cols, n)
            return Cost(cycles=fixed + beats + LOAD_TAIL, stream=beats)
        case Opcode.STORE:
            beats = rows * blocks(cols, n)
            return Cost(cycles=fixed + STORE_HEAD + beats, stream=beats)
        case Opcode.LOSS:
            vector = rows * (LOSS_ROW + blocks(cols, n) * (LOSS_READS + LOSS_DIVIDE))
            return Cost(cycles=fixed + vector + LOSS_TAIL + DRAIN_TO_MEMORY, vector=vector)
        case Opcode.FORWARD | Opcode.BACKWARD | Opcode.UPDATE:
            row_tiles, col_tiles = blocks(rows, n), blocks(cols, n)
            tiles = row_tiles * col_tiles
            last = rows - (row_tiles - 1) * n
            # Tiles but the last, whose drain may outlast the next tile's steps: full ones, and the last of each column.
            wait = (row_tiles - 1) * col_tiles * max(0, n - depth) + (col_tiles - 1) * max(0, last - depth)
            return Cost(
                cycles=fixed + tiles * depth + wait + pipeline(instruction.opcode) + last,
                issue=tiles * depth,
                wait=wait,
                macs=rows * cols * depth,
            )
    raise ArchError(f"no cost for {instruction}")
