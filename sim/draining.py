"""The passes that narrow an accumulator: what they share, and LOSS."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from insitu.arch.isa import Instruction
from insitu.arch.layout import Memory, blocks
from insitu.arch.loss import PROBABILITY_BITS, SUM_BITS
from insitu.arch.numbers import range_exponent
from insitu.sim import drains, lanes
from insitu.sim.losses import loss_accumulators
from insitu.sim.machine import Machine
from insitu.sim.memory import Values
from insitu.sim.product import Method
from insitu.sim.rows import By, States, constants
from insitu.sim.rules import ERROR_BITS, LOSS_BITS, ceiling_bits, integer_loss
from insitu.sim.statistics import Statistics
from insitu.sim.step import Step
from insitu.sim.stream import BeatStream
from insitu.sim.threads import Shares

NOTHING: Values = np.empty(0, dtype=np.int16)
#: Integers below this leave room for one addition in int32.
INT32_ROOM = 1 << 30
#: Elements of a block of accumulators: with all that is made of them they stay in the first cache.
_BLOCK = 2048


class Draining(Step):
    """What the passes that narrow an accumulator share: scale registers, generators, scratch, statistics."""

    relu = False
    #: Steps that the generators take between a row and the next.
    idle = 0
    #: Bits that an exact exponent is above what the range asks for.
    below = 0

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.d = machine.place(instruction.d)
        self.m = machine.place(instruction.m) if "m" in instruction.matrices else None
        self.limits = machine.rules.limits(instruction.width)
        self.wrap = int(instruction.overflow)
        self.cols = self.d.matrix.width
        self.padded = blocks(self.cols, drains.VECTOR) * drains.VECTOR
        # A column of tiles drains all its rows before the next begins.
        self.jump = lanes.jump(self.d.matrix.rows)

    @property
    def block(self) -> int:
        """Rows of accumulators to drain at a time."""
        return max(1, min(self.together, _BLOCK // self.padded))

    @property
    def together(self) -> int:
        """Rows of D that have their operands' rows one after another."""
        return self.instruction.rows

    @cached_property
    def accumulators(self) -> Values:
        """Scratch for all of the pass's accumulators: [rows, padded columns], in the product's dtype."""
        return np.zeros((self.d.matrix.rows, self.padded), dtype=self.method.value)

    @cached_property
    def few(self) -> Values:
        """Scratch for a block of accumulators."""
        return np.zeros((self.block, self.padded), dtype=self.method.value)

    @cached_property
    def narrow_scratch(self) -> drains.Scratch:
        return self._scratch(np.int32)

    @cached_property
    def wide_scratch(self) -> drains.Scratch:
        return self._scratch(np.int64)

    def _scratch(self, dtype: type) -> drains.Scratch:
        shares, size = self.shares.count, self.block * self.padded
        return np.empty((shares, size), dtype), np.empty((shares, size), np.uint32), self.lane_states()

    def lane_states(self) -> States:
        """Room for the lanes' generators of each share: uint32 [shares, padded columns]."""
        return np.zeros((self.shares.count, self.padded), np.uint32)

    @cached_property
    def shares(self) -> Shares:
        """How the rows of D are shared among threads: not."""
        return Shares.of(self.d.matrix.rows, 0, 1)

    @property
    def method(self) -> Method:
        return Method.STEPWISE

    @property
    def largest(self) -> int:
        """The largest magnitude an accumulator can have."""
        return 1 << (self.machine.core.accumulator_bits - 1)

    def draw(self) -> drains.Draw:
        return self.machine.draw(self.instruction), self.jump, self.machine.core.n

    def fit(self, source: int) -> drains.Fit:
        """How accumulators of exponent `source` are narrowed now."""
        return (
            constants(self.instruction.rounding, self.machine.shift(self.instruction.sd, source)),
            self.limits,
            self.wrap,
        )

    def scratch(self, by: By) -> drains.Scratch:
        """Scratch whose values are int32 where that has room for every intermediate."""
        narrow = (self.largest << by[0]) < INT32_ROOM and by[1] < 30
        return self.narrow_scratch if narrow else self.wide_scratch

    @property
    def gate(self) -> tuple[Values, int]:
        return (self.m.flat, self.m.pitch) if self.m else (NOTHING, 0)

    def narrow(self, source: int) -> tuple[int, int]:
        """All `accumulators`, whose exponent is `source`, into D: what `drains.narrowing` returns."""
        i, d = self.instruction, self.d
        if i.exact:
            self.activate()
            self.set_exact(source)
        gate, gate_pitch = self.gate
        fit = self.fit(source)
        scratch, draw = self.scratch(fit[0]), self.draw()
        return drains.narrowing(
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
        ceiling = self.machine.rules.ceiling
        if ceiling:
            bits = ceiling_bits(shown)
        else:
            bits = int(np.bitwise_or.reduce(shown ^ (shown >> 63), axis=None)).bit_length()
        if bits or ceiling:
            i = self.instruction
            self.machine.scales[i.sd][:] = [range_exponent(source, bits + self.below, i.width)] * 2

    def finish(self, source: int, changed: int, seen: int, statistics: Statistics | None) -> None:
        """Account for a drain."""
        machine = self.machine
        machine.saturated += changed
        machine.measured(self.instruction, source, seen)
        if statistics is not None:
            acc = self.accumulators[:, : self.cols].astype(np.int64)  # with ReLU or the mask applied
            lost = int(np.count_nonzero((self.d.view == 0) & (acc != 0)))
            statistics.add(self.d.matrix, acc, source, saturated=changed, underflowed=lost)


class Loss(Draining):
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
        if machine.rules.integer_loss:
            z, t = self.a.view, self.b.view
            self.accumulators[:, : self.cols] = integer_loss(z, t, machine.scales[i.sa][0])
            self.finish(-LOSS_BITS, *self.narrow(-LOSS_BITS), statistics)
            return
        bits = machine.core.word_bits(Memory.ERR)
        loss_accumulators(self.a.view, self.b.view, machine.scales[i.sa][0], bits, self.accumulators)
        source = machine.scales[i.sb][0] - PROBABILITY_BITS
        self.finish(source, *self.narrow(source), statistics)

    def set_exact(self, source: int) -> None:
        """NITI's loss has one exponent, whatever its range."""
        if self.machine.rules.integer_loss:
            self.machine.scales[self.instruction.sd][:] = [-ERROR_BITS] * 2
        else:
            super().set_exact(source)
