"""One class an opcode: prepared when a program is loaded, called when the instruction comes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

import numpy as np

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory, blocks
from insitu.arch.loss import PROBABILITY_BITS, SUM_BITS
from insitu.arch.numbers import UPDATE_SHIFT_MAX, UPDATE_SHIFT_MIN, Rounding, clamp, range_exponent
from insitu.arch.timing import Cost, cost
from insitu.sim import kernels, lanes
from insitu.sim.machine import Machine
from insitu.sim.memory import Values
from insitu.sim.product import Method, bound, method
from insitu.sim.rows import By, constants
from insitu.sim.segments import Segments
from insitu.sim.statistics import Statistics
from insitu.sim.stream import BeatStream

_NOTHING: Values = np.empty(0, dtype=np.int16)
_NO_BIAS: Values = np.empty(0, dtype=np.int32)
_NO_FIT: kernels.Fit = (constants(Rounding.FLOOR, 0), (0, 0), 0)
#: Integers below this leave room for one addition in int32.
_INT32_ROOM = 1 << 30
#: Elements of a block of accumulators: with all that is made of them they stay in the first cache.
_BLOCK = 2048
#: Rows of accumulators that an update takes at once: one tile of the product.
_UPDATE_ROWS = 12
#: Terms a tap from which sums along rows are the faster: a whole vector of the product.
_ALONG = 32


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
        self.beats_in = self.d.matrix.rows * self.d.matrix.row_words(machine.core.n)
        self.bits = machine.core.word_bits(instruction.d.memory)

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        d, m, n = self.d, self.d.matrix, self.machine.core.n
        beats = stream_in.take(self.beats_in).reshape(-1)
        kernels.loading(beats, d.flat, d.pitch, m.rows, m.cols, m.groups, m.tail, n, self.bits)
        mine, met = self.machine.readers(m)
        for weights in (mine, *met):
            if weights is not None:
                weights.expire()


class Store(Step):
    """Memory -> stream."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.a = machine.place(instruction.a)

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        n, a = self.machine.core.n, self.a.matrix
        padded = np.zeros((a.rows, a.row_words(n) * n), dtype=np.int64)
        padded[:, self.a.columns] = self.a.read()
        stream_out.put(padded.reshape(-1, n))


