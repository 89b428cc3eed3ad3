"""One class an opcode: prepared when a program is loaded, called when the instruction comes."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from insitu.arch import generator
from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory, blocks
from insitu.arch.loss import PROBABILITY_BITS, SUM_BITS
from insitu.arch.numbers import UPDATE_SHIFT_MAX, UPDATE_SHIFT_MIN, Rounding, clamp, range_exponent
from insitu.arch.timing import Cost, cost
from insitu.sim import kernels, lanes, simd
from insitu.sim.machine import Machine
from insitu.sim.memory import Values
from insitu.sim.product import Method, bound, method
from insitu.sim.rows import constants
from insitu.sim.statistics import Statistics
from insitu.sim.stream import BeatStream

_NO_GATE: Values = np.empty(0, dtype=np.int16)
_NO_VALUES: Values = np.empty(0, dtype=np.int64)
_NO_WEIGHTS = (_NO_GATE, 0, (0, 0, 0, 0), (0, 0))
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
        self.d = instruction.d
        self.words = blocks(self.d.cols, machine.core.n) * machine.core.n
        self.beats_in = self.d.rows * self.words // machine.core.n

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        d, machine = self.d, self.machine
        out, pitch = machine.tail(d)
        bits = machine.core.word_bits(d.memory)
        beats = stream_in.take(self.beats_in).reshape(-1)
        kernels.loading(beats, out, pitch, d.rows, d.cols, self.words, bits)
        machine.changed(d)


class Store(Step):
    """Memory -> stream."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.a = instruction.a

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        n = self.machine.core.n
        padded = np.zeros((self.a.rows, blocks(self.a.cols, n) * n), dtype=np.int64)
        padded[:, : self.a.cols] = self.machine.view(self.a)
        stream_out.put(padded.reshape(-1, n))


class _Draining(Step):
    """What the passes that narrow an accumulator share: scale registers, generators, kernels, statistics."""

    activation = kernels.IDENTITY

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.d = instruction.d
        self.half = 1 << (instruction.width - 1)

    @cached_property
    def accumulators(self) -> Values:
        """Scratch for the pass's accumulators: [rows, cols], in the product's dtype."""
        return np.empty((self.d.rows, self.d.cols), dtype=self.method.value)

    @property
    def method(self) -> Method:
        return Method.STEPWISE

    def row(self, room: bool) -> Values:
        """Scratch for a row: int32 where that has room for every intermediate."""
        return np.empty(self.d.cols, dtype=np.int32 if room else np.int64)

    @property
    def largest(self) -> int:
        """The largest magnitude an accumulator can have."""
        return 1 << (self.machine.core.accumulator_bits - 1)

    def states(self, seed: int, stream: int, rounding: Rounding) -> lanes.States:
        if rounding is not Rounding.STOCHASTIC:
            return lanes.NO_STATES
        return lanes.start(seed, stream, rows=self.d.rows, cols=self.d.cols, n=self.machine.core.n)

    def finish(
        self,
        source: int,
        statistics: Statistics | None,
        *,
        bias: Values = _NO_VALUES,
        gate: tuple[Values, int] = (_NO_GATE, 0),
        steps: int = 1,
    ) -> None:
        """Narrow `accumulators`, whose exponent is `source`, into D."""
        machine, i = self.machine, self.instruction
        acc = self.accumulators
        if i.exact or statistics is not None:
            shown = self.activated(acc, bias)
        if i.exact:
            _exact_exponent(machine, i, source, shown)
        shift = machine.shift(i.sd, source)
        by = constants(i.rounding, shift)
        room = (self.largest << by[0]) < _INT32_ROOM and by[1] < 30
        out, pitch = machine.tail(self.d)
        changed, seen = kernels.narrowing(
            acc,
            bias,
            self.activation,
            *gate,
            out,
            pitch,
            self.row(room),
            int(i.rounding),
            self.states(machine.draw(i), generator.NARROW_STREAM, i.rounding),
            steps,
            by,
            (-self.half, self.half - 1),
            int(i.overflow),
        )
        machine.saturated += changed
        machine.measured(i, source, seen)
        if statistics is not None:
            lost = int(np.count_nonzero((machine.view(self.d) == 0) & (shown != 0)))
            statistics.add(self.d, shown, source, saturated=changed, underflowed=lost)

    def activated(self, acc: Values, bias: Values) -> npt.NDArray[np.int64]:
        """The accumulators as they are narrowed: int64 [rows, cols]. For statistics and exact exponents only."""
        values = acc.astype(np.int64) + (bias.astype(np.int64) if bias.size else 0)
        if self.activation == kernels.RELU:
            return np.maximum(values, 0)
        if self.activation == kernels.MASK:
            return np.where(self.machine.view(self.instruction.m) > 0, values, 0)
        return values


