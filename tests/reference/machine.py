"""The reference machine: one instruction at a time, element by element, in the order the contract names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Matrix, Memory
from insitu.arch.numbers import Overflow, Rounding
from insitu.arch.params import SCALES, CoreParams
from tests.reference import numbers

if TYPE_CHECKING:
    from tests.reference.strategies import Case

Rows = list[list[int]]
Beats = list[list[int]]


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What a test may look at after an instruction. `scales` holds (exponent, next) of every scale register.

    memories: int64 [depth, N] each. stream_out: beats sent so far, N signed lanes each.
    """

    memories: dict[Memory, npt.NDArray[np.int64]]
    scales: tuple[tuple[int, int], ...]
    seed: int
    accumulator_overflow: bool
    saturated: int
    macs: int
    instructions: int
    stream_out: Beats


class ReferenceMachine:
    """A core's state as Python integers. memory[m][address][bank] holds elements; all zero at first, SEED at 1."""

    def __init__(self, core: CoreParams) -> None:
        self.core = core
        self.memory: dict[Memory, Rows] = {m: [[0] * core.n for _ in range(core.depth(m))] for m in Memory}
        self.scale: list[tuple[int, int]] = [(0, 0)] * SCALES
        self.accumulator_overflow = False
        self.saturated = 0
        self.macs = 0
        self.instructions = 0
        self.stream_out: Beats = []
        self._seed = 1

    @classmethod
    def start(cls, case: Case) -> ReferenceMachine:
        """A machine where a case of `strategies` begins."""
        machine = cls(case.core)
        for memory, image in case.memories.items():
            machine.memory[memory] = image.tolist()
        machine.scale = list(case.scales)
        machine.seed = case.seed
        return machine

    @property
    def seed(self) -> int:
        """The SEED register; writing 0 stores the golden ratio."""
        return self._seed

    @seed.setter
    def seed(self, value: int) -> None:
        self._seed = value % numbers.WORD or 0x9E3779B9

    def state(self) -> State:
        """A copy of everything a test may look at."""
        return State(
            memories={m: np.array(rows, dtype=np.int64) for m, rows in self.memory.items()},
            scales=tuple(self.scale),
            seed=self.seed,
            accumulator_overflow=self.accumulator_overflow,
            saturated=self.saturated,
            macs=self.macs,
            instructions=self.instructions,
            stream_out=[list(beat) for beat in self.stream_out],
        )

    def run(self, program: Iterable[Sequence[int]], stream_in: Iterable[Sequence[int]] = ()) -> Beats:
        """Execute instructions up to and including the first HALT; the beats sent."""
        beats, out = iter(stream_in), []
        for words in program:
            out += self.execute(words, beats)
            if Instruction.decode(words).opcode is Opcode.HALT:
                break
        return out

    def execute(self, words: Sequence[int], stream_in: Iterable[Sequence[int]] = ()) -> Beats:
        """Execute one instruction of 16 words; the beats sent."""
        i = Instruction.decode(words)
        out: Beats = []
        match i.opcode:
            case Opcode.LOAD:
                self._load(i, iter(stream_in))
            case Opcode.STORE:
                out = self._store(i)
            case Opcode.FORWARD | Opcode.BACKWARD | Opcode.UPDATE | Opcode.LOSS:
                self._pass(i)
        self.instructions += 1
        self.stream_out += out
        return out

    # Matrices and streams.

    def _place(self, m: Matrix, r: int, c: int) -> tuple[int, int]:
        n = self.core.n
        return m.base + r * m.pitch + c // n, (r + c) % n

    def _read(self, m: Matrix) -> Rows:
        """The matrix's elements as rows."""
        out = []
        for r in range(m.rows):
            row = []
            for c in range(m.cols):
                address, bank = self._place(m, r, c)
                row.append(self.memory[m.memory][address][bank])
            out.append(row)
        return out

    def _write(self, m: Matrix, r: int, c: int, value: int) -> None:
        address, bank = self._place(m, r, c)
        self.memory[m.memory][address][bank] = value

    def _load(self, i: Instruction, beats: Iterator[Sequence[int]]) -> None:
        n, bits = self.core.n, self.core.word_bits(i.memory)
        for r in range(i.rows):
            for first in range(0, i.cols, n):
                beat = next(beats)
                for c in range(first, min(first + n, i.cols)):
                    self._write(i.d, r, c, numbers.fitted(int(beat[c - first]), bits, Overflow.WRAP))

    def _store(self, i: Instruction) -> Beats:
        n = self.core.n
        beats = []
        for row in self._read(i.a):
            for first in range(0, i.cols, n):
                beat = row[first : first + n]
                beats.append(beat + [0] * (n - len(beat)))
        return beats

    # Passes.

    def _pass(self, i: Instruction) -> None:
        if i.track:
            following = self.scale[i.sd][1]
            self.scale[i.sd] = (following, following)
        source = self._source(i)
        accumulators = self._accumulators(i)
        spread = 0
        for row in accumulators:
            for x in row:
                spread |= numbers.magnitude(x)
        bits = spread.bit_length()
        if i.exact and bits > 0:
            exponent = numbers.range_exponent(source, bits, i.width)
            self.scale[i.sd] = (exponent, exponent)

        destination = self._read(i.d)
        for r, c, r0, r1 in self._drain(i):
            value = self._narrow(accumulators[r][c], self.scale[i.sd][0] - source, i, r0)
            if i.opcode is Opcode.UPDATE:
                shift = numbers.limit(self.scale[i.sm][0] - self.scale[i.sd][0] + i.lr_shift, -24, 31)
                delta = numbers.rounded(i.lr_mul * value, shift, i.update_rounding, r1)
                value = self._fit(destination[r][c] - delta, i.master_width, Overflow.SATURATE)
            self._write(i.d, r, c, value)

        if i.track:
            exponent = self.scale[i.sd][0]
            self.scale[i.sd] = (exponent, numbers.range_exponent(source, bits, i.width) if bits > 0 else exponent)
        if i.opcode is not Opcode.LOSS:
            self.macs += i.rows * i.cols * i.depth

    def _source(self, i: Instruction) -> int:
        """The exponent of the accumulators."""
        if i.opcode is Opcode.LOSS:
            return self.scale[i.sb][0] - 16
        exponent = self.scale[i.sa][0] + self.scale[i.sb][0]
        if i.b.memory is Memory.WGT:
            exponent += i.weight_shift
        return exponent

    def _fit(self, q: int, width: int, overflow: Overflow) -> int:
        value = numbers.fitted(q, width, overflow)
        self.saturated += value != q
        return value

    def _narrow(self, x: int, s: int, i: Instruction, r: int) -> int:
        return self._fit(numbers.shifted(x, s, i.rounding, r), i.width, i.overflow)

    def _weights(self, i: Instruction) -> Rows:
        """Operand B out of WGT, as the read port delivers it."""
        return [
            [
                numbers.fitted(
                    numbers.shifted(master, i.weight_shift, i.weight_rounding, 0), i.weight_width, Overflow.SATURATE
                )
                for master in row
            ]
            for row in self._read(i.b)
        ]

    def _bias(self, i: Instruction) -> int:
        """The bias operand, in units of the ACT operand."""
        s = self.scale[i.sa if i.opcode is Opcode.FORWARD else i.sb][0]
        return 2 ** numbers.limit(i.bias_exponent - s, 0, self.core.activation_bits - 2)

    def _accumulators(self, i: Instruction) -> Rows:
        """The accumulators after ReLU or mask, rows x cols."""
        if i.opcode is Opcode.LOSS:
            a, b = self._read(i.a), self._read(i.b)
            bits = self.core.word_bits(Memory.ERR)
            return [numbers.loss_row(a[r], b[r], self.scale[i.sa][0], bits) for r in range(i.rows)]

        # left[r] and right[c] are the terms of the sum, k = 0, 1, ...
        a = self._read(i.a)
        if i.opcode is Opcode.FORWARD:
            left = [row + [self._bias(i)] * i.bias for row in a]
            right = self._weights(i)
        elif i.opcode is Opcode.BACKWARD:
            left = a
            right = _transposed(self._weights(i))
        else:
            left = _transposed(a)
            right = _transposed([row + [self._bias(i)] * i.bias for row in self._read(i.b)])

        out = [[self._dot(left[r], right[c]) for c in range(i.cols)] for r in range(i.rows)]
        if i.relu:
            out = [[max(0, x) for x in row] for row in out]
        if i.mask:
            mask = self._read(i.m)
            out = [[x if mask[r][c] > 0 else 0 for c, x in enumerate(row)] for r, row in enumerate(out)]
        return out

    def _dot(self, left: list[int], right: list[int]) -> int:
        """A sum of products in accumulator_bits, wrapped at each addition."""
        top = 2 ** (self.core.accumulator_bits - 1)
        total = 0
        for x, y in zip(left, right, strict=True):
            total += x * y
            if not -top <= total < top:
                self.accumulator_overflow = True
                total = (total + top) % (2 * top) - top
        return total

    def _drain(self, i: Instruction) -> Iterator[tuple[int, int, int, int]]:
        """(r, c, r0, r1) of every element of D in drain order; r0 and r1 are its random bits."""
        n = self.core.n
        draws = Rounding.STOCHASTIC in (i.rounding, i.update_rounding)
        states = [[numbers.lane_seed(self.seed, lane, stream) for stream in (0, 1)] for lane in range(n)]
        for r, first in _drained_rows(i, n):
            if draws:
                states = [[numbers.xorshift(state) for state in lane] for lane in states]
            for c in range(first, min(first + n, i.cols)):
                yield r, c, states[c - first][0], states[c - first][1]
        if draws:
            self.seed = numbers.xorshift(self.seed)


def _drained_rows(i: Instruction, n: int) -> Iterator[tuple[int, int]]:
    """(row, first column) of every drained row of N lanes, in order."""
    if i.opcode is Opcode.LOSS:
        for r in range(i.rows):
            for first in range(0, i.cols, n):
                yield r, first
        return
    for first in range(0, i.cols, n):
        for top in range(0, i.rows, n):
            for r in range(top, min(top + n, i.rows)):
                yield r, first


def _transposed(rows: Rows) -> Rows:
    return [list(column) for column in zip(*rows, strict=True)]
