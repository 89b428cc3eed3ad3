"""Cycles: the latencies the core is built to and the cycle model computes from.

An instruction is fetched, set up, run and drained before the next is fetched; inside a pass the drain of one tile
overlaps the next. Tiles go down a column of tiles, then to the next column. With K_t the steps of tile t and D_t its
valid rows (what its drain takes), a pass of T tiles takes

    FETCH + setup + seeding + K_0 + sum over t >= 1 of max(K_t, D_(t-1)) + pipeline + D_(T-1)

where `seeding` is only there for an instruction that draws random bits. The core's units state the latencies that these
constants are sums of, and refuse to be built where they differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insitu.arch.errors import ArchError
from insitu.arch.generator import MIX_STAGES, STREAMS
from insitu.arch.isa import UPDATES, VECTOR, WORDS, Instruction, Opcode
from insitu.arch.layout import Memory, blocks
from insitu.arch.loss import PROBABILITY_BITS

#: From the start of an instruction to its verdict: one to begin, a word a cycle, eighteen to check the operands.
FETCH = WORDS + 19
#: The strides of a window and the first places of its walk are found in so many cycles. In N of them the multiples of
#: the pitches for the column addresses are made, one bank a cycle, and two are to start.
SETUP = 15
#: Cycles between an issued step and the first in which its sum is in the drain registers: request, one to each bank,
#: address, one to the memory, read, two for the words, five to round, two to rotate, operand, two to the cells, two for
#: the product, sum.
ISSUE_TO_ACCUMULATOR = 20
#: From a row leaving the drain registers to its elements being written: a register, mask, seven to shift and round, two
#: to fit, a register, two to rotate, one to pass the masters, two to fit, two to the bank.
DRAIN_TO_MEMORY = 19
#: The same for an UPDATE, which multiplies, shifts and fits once more.
UPDATE_TO_MEMORY = 30
#: What velocities add to that: their words, which are turned, multiplied, rounded, added, fitted, rounded and fitted.
MOMENTUM = 17
#: LOAD: from the last beat to its elements being written.
LOAD_TAIL = 9
#: STORE: from its beginning to the first beat on the stream.
STORE_HEAD = 14
#: LOSS, for each row: to find the maximum, and to sum, after the last read.
LOSS_ROW = 10
#: LOSS: cycles of a division: a bit each, one to round, one to load.
LOSS_DIVIDE = PROBABILITY_BITS + 3
#: LOSS: from the end of the last division's slot to its row entering the drain.
LOSS_TAIL = 18
#: POOL, UNPOOL: from the last word read, or the place of the last one written, to the last element being written.
POOL_TAIL = 27
#: Vector passes: from their last term to its sum entering the drain.
TERM_TO_DRAIN = 25
#: LOOKUP: from the last word read to its element being written.
LOOKUP_TAIL = 29
#: LOSS: reads of a block: once for the maximum, once for the exponentials.
LOSS_READS = 2
#: The longest that anything stays under way once nothing more begins: what is issued last goes through an update with
#: velocities, or takes the tail of a unit of its own.
UNDER_WAY = max(
    max(ISSUE_TO_ACCUMULATOR, TERM_TO_DRAIN) + max(DRAIN_TO_MEMORY, UPDATE_TO_MEMORY + MOMENTUM),
    LOSS_ROW + LOSS_DIVIDE + LOSS_TAIL + DRAIN_TO_MEMORY,
    POOL_TAIL,
    LOOKUP_TAIL,
    LOAD_TAIL,
    STORE_HEAD,
)


def setup(n: int) -> int:
    """Cycles between decoding and the first step."""
    return max(SETUP, n + 2)


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


def to_memory(instruction: Instruction) -> int:
    """Cycles from a row of sums to its elements being written."""
    if instruction.opcode in UPDATES:
        return UPDATE_TO_MEMORY + (MOMENTUM if instruction.momentum_width else 0)
    return DRAIN_TO_MEMORY


def pipeline(instruction: Instruction) -> int:
    """Cycles that a product takes beyond its steps and its last drain."""
    return ISSUE_TO_ACCUMULATOR + to_memory(instruction)


def cost(instruction: Instruction, n: int) -> Cost:
    """The cycles an instruction takes on an n x n array."""
    fixed = FETCH + setup(n) + seeding(instruction, n)
    match instruction.opcode:
        case Opcode.HALT:
            return Cost(cycles=FETCH)
        case Opcode.LOAD:
            beats = instruction.d.rows * instruction.d.row_words(n)
            return Cost(cycles=fixed + beats + LOAD_TAIL, stream=beats)
        case Opcode.STORE:
            beats = instruction.a.rows * instruction.a.row_words(n)
            return Cost(cycles=fixed + STORE_HEAD + beats, stream=beats)
        case Opcode.LOSS:
            rows, words = instruction.rows, blocks(instruction.cols, n)
            vector = rows * (LOSS_ROW + words * (LOSS_READS + LOSS_DIVIDE))
            return Cost(cycles=fixed + vector + LOSS_TAIL + DRAIN_TO_MEMORY, vector=vector)
        case Opcode.POOL | Opcode.UNPOOL:
            vector = _pooled(instruction, n)
            return Cost(cycles=fixed + vector + POOL_TAIL, vector=vector)
        case Opcode.LOOKUP:
            vector = instruction.d.rows * blocks(instruction.cols, n)
            return Cost(cycles=fixed + vector + LOOKUP_TAIL, vector=vector)
        case code if code in VECTOR:
            vector = int(terms(instruction).sum()) * blocks(instruction.cols, n)
            return Cost(cycles=fixed + vector + TERM_TO_DRAIN + to_memory(instruction), vector=vector)
        case Opcode.FORWARD | Opcode.BACKWARD | Opcode.UPDATE:
            return _product(instruction, n, fixed + pipeline(instruction))
    raise ArchError(f"no cost for {instruction}")


def terms(instruction: Instruction) -> npt.NDArray[np.int64]:
    """Words that a vector pass reads for each row of D, one a cycle: int64 [rows of D]. An empty sum takes a cycle.

    What lies in one memory is read one after the other: A and B, or B and the row's mask, both in ACT."""
    i, w = instruction, instruction.window
    if i.opcode is Opcode.DW_UPDATE:
        met = np.append((w.reads >= 0).sum(axis=0), [w.out_pixels] * i.bias)
        return np.asarray(np.maximum(1, met * i.rows), dtype=np.int64)
    if i.opcode in (Opcode.ADD, Opcode.MULTIPLY):
        both = i.opcode is Opcode.ADD or i.memory is Memory.ACT or i.mask
        return np.full(i.d.rows, 1 + bool(both), dtype=np.int64)
    if i.opcode is Opcode.REDUCE:
        return np.full(i.d.rows, w.taps + i.mask, dtype=np.int64)
    met = ((w.writes if i.opcode is Opcode.DW_BACKWARD else w.reads) >= 0).sum(axis=1)
    return np.repeat(np.maximum(1, met + i.bias), i.rows)


