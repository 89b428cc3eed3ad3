"""One class an opcode: prepared when a program is loaded, called when the instruction comes."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory, blocks
from insitu.arch.loss import PROBABILITY_BITS, SUM_BITS
from insitu.arch.numbers import UPDATE_SHIFT_MAX, UPDATE_SHIFT_MIN, Rounding, clamp, range_exponent
from insitu.arch.timing import Cost, cost
from insitu.sim import kernels, lanes, simd
from insitu.sim.machine import Machine
from insitu.sim.memory import Values
from insitu.sim.product import Method, bound, method
from insitu.sim.rows import By, constants
from insitu.sim.statistics import Statistics
from insitu.sim.stream import BeatStream

_NOTHING: Values = np.empty(0, dtype=np.int16)
_NO_WEIGHTS = (_NOTHING, constants(Rounding.FLOOR, 0), (0, 0))
#: Integers below this leave room for one addition in int32.
_INT32_ROOM = 1 << 30


class Step:
    """An instruction bound to a machine. `run()` executes it."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        self.machine = machine
        self.instruction = instruction
        self.cost: Cost = cost(instruction, machine.core.n)
        self.beats_in = 0  #: beats `run` takes from the input stream

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        """Execute; nothing for HALT."""


class Load(Step):
    """Stream -> memory."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.d = machine.place(instruction.d)
        self.words = blocks(instruction.d.cols, machine.core.n) * machine.core.n
        self.beats_in = instruction.d.rows * self.words // machine.core.n
        self.bits = machine.core.word_bits(instruction.d.memory)

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        d = self.d
        beats = stream_in.take(self.beats_in).reshape(-1)
        kernels.loading(beats, d.flat, d.pitch, d.matrix.rows, d.matrix.cols, self.words, self.bits)
        mine, met = self.machine.readers(d.matrix)
        for weights in (mine, *met):
            if weights is not None:
                weights.valid = False


class Store(Step):
    """Memory -> stream."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.a = machine.place(instruction.a)

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        n, a = self.machine.core.n, self.a.matrix
        padded = np.zeros((a.rows, blocks(a.cols, n) * n), dtype=np.int64)
        padded[:, : a.cols] = self.a.view
        stream_out.put(padded.reshape(-1, n))


class _Draining(Step):
    """What the passes that narrow an accumulator share: scale registers, generators, scratch, statistics."""

    relu = False
    #: Steps that the generators take between a row and the next.
    idle = 0

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.d = machine.place(instruction.d)
        self.m = machine.place(instruction.m) if instruction.mask else None
        half = 1 << (instruction.width - 1)
        self.limits = -half, half - 1
        self.wrap = int(instruction.overflow)
        self.states: lanes.States = np.empty(instruction.d.cols, dtype=np.uint32)
        self.jump = lanes.jump(instruction.rows)  # a column of tiles drains all its rows before the next begins
        self.narrow_row = np.empty(instruction.d.cols, dtype=np.int32)
        self.wide_row = np.empty(instruction.d.cols, dtype=np.int64)

    @cached_property
    def accumulators(self) -> Values:
        """Scratch for all of the pass's accumulators: [rows, cols], in the product's dtype."""
        return np.empty((self.d.matrix.rows, self.d.matrix.cols), dtype=self.method.value)

    @property
    def method(self) -> Method:
        return Method.STEPWISE

    @property
    def largest(self) -> int:
        """The largest magnitude an accumulator can have."""
        return 1 << (self.machine.core.accumulator_bits - 1)

    def draw(self) -> kernels.Draw:
        return self.machine.draw(self.instruction), self.jump, self.machine.core.n

    def narrow(self, source: int) -> tuple[int, int]:
        """All `accumulators`, whose exponent is `source`, into D: what `kernels.narrowing` returns."""
        machine, i, d = self.machine, self.instruction, self.d
        if i.exact:
            self.activate()
            _exact_exponent(machine, i, source, self.accumulators)
        gate, gate_pitch = self.gate
        by = constants(i.rounding, machine.shift(i.sd, source))
        acc, x, states, draw = self.accumulators, self.row(by), self.states, self.draw()
        return kernels.narrowing(
            acc, self.relu, gate, gate_pitch, x, states, draw, self.idle, by, self.limits, self.wrap, d.flat, d.pitch
        )

    def row(self, by: By) -> Values:
        """Scratch for a row: int32 where that has room for every intermediate."""
        return self.narrow_row if (self.largest << by[0]) < _INT32_ROOM and by[1] < 30 else self.wide_row

    @property
    def gate(self) -> tuple[Values, int]:
        return (self.m.flat, self.m.pitch) if self.m else (_NOTHING, 0)

    def activate(self) -> None:
        """ReLU or the mask on all accumulators, as the drain will apply it again to no effect."""
        acc = self.accumulators
        if self.relu:
            np.maximum(acc, 0, out=acc)
        if self.m:
            acc[self.m.view <= 0] = 0

    def finish(self, source: int, changed: int, seen: int, statistics: Statistics | None) -> None:
        """Account for a drain."""
        machine = self.machine
        machine.saturated += changed
        machine.measured(self.instruction, source, seen)
        if statistics is not None:
            acc = self.accumulators  # with ReLU or the mask applied
            lost = int(np.count_nonzero((self.d.view == 0) & (acc != 0)))
            statistics.add(self.d.matrix, acc.astype(np.int64), source, saturated=changed, underflowed=lost)


