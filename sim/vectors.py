"""The passes of one channel a lane: DW_FORWARD, DW_BACKWARD, DW_UPDATE, ADD, MULTIPLY, REDUCE, LOOKUP."""

from __future__ import annotations

import numpy as np

from insitu.arch.isa import Instruction
from insitu.arch.numbers import alignment
from insitu.sim import lanewise
from insitu.sim.draining import NOTHING
from insitu.sim.drains import Spans
from insitu.sim.lanewise import Last, Table, Terms
from insitu.sim.machine import Machine
from insitu.sim.memory import Values
from insitu.sim.product import wraps
from insitu.sim.products import Summing
from insitu.sim.statistics import Statistics
from insitu.sim.step import Step
from insitu.sim.stream import BeatStream
from insitu.sim.updating import Updating

_NO_LAST: Last = (NOTHING, 0, NOTHING)
_NO_TABLE: Table = (NOTHING, 1, 0)
#: One sum of one term for each row of D, operands laid out as D.
_PLAIN: Spans = (np.array([0, 1]), np.zeros(1, np.int64), np.zeros(1, np.int64))


class _Lanewise(Summing):
    """What the passes of one channel a lane share."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.relu = bool(instruction.relu)
        core = machine.core
        #: Where accumulators wrap, 0 where none can get there.
        self.half = 1 << (core.accumulator_bits - 1) if wraps(instruction, core) else 0

    def row(self, value: int) -> Values:
        """A factor of every column: int16 [columns]."""
        return np.full(self.cols, value, np.int16)


class _Narrowing(_Lanewise):
    """Those that narrow their sums into D."""

    def found(self, rows: int) -> Values:
        """Scratch for what is looked up for `rows` rows of accumulators."""
        return NOTHING

    def source(self) -> int:
        """The accumulators' exponent."""
        machine, i = self.machine, self.instruction
        return machine.scales[i.sa][0] + machine.scales[i.sb][0]

    def terms(self) -> tuple[Terms, Last, Table]:
        """What the sums are of now."""
        raise NotImplementedError

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        machine, i, d = self.machine, self.instruction, self.d
        machine.commit(i)
        source = self.source()
        terms, last, table = self.terms()
        if statistics is None and not i.exact:
            fit = self.fit(source)
            gate, gate_pitch = self.gate
            changed, seen, wrapped = lanewise.lanewise(
                terms,
                last,
                table,
                self.together,
                self.few,
                self.cols,
                self.found(self.block),
                self.half,
                self.relu,
                gate,
                gate_pitch,
                self.scratch(fit[0]),
                self.draw(),
                fit,
                d.flat,
                d.pitch,
            )
        else:
            found = self.found(self.together)
            wrapped = lanewise.all_sums(
                terms, last, table, self.together, self.accumulators, self.cols, found, self.half
            )
            changed, seen = self.narrow(source)
        machine.accumulator_overflow |= wrapped
        self.finish(source, changed, seen, statistics)


class Depthwise(_Narrowing):
    """D[q,c] = sum over taps of A[p,c] B[t,c], bias, ReLU; or D[p,c] = sum over taps of A[q,c] B[t,c], masked."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.w = None if instruction.constant else machine.weights(instruction)
        self.tap = self.w.pitch if self.w else 0  #: elements from a tap's weights to the next's
        self.constants = self.row(instruction.constant)
        self.elements = self.spans(instruction.rows * self.a.pitch, self.tap)

    def source(self) -> int:
        machine, i = self.machine, self.instruction
        if i.constant:
            return machine.scales[i.sa][0] + i.bias_exponent
        return super().source() + i.weight_shift

    def terms(self) -> tuple[Terms, Last, Table]:
        i, a = self.instruction, self.a
        weights = self.w.flat if self.w else self.constants
        last = _NO_LAST
        if i.bias:
            last = weights[i.window.taps * self.tap :], 0, self.row(self.machine.bias_operand(i, i.sa))
        return (a.flat, a.pitch, weights, 0, self.elements), last, _NO_TABLE


class _Paired(_Narrowing):
    """Those whose B may lie where A or M does, at other rows, for which its words would be turned otherwise: it is
    then copied out first."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.b = machine.place(instruction.b)
        b, read = instruction.b, [m for name, m in instruction.matrices.items() if name in "am"]
        over = [m for m in read if m.overlaps(b, machine.core.n)]
        self.copied = any((m.base, m.pitch) != (b.base, b.pitch) for m in over)
        self.b_pitch = self.cols if self.copied else self.b.pitch

    def right(self) -> Values:
        """B as it is now, `b_pitch` elements a row: to be asked for before any other operand."""
        return self.b.view.flatten() if self.copied else self.b.flat


