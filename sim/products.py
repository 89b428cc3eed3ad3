"""FORWARD and BACKWARD, and what all passes that sum share: the exact product."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

import numpy as np

from insitu.arch.isa import Instruction
from insitu.sim import kernels, moves
from insitu.sim.draining import Draining
from insitu.sim.drains import Spans
from insitu.sim.machine import Machine
from insitu.sim.memory import Values
from insitu.sim.product import Method, bound, method, wrapping_product
from insitu.sim.segments import Segments
from insitu.sim.statistics import Statistics
from insitu.sim.stream import BeatStream
from insitu.sim.threads import Shares

_NO_BIAS: Values = np.empty(0, dtype=np.int32)
#: Terms a tap from which sums along rows are the faster: a whole vector of the product.
_ALONG = 32


class Summing(Draining):
    """What the passes that sum products share: how, where A is, what the window meets."""

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

    def spans(self, a: int, b: int) -> Spans:
        """The segments in elements: `a` and `b` of them to a unit of each."""
        return self.segments.first, self.segments.a * a, self.segments.b * b


class Product(Summing):
    """What the passes over the array share: the exact product, and whether it and the drain go block by block."""

    @cached_property
    def shares(self) -> Shares:
        """How the rows of D are shared among threads."""
        return Shares.of(self.d.matrix.rows, self.cost.macs, self.machine.threads)

    @cached_property
    def few(self) -> Values:
        """Scratch for a block of accumulators of each share: [shares, rows, padded columns]."""
        return np.zeros((self.shares.count, self.block, self.padded), dtype=self.method.value)

    def blockwise(self, statistics: Statistics | None) -> bool:
        """Whether nobody looks at the accumulators but the drain."""
        return self.method is Method.VECTOR and statistics is None and not self.instruction.exact

    def parts(self) -> Iterator[tuple[Values, Values, Values]]:
        """(where, a [r, k], b [k, c]): accumulators, as a view, and the terms of their sums in order."""
        raise NotImplementedError

    def product(self) -> None:
        """All accumulators, part by part: in floating point that is exact for them, or step by step, wrapping."""
        for where, a, b in self.parts():
            if self.method is Method.STEPWISE:
                a, b = np.ascontiguousarray(a, dtype=np.int64), np.ascontiguousarray(b.T, dtype=np.int64)
                sums = np.empty(where.shape, dtype=np.int64)
                wrapped = wrapping_product(a, b, self.machine.core.accumulator_bits, sums)
                self.machine.accumulator_overflow |= wrapped
                where[:] = sums
            else:
                real = np.float32 if self.method is Method.FLOAT32 else np.float64
                where[:] = a.astype(real) @ b.astype(real)


class _Weighted(Product):
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
            arguments = (
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
                self.shares.bounds,
            )
            one = self.shares.count == 1
            changed, seen = kernels.forward(*arguments, 0) if one else kernels.forward_shared(*arguments)
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
            moves.turn(flat, w.pitch, self.tap, self.turned)
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
            yield where, beside(a, rows), beside(b, self.cols).T


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
            arguments = (
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
                self.shares.bounds,
            )
            one = self.shares.count == 1
            changed, seen = kernels.backward(*arguments, 0) if one else kernels.backward_shared(*arguments)
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
            yield where, beside(a, rows), beside(b, cols).T


def beside(parts: list[Values], rows: int) -> Values:
    """Matrices of `rows` rows side by side; there may be none."""
    return np.concatenate(parts, axis=1) if parts else np.zeros((rows, 0), dtype=np.int16)