class _Product(_Draining):
    """What the passes over the array share: the exact product, and whether it and the drain go block by block."""

    #: Rows of accumulators that stay in cache from the product to the drain: what the vector code's tiles like.
    block = 12

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        self._method = method(instruction, machine.core)
        super().__init__(machine, instruction)
        self.a, self.b = machine.place(instruction.a), machine.place(instruction.b)
        self.rows, self.cols, self.depth = instruction.rows, instruction.cols, instruction.depth

    @property
    def method(self) -> Method:
        return self._method

    @cached_property
    def largest(self) -> int:
        return min(bound(self.instruction, self.machine.core), super().largest)

    @cached_property
    def few(self) -> simd.Int32:
        """Scratch for a block of accumulators."""
        return np.empty((min(self.block, self.rows), self.cols), dtype=np.int32)

    def blockwise(self, statistics: Statistics | None) -> bool:
        """Whether nobody looks at the accumulators but the drain."""
        return self.method is Method.VECTOR and statistics is None and not self.instruction.exact

    def multiply(self, a: Values, b: Values) -> None:
        """accumulators[r, c] = sum_k a[r, k] b[k, c], in floating point, exact by the choice of method, or step by
        step, wrapping."""
        acc = self.accumulators
        if self.method is Method.STEPWISE:
            wrapped = kernels.wrapping_product(
                np.ascontiguousarray(a, dtype=np.int64),
                np.ascontiguousarray(b.T, dtype=np.int64),
                self.machine.core.accumulator_bits,
                acc,
            )
            self.machine.accumulator_overflow |= wrapped
        else:
            np.matmul(a.astype(acc.dtype), b.astype(acc.dtype), out=acc)


class _Weighted(_Product):
    """FORWARD and BACKWARD: what reads weights."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.w = machine.weights(instruction)

    def begin(self) -> int:
        """Commit; the accumulators' exponent."""
        machine, i = self.machine, self.instruction
        machine.commit(i)
        return machine.scales[i.sa][0] + machine.scales[i.sb][0] + i.weight_shift


class Forward(_Weighted):
    """D[r,c] = sum_k A[r,k] B[c,k], bias, ReLU."""

    block = 16

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.relu = bool(instruction.relu)
        self.terms = instruction.depth - instruction.bias

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        machine, i, a, w, d = self.machine, self.instruction, self.a, self.w, self.d
        source = self.begin()
        one = machine.bias_operand(i, i.sa) if i.bias else 0
        if self.blockwise(statistics):
            by = constants(i.rounding, machine.shift(i.sd, source))
            changed, seen = kernels.forward(
                a.flat,
                a.pitch,
                w.flat,
                w.pitch,
                self.rows,
                self.terms,
                one,
                self.few,
                self.relu,
                self.row(by),
                self.states,
                self.draw(),
                by,
                self.limits,
                self.wrap,
                d.flat,
                d.pitch,
            )
        else:
            self.product(one)
            changed, seen = self.narrow(source)
        self.finish(source, changed, seen, statistics)

    def product(self, one: int) -> None:
        """All accumulators."""
        a, w = self.a, self.w
        if self.method is Method.VECTOR:
            kernels.forward_product(a.flat, a.pitch, w.flat, w.pitch, self.terms, one, self.accumulators, self.rows)
        else:
            self.multiply(_beside(a.view, one), w.view(self.instruction.b).T)


class Backward(_Weighted):
    """D[r,c] = sum_k A[r,k] B[k,c], masked."""

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        machine, i, a, w, d = self.machine, self.instruction, self.a, self.w, self.d
        source = self.begin()
        if self.blockwise(statistics):
            by = constants(i.rounding, machine.shift(i.sd, source))
            gate, gate_pitch = self.gate
            changed, seen = kernels.backward(
                a.flat,
                a.pitch,
                w.flat,
                w.pitch,
                self.rows,
                self.depth,
                self.few,
                gate,
                gate_pitch,
                self.row(by),
                self.states,
                self.draw(),
                by,
                self.limits,
                self.wrap,
                d.flat,
                d.pitch,
            )
        else:
            self.product()
            changed, seen = self.narrow(source)
        self.finish(source, changed, seen, statistics)

    def product(self) -> None:
        """All accumulators."""
        a, w, acc = self.a, self.w, self.accumulators
        if self.method is Method.VECTOR:
            flat, cols = acc.reshape(-1), self.cols
            simd.outer(a.flat, a.pitch, w.flat, w.pitch, flat, cols, self.rows, cols, self.depth)
        else:
            self.multiply(a.view, w.view(self.instruction.b))