def _pooled(instruction: Instruction, n: int) -> int:
    """Cycles from the first word that a pool reads to the last that it reads, or writes in UNPOOL. POOL reads what a
    window has, or a word where that is nothing. UNPOOL goes over kernels side by side until the map ends; it writes the
    words of one while it reads the next one's, and takes the last word of a kernel when those of the one before are
    written."""
    i, w = instruction, instruction.window
    columns = blocks(i.cols, n)
    if i.opcode is Opcode.POOL:
        return i.rows * columns * int(np.maximum(1, (w.reads >= 0).sum(axis=1)).sum())
    down, across = _parts(w.map_height, w.kernel_height), _parts(w.map_width, w.kernel_width)
    words = np.tile(np.repeat(np.outer(down, across), i.rows), columns)
    return int(words[0] + np.maximum(words[1:], words[:-1]).sum() + words[-1] - 1)


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """The tiles of a pass in the order in which the array takes them, one entry each: int64 [tiles].

    steps: of its sums, at least one. rows: valid ones, what its drain takes. cols: valid ones.
    """

    steps: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    cols: npt.NDArray[np.int64]


def tiles(instruction: Instruction, n: int) -> Tiles:
    """Columns of tiles outermost: for FORWARD and BACKWARD blocks of columns, then pixels, then rows of a pixel; for
    UPDATE taps, then blocks of a tap's columns, the bias of several taps last, then rows. What a pixel or a tap does
    not meet is left out; an empty sum takes a step. Where the bias is one of the only tap's columns (FORWARD), its
    steps are taken to the last, with zeros where the tap does not meet."""
    i, w = instruction, instruction.window
    rows = _parts(i.rows, n)
    if i.opcode is Opcode.UPDATE:
        met = (w.reads >= 0).sum(axis=0)
        apart = i.bias if w.taps > 1 else 0
        cols = _parts(i.cols - apart, n)
        of_taps, of_bias = np.repeat(met * i.depth, len(cols)), np.full(apart, w.out_pixels * i.depth)
        outer_steps = np.maximum(1, np.concatenate([of_taps, of_bias]))
        outer_cols = np.concatenate([np.tile(cols, w.taps), np.full(apart, 1)])
        return Tiles(
            steps=np.repeat(outer_steps, len(rows)),
            rows=np.tile(rows, len(outer_steps)),
            cols=np.repeat(outer_cols, len(rows)),
        )
    met = ((w.reads if i.opcode is Opcode.FORWARD else w.writes) >= 0).sum(axis=1)
    bias = i.bias if i.opcode is Opcode.FORWARD else 0
    cols = _parts(i.cols, n)
    terms = met * (i.depth - bias) + bias if w.taps > 1 or not bias else np.full_like(met, i.depth)
    steps = np.repeat(np.maximum(1, terms), len(rows))
    return Tiles(
        steps=np.tile(steps, len(cols)),
        rows=np.tile(rows, len(cols) * len(met)),
        cols=np.repeat(cols, len(met) * len(rows)),
    )


def _parts(count: int, n: int) -> npt.NDArray[np.int64]:
    """Sizes of the blocks of N that `count` falls into, the last one what is left."""
    whole, rest = divmod(count, n)
    return np.array([n] * whole + [rest] * (rest > 0), dtype=np.int64)


def _product(instruction: Instruction, n: int, fixed: int) -> Cost:
    t = tiles(instruction, n)
    issue = int(t.steps.sum())
    wait = int(np.maximum(0, t.rows[:-1] - t.steps[1:]).sum())
    return Cost(
        cycles=fixed + issue + wait + int(t.rows[-1]),
        issue=issue,
        wait=wait,
        macs=int((t.steps * t.rows * t.cols).sum()),
    )