class _Draining(Step):
    """What the passes that narrow an accumulator share: scale registers, generators, scratch, statistics."""

    relu = False
    #: Steps that the generators take between a row and the next.
    idle = 0

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.d = machine.place(instruction.d)
        self.m = machine.place(instruction.m) if "m" in instruction.matrices else None
        half = 1 << (instruction.width - 1)
        self.limits = -half, half - 1
        self.wrap = int(instruction.overflow)
        self.cols = self.d.matrix.width
        self.padded = blocks(self.cols, kernels.VECTOR) * kernels.VECTOR
        # A column of tiles drains all its rows before the next begins.
        self.jump = lanes.jump(self.d.matrix.rows)

    @property
    def block(self) -> int:
        """Rows of accumulators to drain at a time."""
        return max(1, min(self.instruction.rows, _BLOCK // self.padded))

    @cached_property
    def accumulators(self) -> Values:
        """Scratch for all of the pass's accumulators: [rows, padded columns], in the product's dtype."""
        return np.zeros((self.d.matrix.rows, self.padded), dtype=self.method.value)

    @cached_property
    def few(self) -> Values:
        """Scratch for a block of accumulators."""
        return np.zeros((self.block, self.padded), dtype=np.int32)

    @cached_property
    def narrow_scratch(self) -> kernels.Scratch:
        return self._scratch(np.int32)

    @cached_property
    def wide_scratch(self) -> kernels.Scratch:
        return self._scratch(np.int64)

    def _scratch(self, dtype: type) -> kernels.Scratch:
        size = self.block * self.padded
        return np.empty(size, dtype), np.empty(size, np.uint32), np.zeros(self.padded, np.uint32)

    @property
    def method(self) -> Method:
        return Method.STEPWISE

    @property
    def largest(self) -> int:
        """The largest magnitude an accumulator can have."""
        return 1 << (self.machine.core.accumulator_bits - 1)

    def draw(self) -> kernels.Draw:
        return self.machine.draw(self.instruction), self.jump, self.machine.core.n

    def fit(self, source: int) -> kernels.Fit:
        """How accumulators of exponent `source` are narrowed now."""
        return (
            constants(self.instruction.rounding, self.machine.shift(self.instruction.sd, source)),
            self.limits,
            self.wrap,
        )

    def scratch(self, by: By) -> kernels.Scratch:
        """Scratch whose values are int32 where that has room for every intermediate."""
        narrow = (self.largest << by[0]) < _INT32_ROOM and by[1] < 30
        return self.narrow_scratch if narrow else self.wide_scratch

    @property
    def gate(self) -> tuple[Values, int]:
        return (self.m.flat, self.m.pitch) if self.m else (_NOTHING, 0)

    def narrow(self, source: int) -> tuple[int, int]:
        """All `accumulators`, whose exponent is `source`, into D: what `kernels.narrowing` returns."""
        i, d = self.instruction, self.d
        if i.exact:
            self.activate()
            self.set_exact(source)
        gate, gate_pitch = self.gate
        fit = self.fit(source)
        scratch, draw = self.scratch(fit[0]), self.draw()
        return kernels.narrowing(
            self.accumulators,
            self.cols,
            self.block,
            self.relu,
            gate,
            gate_pitch,
            scratch,
            draw,
            self.idle,
            fit,
            d.flat,
            d.pitch,
        )

    def activate(self) -> None:
        """ReLU or the mask on all accumulators, as the drain will apply it again to no effect."""
        acc = self.accumulators
        if self.relu:
            np.maximum(acc, 0, out=acc)
        if self.m:
            acc[:, : self.cols][self.m.view <= 0] = 0

    def set_exact(self, source: int) -> None:
        """The exponent of D from the accumulators' own range."""
        shown = self.accumulators.astype(np.int64)
        bits = int(np.bitwise_or.reduce(shown ^ (shown >> 63), axis=None)).bit_length()
        if bits:
            i = self.instruction
            self.machine.scales[i.sd][:] = [range_exponent(source, bits, i.width)] * 2

    def finish(self, source: int, changed: int, seen: int, statistics: Statistics | None) -> None:
        """Account for a drain."""
        machine = self.machine
        machine.saturated += changed
        machine.measured(self.instruction, source, seen)
        if statistics is not None:
            acc = self.accumulators[:, : self.cols].astype(np.int64)  # with ReLU or the mask applied
            lost = int(np.count_nonzero((self.d.view == 0) & (acc != 0)))
            statistics.add(self.d.matrix, acc, source, saturated=changed, underflowed=lost)


class _Product(_Draining):
    """What the passes over the array share: the exact product, and whether it and the drain go block by block."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        self._method = method(instruction, machine.core)
        super().__init__(machine, instruction)
        self.a = machine.place(instruction.a)
        self.segments = Segments.of(instruction)

    @property
    def method(self) -> Method:
        return self._method

    @cached_property
    def largest(self) -> int:
        return min(bound(self.instruction, self.machine.core), super().largest)

    def blockwise(self, statistics: Statistics | None) -> bool:
        """Whether nobody looks at the accumulators but the drain."""
        return self.method is Method.VECTOR and statistics is None and not self.instruction.exact

    def spans(self, a: int, b: int) -> kernels.Spans:
        """The segments in elements: `a` and `b` of them to a unit of each."""
        return self.segments.first, self.segments.a * a, self.segments.b * b

    def parts(self) -> Iterator[tuple[Values, Values, Values]]:
        """(where, a [r, k], b [k, c]): accumulators, as a view, and the terms of their sums in order."""
        raise NotImplementedError

    def product(self) -> None:
        """All accumulators, part by part: in floating point that is exact for them, or step by step, wrapping."""
        for where, a, b in self.parts():
            if self.method is Method.STEPWISE:
                a, b = np.ascontiguousarray(a, dtype=np.int64), np.ascontiguousarray(b.T, dtype=np.int64)
                sums = np.empty(where.shape, dtype=np.int64)
                wrapped = kernels.wrapping_product(a, b, self.machine.core.accumulator_bits, sums)
                self.machine.accumulator_overflow |= wrapped
                where[:] = sums
            else:
                real = np.float32 if self.method is Method.FLOAT32 else np.float64
                where[:] = a.astype(real) @ b.astype(real)


class _Weighted(_Product):
    """FORWARD and BACKWARD: what reads weights."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.w = machine.weights(instruction)
        self.tap = machine.place(instruction.b).group_pitch  #: elements from a tap's weights to the next's

    def begin(self) -> int:
        """Commit; the accumulators' exponent."""
        machine, i = self.machine, self.instruction
        machine.commit(i)
        return machine.scales[i.sa][0] + machine.scales[i.sb][0] + i.weight_shift


class Forward(_Weighted):
    """D[q,c] = sum over taps and k of A[p,k] B[c,(t,k)], bias, ReLU."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.relu = bool(instruction.relu)
        self.depth = instruction.depth - instruction.bias
        self.across = self.depth < _ALONG
        taps, outputs = instruction.window.taps, self.cols
        tap, self.turned_pitch = (self.depth * outputs, outputs) if self.across else (self.tap, 0)
        self.elements = self.spans(instruction.rows * self.a.pitch, tap)
        self.turned = np.empty((taps, self.depth, outputs) if self.across else (0, 0, 0), dtype=np.int16)
        self.turned_version = -1
        self.bias_at = int(machine.place(instruction.b).columns[-1])

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        i, a, d = self.instruction, self.a, self.d
        source = self.begin()
        if self.blockwise(statistics):
            fit = self.fit(source)
            weights, pitch = self.operand()
            changed, seen = kernels.forward(
                a.flat,
                a.pitch,
                weights,
                pitch,
                self.across,
                self.elements,
                i.rows,
                self.depth,
                self.bias(),
                self.few,
                self.cols,
                self.relu,
                self.scratch(fit[0]),
                self.draw(),
                fit,
                d.flat,
                d.pitch,
            )
        else:
            self.product()
            changed, seen = self.narrow(source)
        self.finish(source, changed, seen, statistics)

    def operand(self) -> tuple[Values, int]:
        """Weights as the product takes them: along their rows, or across."""
        w = self.w
        flat = w.flat
        if not self.across:
            return flat, w.pitch
        if self.turned_version != w.version:
            kernels.turn(flat, w.pitch, self.tap, self.turned)
            self.turned_version = w.version
        return self.turned.reshape(-1), self.turned_pitch

    def bias(self) -> Values:
        """What the bias adds to each column's sums: int32 [cols], empty without one."""
        i = self.instruction
        if not i.bias:
            return _NO_BIAS
        weights = self.w.flat[self.bias_at :: self.w.pitch][: self.cols]
        return weights * np.int32(self.machine.bias_operand(i, i.sa))

    def parts(self) -> Iterator[tuple[Values, Values, Values]]:
        i, rows, depth = self.instruction, self.instruction.rows, self.depth
        x, w = self.a.view, self.w.read(i.b)
        one = self.machine.bias_operand(i, i.sa) if i.bias else 0
        for q, (first, last) in enumerate(pairwise(self.segments.first)):
            taps = self.segments.b[first:last]
            a = [x[p * rows : (p + 1) * rows] for p in self.segments.a[first:last]]
            b = [w[:, t * depth : (t + 1) * depth] for t in taps]
            if one:
                a.append(np.full((rows, 1), one))
                b.append(w[:, -1:])
            where = self.accumulators[q * rows : (q + 1) * rows, : self.cols]
            yield where, _beside(a, rows), _beside(b, self.cols).T


class Backward(_Weighted):
    """D[p,c] = sum over taps and k of A[q,k] B[k,(t,c)], masked."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.elements = self.spans(instruction.rows * self.a.pitch, self.tap)

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        i, a, w, d = self.instruction, self.a, self.w, self.d
        source = self.begin()
        if self.blockwise(statistics):
            fit = self.fit(source)
            gate, gate_pitch = self.gate
            changed, seen = kernels.backward(
                a.flat,
                a.pitch,
                w.flat,
                w.pitch,
                self.elements,
                i.rows,
                i.depth,
                self.few,
                self.cols,
                gate,
                gate_pitch,
                self.scratch(fit[0]),
                self.draw(),
                fit,
                d.flat,
                d.pitch,
            )
        else:
            self.product()
            changed, seen = self.narrow(source)
        self.finish(source, changed, seen, statistics)

    def parts(self) -> Iterator[tuple[Values, Values, Values]]:
        i, rows, cols = self.instruction, self.instruction.rows, self.cols
        dy, w = self.a.view, self.w.read(i.b)
        for p, (first, last) in enumerate(pairwise(self.segments.first)):
            a = [dy[q * rows : (q + 1) * rows] for q in self.segments.a[first:last]]
            b = [w[:, t * cols : (t + 1) * cols].T for t in self.segments.b[first:last]]
            where = self.accumulators[p * rows : (p + 1) * rows, :cols]
            yield where, _beside(a, rows), _beside(b, cols).T


class Update(_Product):
    """D[r,(t,c)] -= lr * sum over pixels and k of A[q,r] B[p,c]."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        half = 1 << (instruction.master_width - 1)
        self.master_limits = -half, half - 1
        self.b = machine.place(instruction.b)
        self.update_states = np.zeros(self.padded, np.uint32)
        self.elements = self.spans(instruction.depth, instruction.depth * self.b.pitch)
        self.terms = instruction.window.out_pixels * instruction.depth

    @property
    def block(self) -> int:
        return min(self.instruction.rows, _UPDATE_ROWS)

    @cached_property
    def turned(self) -> Values:
        """Scratch for a block of rows of A turned so that its sums run along them: [block, terms]."""
        return np.empty((self.block, self.terms), dtype=np.int16)

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        machine, i, a, b, d = self.machine, self.instruction, self.a, self.b, self.d
        machine.commit(i)
        source = machine.scales[i.sa][0] + machine.scales[i.sb][0]
        blockwise = self.blockwise(statistics)
        if not blockwise:
            self.product()
            if i.exact:
                self.set_exact(source)
        fit = self.fit(source)
        rate_shift = machine.scales[i.sm][0] - machine.scales[i.sd][0] + i.lr_shift
        update_by = constants(i.update_rounding, clamp(rate_shift, UPDATE_SHIFT_MIN, UPDATE_SHIFT_MAX))
        mine, met = machine.readers(d.matrix)
        weights, weight_fit = (mine.kept, mine.fit) if mine else (_NOTHING, _NO_FIT)
        rule = fit, i.lr_mul, update_by, self.master_limits, weight_fit
        m = d.matrix
        held = d.flat, weights, d.pitch, m.cols, m.groups, m.tail, d.group_pitch
        scratch, draw = self.update_scratch(fit[0], update_by), self.draw()
        if blockwise:
            one = machine.bias_operand(i, i.sb) if i.bias else 0
            changed, seen = kernels.update(
                a.flat,
                a.pitch,
                b.flat,
                b.pitch,
                self.elements,
                i.rows,
                i.depth,
                one,
                self.turned,
                self.few,
                scratch,
                draw,
                self.update_states,
                d.columns,
                rule,
                held,
            )
        else:
            before = d.read() if statistics is not None else None
            changed, seen, lost = kernels.updating(
                self.accumulators, scratch, draw, self.update_states, d.columns, rule, held, statistics is not None
            )
        machine.saturated += changed
        machine.measured(i, source, seen)
        for others in met:
            others.expire()
        if mine:
            mine.renew()
        if statistics is not None:
            acc = self.accumulators[:, : self.cols].astype(np.int64)
            stalled = int(np.count_nonzero((acc != 0) & (d.read() == before)))
            statistics.add(m, acc, source, saturated=changed, underflowed=lost, stalled=stalled)

    def update_scratch(self, by: By, update_by: By) -> kernels.Scratch:
        """Scratch whose values are int32 where that has room for the gradient's intermediates and the master's."""
        i = self.instruction
        room = (
            (i.lr_mul << (i.width - 1) << update_by[0]) < _INT32_ROOM
            and update_by[1] < 30
            and self.machine.core.master_bits <= 30
        )
        return self.scratch(by) if room else self.wide_scratch

    def parts(self) -> Iterator[tuple[Values, Values, Values]]:
        machine, i, depth = self.machine, self.instruction, self.instruction.depth
        dy, x = self.a.view, self.b.view
        cols, taps = x.shape[1], i.window.taps
        for t, (first, last) in enumerate(pairwise(self.segments.first)):
            span = slice(first, last)
            a = [dy[q * depth : (q + 1) * depth].T for q in self.segments.a[span]]
            b = [x[p * depth : (p + 1) * depth].T for p in self.segments.b[span]]
            where = self.accumulators[:, t * cols : (t + 1) * cols]
            yield where, _beside(a, i.rows), _beside(b, cols).T
        if i.bias:
            # With one tap the bias rides along with its columns; with several it has all pixels to itself.
            left = _beside(a, i.rows) if taps == 1 else dy.T
            one = np.full((left.shape[1], 1), machine.bias_operand(i, i.sb))
            yield self.accumulators[:, taps * cols : taps * cols + 1], left, one


class Loss(_Draining):
    """D = softmax(A) * sum(B) - B."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.a, self.b = machine.place(instruction.a), machine.place(instruction.b)
        # Row by row: a block's generators are one step behind the block before it.
        self.jump = lanes.jump(1)
        self.idle = blocks(self.cols, machine.core.n) - 1

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


class _Pooling(Step):
    """POOL and UNPOOL: the map's place and the window's segments."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.a, self.d = machine.place(instruction.a), machine.place(instruction.d)
        met = instruction.window.reads
        self.pixel, tap = np.nonzero(met >= 0)
        self.met = met[self.pixel, tap].astype(np.int64)
        self.first = np.searchsorted(self.pixel, np.arange(len(met) + 1)).astype(np.int64)

    def spans(self, unit: int) -> kernels.Spans:
        return self.first, self.met * unit, self.met


class Pool(_Pooling):
    """D[q,c] = the largest A[p,c] of the window's."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.elements = self.spans(instruction.rows * self.a.pitch)
        self.lowest = -(1 << (machine.core.word_bits(Memory.ACT) - 1))

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        i, a, d = self.instruction, self.a, self.d
        kernels.pool(a.flat, a.pitch, self.elements, i.rows, i.cols, self.lowest, d.flat, d.pitch)


class Unpool(_Pooling):
    """D[p,c] = A[q,c] where B[p,c] is the first maximum of its window, else 0."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.b = machine.place(instruction.b)
        self.elements = self.spans(1)
        self.best, self.done = np.empty((2, instruction.cols), np.int16)
        missed = np.setdiff1d(np.arange(instruction.window.map_pixels), self.met)
        rows = instruction.rows
        self.missed = (missed[:, None] * rows + np.arange(rows)).ravel()

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        i, a, b, d = self.instruction, self.a, self.b, self.d
        mask, rows, spans = bool(i.mask), i.rows, self.elements
        kernels.unpool(a.flat, a.pitch, b.flat, b.pitch, spans, rows, mask, self.best, self.done, d.flat, d.pitch)
        if self.missed.size:
            d.view[self.missed] = 0


STEPS: dict[Opcode, type[Step]] = {
    Opcode.HALT: Step,
    Opcode.LOAD: Load,
    Opcode.STORE: Store,
    Opcode.FORWARD: Forward,
    Opcode.BACKWARD: Backward,
    Opcode.UPDATE: Update,
    Opcode.LOSS: Loss,
    Opcode.POOL: Pool,
    Opcode.UNPOOL: Unpool,
}


def prepare(machine: Machine, instruction: Instruction) -> Step:
    """Bind an instruction to a machine."""
    return STEPS[instruction.opcode](machine, instruction)


def _beside(parts: list[Values], rows: int) -> Values:
    """Matrices of `rows` rows side by side; there may be none."""
    return np.concatenate(parts, axis=1) if parts else np.zeros((rows, 0), dtype=np.int16)
