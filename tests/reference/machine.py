"""The reference machine: one instruction at a time, element by element, in the order the contract names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.numbers import Overflow, Rounding
from insitu.arch.params import SCALES, CoreParams
from tests.reference import numbers, pools, products, vectors
from tests.reference.windows import Grid, operands, tiles

if TYPE_CHECKING:
    from tests.reference.strategies import Case

Rows = list[list[int]]
Beats = list[list[int]]

#: What counts multiply-accumulates.
PRODUCTS = (Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE)


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
        self.memory: dict[Memory, Rows] = {m: [[0] * core.n for _ in range(core.depth(m))] for m in core.memories}
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
            case Opcode.HALT:
                pass
            case Opcode.LOOKUP:
                vectors.look_up(self, i)
            case Opcode.POOL:
                pools.pool(self, i)
            case Opcode.UNPOOL:
                pools.unpool(self, i)
            case _:
                self._pass(i)
        self.instructions += 1
        self.stream_out += out
        return out

    # Matrices and streams.

    def read(self, m: Grid) -> Rows:
        """The matrix's elements as rows."""
        out = []
        for r in range(m.rows):
            row = []
            for c in range(sum(m.groups)):
                address, bank = m.place(r, c, self.core.n)
                row.append(self.memory[m.memory][address][bank])
            out.append(row)
        return out

    def write(self, m: Grid, r: int, c: int, value: int) -> None:
        address, bank = m.place(r, c, self.core.n)
        self.memory[m.memory][address][bank] = value

    def _load(self, i: Instruction, beats: Iterator[Sequence[int]]) -> None:
        d, bits = operands(i)["d"], self.core.word_bits(i.memory)
        for r in range(d.rows):
            for columns in d.words(self.core.n):
                for c, lane in zip(columns, next(beats), strict=False):
                    self.write(d, r, c, numbers.fitted(int(lane), bits, Overflow.WRAP))

    def _store(self, i: Instruction) -> Beats:
        a, n = operands(i)["a"], self.core.n
        return [[row[c] for c in columns] + [0] * (n - len(columns)) for row in self.read(a) for columns in a.words(n)]

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

        d = operands(i)["d"]
        destination = self.read(d)
        for r, c, r0, r1 in self._drain(i):
            value = self._narrow(accumulators[r][c], self.scale[i.sd][0] - source, i, r0)
            if d.memory is Memory.WGT and i.momentum_width:
                value = self._by_velocity(i, replace(d, memory=Memory.VEL), r, c, value, destination[r][c], r1)
            elif d.memory is Memory.WGT:
                shift = numbers.limit(self.scale[i.sm][0] - self.scale[i.sd][0] + i.lr_shift, -24, 31)
                delta = numbers.rounded(i.lr_mul * value, shift, i.update_rounding, r1)
                value = self._fit(destination[r][c] - delta, i.master_width, Overflow.SATURATE)
            self.write(d, r, c, value)

        if i.track:
            exponent = self.scale[i.sd][0]
            self.scale[i.sd] = (exponent, numbers.range_exponent(source, bits, i.width) if bits > 0 else exponent)
        if i.opcode in PRODUCTS:
            self.macs += sum(steps * high * wide for steps, high, wide in tiles(i, self.core.n))

    def _by_velocity(self, i: Instruction, place: Grid, r: int, c: int, g: int, master: int, bits: int) -> int:
        """A gradient's way through a velocity, which is written; the master to write."""
        address, bank = place.place(r, c, self.core.n)
        below, rounding = i.velocity_fraction, i.momentum_rounding
        shift = self.scale[i.sm][0] - self.scale[i.sd][0] + i.lr_shift - below
        shift = numbers.limit(shift, -24, 31 - max(0, below))
        kept = numbers.rounded(i.momentum_mul * self.memory[Memory.VEL][address][bank], 8, rounding, bits)
        step = numbers.rounded(i.lr_mul * g, shift, rounding, bits)
        decay = numbers.rounded(i.decay_mul * master, max(0, i.decay_shift - below), rounding, bits)
        decay = numbers.fitted(decay, i.momentum_width, Overflow.SATURATE)
        velocity = self._fit(kept + step + decay, i.momentum_width, Overflow.SATURATE)
        self.write(place, r, c, velocity)
        if i.hold:
            return master
        delta = numbers.rounded(velocity, below, i.update_rounding, bits // 2 ** (32 - below) if below > 0 else 0)
        return self._fit(master - delta, i.master_width, Overflow.SATURATE)

    def _source(self, i: Instruction) -> int:
        """The exponent of the accumulators."""
        if i.opcode is Opcode.LOSS:
            return self.scale[i.sb][0] - 16
        if i.opcode is Opcode.ADD:
            return vectors.alignment(self.scale[i.sa][0], self.scale[i.sb][0])[2]
        if i.constant:
            return self.scale[i.sa][0] + i.bias_exponent
        exponent = self.scale[i.sa][0] + self.scale[i.sb][0]
        if operands(i)["b"].memory is Memory.WGT:
            exponent += i.weight_shift
        return exponent

    def _fit(self, q: int, width: int, overflow: Overflow) -> int:
        value = numbers.fitted(q, width, overflow)
        self.saturated += value != q
        return value

    def _narrow(self, x: int, s: int, i: Instruction, r: int) -> int:
        return self._fit(numbers.shifted(x, s, i.rounding, r), i.width, i.overflow)

    def weights(self, i: Instruction) -> Rows:
        """Operand B out of WGT, as the read port delivers it."""
        return [
            [
                numbers.fitted(
                    numbers.shifted(master, i.weight_shift, i.weight_rounding, 0), i.weight_width, Overflow.SATURATE
                )
                for master in row
            ]
            for row in self.read(operands(i)["b"])
        ]

    def bias(self, i: Instruction) -> int:
        """The bias operand, in units of the ACT operand."""
        s = self.scale[i.sb if operands(i)["d"].memory is Memory.WGT else i.sa][0]
        return 2 ** numbers.limit(i.bias_exponent - s, 0, self.core.activation_bits - 2)

    def _accumulators(self, i: Instruction) -> Rows:
        """The accumulators after ReLU or mask, one for each element of D."""
        grids = operands(i)
        a = self.read(grids["a"])
        if i.opcode is Opcode.LOSS:
            b = self.read(grids["b"])
            bits = self.core.word_bits(Memory.ERR)
            return [numbers.loss_row(a[r], b[r], self.scale[i.sa][0], bits) for r in range(i.rows)]
        if i.opcode is Opcode.FORWARD:
            out = products.forward(self, i, a, self.weights(i))
        elif i.opcode is Opcode.BACKWARD:
            out = products.backward(self, i, a, self.weights(i))
        elif i.opcode is not Opcode.UPDATE:
            out = vectors.accumulators(self, i)
        else:
            out = products.update(self, i, a, self.read(grids["b"]))
        if i.relu:
            out = [[max(0, x) for x in row] for row in out]
        if i.mask:
            mask = self.read(grids["m"])
            out = [[x if mask[r][c] > 0 else 0 for c, x in enumerate(row)] for r, row in enumerate(out)]
        return out

    def dot(self, left: list[int], right: list[int]) -> int:
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
        draws = Rounding.STOCHASTIC in (i.rounding, i.update_rounding, i.momentum_rounding)
        states = [[numbers.lane_seed(self.seed, lane, stream) for stream in (0, 1)] for lane in range(self.core.n)]
        for r, columns in _drained_rows(i, self.core.n):
            if draws:
                states = [[numbers.xorshift(state) for state in lane] for lane in states]
            for c, (r0, r1) in zip(columns, states, strict=False):
                yield r, c, r0, r1
        if draws:
            self.seed = numbers.xorshift(self.seed)


def _drained_rows(i: Instruction, n: int) -> Iterator[tuple[int, list[int]]]:
    """(row, its columns in the lanes) of every drained row, in order."""
    d = operands(i)["d"]
    if i.opcode is Opcode.LOSS:
        for r in range(d.rows):
            for columns in d.words(n):
                yield r, columns
        return
    # Tiles lie under one another with no row between them, within a pixel and from a pixel to the next.
    for columns in d.words(n):
        for r in range(d.rows):
            yield r, columns