class Add(_Paired):
    """D = A + B."""

    @property
    def together(self) -> int:
        return self.d.matrix.rows

    def aligned(self) -> tuple[int, int, int]:
        """Factors of A and B; the exponent of their sum."""
        scales, i = self.machine.scales, self.instruction
        return alignment(scales[i.sa][0], scales[i.sb][0])

    def source(self) -> int:
        return self.aligned()[2]

    def terms(self) -> tuple[Terms, Last, Table]:
        a, (of_a, of_b, _) = self.a, self.aligned()
        last = self.right(), self.b_pitch, self.row(of_b)
        return (a.flat, a.pitch, self.row(of_a), 0, _PLAIN), last, _NO_TABLE


class Multiply(_Paired):
    """D = A * B, or A * table[B]."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        i = instruction
        self.table = machine.table(i) if i.table_bits else None
        self.elements = self.spans(i.rows * self.a.pitch, 0) if i.broadcast else _PLAIN

    @property
    def together(self) -> int:
        return self.instruction.rows if self.instruction.broadcast else self.d.matrix.rows

    def found(self, rows: int) -> Values:
        return np.empty(rows * self.padded, np.int16) if self.table else NOTHING

    def terms(self) -> tuple[Terms, Last, Table]:
        i, a, right = self.instruction, self.a, self.right()
        table = (self.table.flat, self.machine.core.n, i.table_drop) if self.table else _NO_TABLE
        return (a.flat, a.pitch, right, self.b_pitch, self.elements), _NO_LAST, table


class Reduce(_Paired):
    """D[b,c] = sum over p of A[p,c] B[p,c]."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        # The window is the map: a tap is the pixel that it meets.
        self.elements = self.spans(instruction.rows * self.a.pitch, instruction.rows * self.b_pitch)

    def terms(self) -> tuple[Terms, Last, Table]:
        a, right = self.a, self.right()
        return (a.flat, a.pitch, right, self.b_pitch, self.elements), _NO_LAST, _NO_TABLE


class DepthwiseUpdate(_Lanewise, Updating):
    """D[t,c] -= lr * sum over pixels and samples of A[q,c] B[p,c]."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.b = machine.place(instruction.b)
        self.elements = self.spans(instruction.rows * self.a.pitch, instruction.rows * self.b.pitch)

    def product(self) -> None:
        i, a, b, machine, half = self.instruction, self.a, self.b, self.machine, self.half
        acc = self.accumulators
        wrapped = lanewise.tap_sums(a.flat, a.pitch, b.flat, b.pitch, self.elements, i.rows, acc, self.cols, half)
        if i.bias:
            one = self.row(machine.bias_operand(i, i.sb))
            wrapped |= lanewise.row_sums(a.flat, a.pitch, a.matrix.rows, one, acc[-1, : self.cols], half)
        machine.accumulator_overflow |= wrapped


class Lookup(Step):
    """D = table[A]."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.a, self.d = machine.place(instruction.a), machine.place(instruction.d)
        self.table = machine.table(instruction)

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        i, a, d = self.instruction, self.a, self.d
        table = self.table.flat, self.machine.core.n, i.table_drop
        lanewise.look_up(a.flat, a.pitch, table, a.matrix.rows, i.cols, d.flat, d.pitch)