class _Product(_Draining):
    """What the passes over the array share: the exact product."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.a, self.b = instruction.a, instruction.b
        self._method = method(instruction, machine.core)

    @property
    def method(self) -> Method:
        return self._method

    @cached_property
    def largest(self) -> int:
        return min(bound(self.instruction, self.machine.core), super().largest)

    def multiply(self, a: Values, b: Values, out: Values) -> None:
        """out[r, c] = sum_k a[r, k] b[k, c] in floating point, exact by the choice of method."""
        np.matmul(a.astype(out.dtype), b.astype(out.dtype), out=out)

    def stepwise(self, a: Values, b: Values) -> None:
        """The same in order, wrapping: a [rows, depth], b [cols, depth]."""
        wrapped = kernels.wrapping_product(
            np.ascontiguousarray(a, dtype=np.int64),
            np.ascontiguousarray(b, dtype=np.int64),
            self.machine.core.accumulator_bits,
            self.accumulators,
        )
        self.machine.accumulator_overflow |= wrapped


class Forward(_Product):
    """D[r,c] = sum_k A[r,k] B[c,k], bias, ReLU."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.activation = kernels.RELU if instruction.relu else kernels.IDENTITY

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        machine, i = self.machine, self.instruction
        machine.commit(i)
        source = machine.scales[i.sa][0] + machine.scales[i.sb][0] + i.weight_shift
        terms = i.depth - i.bias
        one = machine.bias_operand(i, i.sa) if i.bias else 0
        flat, pitch = machine.weights_tail(i, self.b)
        bias = _NO_VALUES
        if self.method is Method.VECTOR:
            x, stride = machine.tail(self.a)
            simd.dot(x, stride, flat, pitch, self.accumulators.reshape(-1), i.rows, i.cols, terms)
        else:
            a, w = machine.view(self.a), machine.weights(i, self.b)
            if self.method is Method.STEPWISE:
                self.stepwise(np.column_stack([a, np.full(a.shape[0], one)]) if i.bias else a, w)
            else:
                self.multiply(a, w[:, :terms].T, self.accumulators)
        if i.bias and self.method is not Method.STEPWISE:
            bias = flat[terms::pitch][: i.cols].astype(np.int64) * one
        self.finish(source, statistics, bias=bias)