class Update(_Product):
    """D[r,c] -= lr * sum_k A[k,r] B[k,c]."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        half = 1 << (instruction.master_width - 1)
        self.master_limits = -half, half - 1
        self.update_states = np.empty_like(self.states)

    def turned(self, rows: int) -> Values:
        """Scratch for rows of A turned so that its sums run along them: [rows, depth]."""
        return np.empty((rows, self.depth), dtype=np.int16)

    @cached_property
    def few_turned(self) -> Values:
        return self.turned(len(self.few))

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        machine, i, a, b, d = self.machine, self.instruction, self.a, self.b, self.d
        machine.commit(i)
        source = machine.scales[i.sa][0] + machine.scales[i.sb][0]
        one = machine.bias_operand(i, i.sb) if i.bias else 0
        blockwise = self.blockwise(statistics)
        if not blockwise:
            self.product(one)
            if i.exact:
                _exact_exponent(machine, i, source, self.accumulators)
        by = constants(i.rounding, machine.shift(i.sd, source))
        rate_shift = machine.scales[i.sm][0] - machine.scales[i.sd][0] + i.lr_shift
        update_by = constants(i.update_rounding, clamp(rate_shift, UPDATE_SHIFT_MIN, UPDATE_SHIFT_MAX))
        mine, met = machine.readers(d.matrix)
        drain = (
            self.update_row(by, update_by),
            self.states,
            self.update_states,
            self.draw(),
            by,
            self.limits,
            self.wrap,
            i.lr_mul,
            update_by,
            d.flat,
            d.pitch,
            self.master_limits,
            *((mine.kept, mine.by, mine.limits) if mine else _NO_WEIGHTS),
        )
        if blockwise:
            changed, seen = kernels.update(
                a.flat, a.pitch, b.flat, b.pitch, self.rows, self.depth, one, self.few_turned, self.few, *drain
            )
        else:
            before = d.view.copy() if statistics is not None else None
            changed, seen, lost = kernels.updating(self.accumulators, *drain, statistics is not None)
        machine.saturated += changed
        machine.measured(i, source, seen)
        for weights in met:
            weights.valid = False
        if mine:
            mine.valid = True
        if statistics is not None:
            acc = self.accumulators.astype(np.int64)
            stalled = int(np.count_nonzero((acc != 0) & (d.view == before)))
            statistics.add(d.matrix, acc, source, saturated=changed, underflowed=lost, stalled=stalled)

    def product(self, one: int) -> None:
        """All accumulators."""
        a, b = self.a, self.b
        if self.method is Method.VECTOR:
            turned = self.turned(self.rows)
            kernels.update_product(
                a.flat, a.pitch, b.flat, b.pitch, self.depth, one, turned, self.accumulators, self.rows
            )
        else:
            self.multiply(a.view.T, _beside(b.view, one))

    def update_row(self, by: By, update_by: By) -> Values:
        """Scratch for a row: int32 where that has room for the gradient's intermediates and the master's."""
        i = self.instruction
        room = (
            (i.lr_mul << (i.width - 1) << update_by[0]) < _INT32_ROOM
            and update_by[1] < 30
            and self.machine.core.master_bits <= 30
        )
        return self.row(by) if room else self.wide_row


class Loss(_Draining):
    """D = softmax(A) * sum(B) - B."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.a, self.b = machine.place(instruction.a), machine.place(instruction.b)
        # Row by row: a block's generators are one step behind the block before it.
        self.jump = lanes.jump(1)
        self.idle = blocks(instruction.d.cols, machine.core.n) - 1

    @property
    def largest(self) -> int:
        return 1 << (PROBABILITY_BITS + self.machine.core.word_bits(Memory.ERR) + SUM_BITS)

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        machine, i = self.machine, self.instruction
        machine.commit(i)
        bits = machine.core.word_bits(Memory.ERR)
        kernels.loss_accumulators(self.a.view, self.b.view, machine.scales[i.sa][0], bits, self.accumulators)
        source = machine.scales[i.sb][0] - PROBABILITY_BITS
        self.finish(source, *self.narrow(source), statistics)


STEPS: dict[Opcode, type[Step]] = {
    Opcode.HALT: Step,
    Opcode.LOAD: Load,
    Opcode.STORE: Store,
    Opcode.FORWARD: Forward,
    Opcode.BACKWARD: Backward,
    Opcode.UPDATE: Update,
    Opcode.LOSS: Loss,
}


def prepare(machine: Machine, instruction: Instruction) -> Step:
    """Bind an instruction to a machine."""
    return STEPS[instruction.opcode](machine, instruction)


def _exact_exponent(machine: Machine, i: Instruction, source: int, acc: Values) -> None:
    shown = acc.astype(np.int64)
    bits = int(np.bitwise_or.reduce(shown ^ (shown >> 63), axis=None)).bit_length()
    if bits:
        machine.scales[i.sd][:] = [range_exponent(source, bits, i.width)] * 2


def _beside(values: Values, one: int) -> Values:
    """A column of `one`, what a bias is multiplied by, beside a matrix; the matrix alone where it is 0."""
    return np.column_stack([values, np.full(len(values), one)]) if one else values