class Backward(_Product):
    """D[r,c] = sum_k A[r,k] B[k,c], masked."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.activation = kernels.MASK if instruction.mask else kernels.IDENTITY
        self.m = instruction.m

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        machine, i = self.machine, self.instruction
        machine.commit(i)
        source = machine.scales[i.sa][0] + machine.scales[i.sb][0] + i.weight_shift
        if self.method is Method.VECTOR:
            x, stride = machine.tail(self.a)
            flat, pitch = machine.weights_tail(i, self.b)
            simd.outer(x, stride, flat, pitch, self.accumulators.reshape(-1), i.cols, i.rows, i.cols, i.depth)
        else:
            a, w = machine.view(self.a), machine.weights(i, self.b)
            if self.method is Method.STEPWISE:
                self.stepwise(a, w.T)
            else:
                self.multiply(a, w, self.accumulators)
        gate = machine.tail(self.m) if i.mask else (_NO_GATE, 0)
        self.finish(source, statistics, gate=gate)


class Update(_Product):
    """D[r,c] -= lr * sum_k A[k,r] B[k,c]."""

    @cached_property
    def _turned(self) -> Values:
        """Scratch for A turned so that its sums run along rows: [rows, depth]."""
        return np.empty((self.instruction.rows, self.instruction.depth), dtype=np.int16)

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        machine, i = self.machine, self.instruction
        machine.commit(i)
        a, b = machine.view(self.a), machine.view(self.b)
        source = machine.scales[i.sa][0] + machine.scales[i.sb][0]
        one = machine.bias_operand(i, i.sb) if i.bias else 0
        acc = self.accumulators
        terms = i.cols - i.bias
        if self.method is Method.STEPWISE:
            if i.bias:
                b = np.column_stack([b, np.full(b.shape[0], one)])
            self.stepwise(a.T, b.T)
        else:
            if self.method is Method.VECTOR:
                np.copyto(self._turned, a.T)
                x, stride = machine.tail(self.b)
                turned = self._turned.reshape(-1)
                simd.outer(turned, i.depth, x, stride, acc.reshape(-1), i.cols, i.rows, terms, i.depth)
            else:
                self.multiply(a.T, b, acc[:, :terms])
            if i.bias:
                acc[:, terms] = a.sum(axis=0, dtype=np.int64) * one
        self._apply(source, statistics)

    def _apply(self, source: int, statistics: Statistics | None) -> None:
        machine, i, acc = self.machine, self.instruction, self.accumulators
        if i.exact:
            _exact_exponent(machine, i, source, acc.astype(np.int64))
        before = machine.view(self.d).copy() if statistics is not None else None
        shift = machine.shift(i.sd, source)
        rate_shift = clamp(
            machine.scales[i.sm][0] - machine.scales[i.sd][0] + i.lr_shift, UPDATE_SHIFT_MIN, UPDATE_SHIFT_MAX
        )
        by, update_by = constants(i.rounding, shift), constants(i.update_rounding, rate_shift)
        room = (
            (self.largest << by[0]) < _INT32_ROOM
            and by[1] < 30
            and (i.lr_mul << (i.width - 1) << update_by[0]) < _INT32_ROOM
            and update_by[1] < 30
            and machine.core.master_bits <= 30
        )
        master_half = 1 << (i.master_width - 1)
        out, pitch = machine.tail(self.d)
        seed = machine.draw(i)
        weights = machine.weights_of(self.d)
        delivered = (weights.flat, weights.rounding, weights.by, weights.limits) if weights else _NO_WEIGHTS
        states = self.states(seed, generator.NARROW_STREAM, i.rounding)
        update_states = self.states(seed, generator.UPDATE_STREAM, i.update_rounding)
        limits, master_limits = (-self.half, self.half - 1), (-master_half, master_half - 1)
        changed, seen, underflowed = kernels.updating(
            acc,
            out,
            pitch,
            self.row(room),
            int(i.rounding),
            states,
            by,
            limits,
            int(i.overflow),
            i.lr_mul,
            int(i.update_rounding),
            update_states,
            update_by,
            master_limits,
            *delivered,
            statistics is not None,
        )
        machine.saturated += changed
        machine.measured(i, source, seen)
        machine.changed(self.d, but=weights)
        if statistics is not None and before is not None:
            stalled = int(np.count_nonzero((acc != 0) & (machine.view(self.d) == before)))
            statistics.add(
                self.d, acc.astype(np.int64), source, saturated=changed, underflowed=underflowed, stalled=stalled
            )


class Loss(_Draining):
    """D = softmax(A) * sum(B) - B."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.a, self.b = instruction.a, instruction.b

    @property
    def largest(self) -> int:
        return 1 << (PROBABILITY_BITS + self.machine.core.word_bits(Memory.ERR) + SUM_BITS)

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        machine, i = self.machine, self.instruction
        machine.commit(i)
        kernels.loss_accumulators(
            machine.view(self.a),
            machine.view(self.b),
            machine.scales[i.sa][0],
            machine.core.word_bits(Memory.ERR),
            self.accumulators,
        )
        self.finish(machine.scales[i.sb][0] - PROBABILITY_BITS, statistics, steps=blocks(self.d.cols, machine.core.n))

    def states(self, seed: int, stream: int, rounding: Rounding) -> lanes.States:
        # Row by row: a block's generators are one step behind the block before it.
        if rounding is not Rounding.STOCHASTIC:
            return lanes.NO_STATES
        n, cols = self.machine.core.n, self.d.cols
        states = lanes.start(seed, stream, rows=1, cols=cols, n=n)
        return lanes.advanced(states, 1 - blocks(cols, n)) if cols > n else states


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


def _exact_exponent(machine: Machine, i: Instruction, source: int, shown: npt.NDArray[np.int64]) -> None:
    bits = int(np.bitwise_or.reduce(shown ^ (shown >> 63), axis=None)).bit_length()
    if bits:
        machine.scales[i.sd][:] = [range_exponent(source, bits, i.width)] * 2
