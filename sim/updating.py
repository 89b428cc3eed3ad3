"""UPDATE, and what it shares with its kin: gradients into masters."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

import numpy as np

from insitu.arch.isa import MOMENTUM_BITS, Instruction
from insitu.arch.momentum import decay_shift, gradient_shift
from insitu.arch.numbers import RANDOM_BITS, Rounding
from insitu.sim import updates
from insitu.sim.draining import INT32_ROOM, NOTHING, Draining
from insitu.sim.drains import Draw, Fit, Scratch
from insitu.sim.machine import Machine
from insitu.sim.memory import Values
from insitu.sim.products import Product, beside
from insitu.sim.rows import By, constants
from insitu.sim.statistics import Statistics
from insitu.sim.stream import BeatStream
from insitu.sim.velocities import Held, Momentum

_NO_FIT: Fit = (constants(Rounding.FLOOR, 0), (0, 0), 0)
#: Rows of accumulators that an update takes at once: one tile of the product.
_ROWS = 12


class Updating(Draining):
    """What the passes that update masters share: all that follows their sums."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.master_limits = machine.rules.limits(instruction.master_width)
        if machine.rules.normalised:
            self.below = instruction.lr_shift
        self.update_states = self.lane_states()
        velocities = instruction.velocities
        self.v = machine.place(velocities) if velocities else None

    def blockwise(self, statistics: Statistics | None) -> bool:
        """Whether sums and updates go block by block: `at_once`."""
        return False

    def product(self) -> None:
        """All accumulators."""
        raise NotImplementedError

    def at_once(self, scratch: Scratch, draw: Draw, rule: updates.Rule, held: Held) -> tuple[int, int]:
        """Sums and updates; returns what `updates.update` does."""
        raise NotImplementedError

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        machine, i, d = self.machine, self.instruction, self.d
        machine.commit(i)
        source = machine.scales[i.sa][0] + machine.scales[i.sb][0]
        blockwise = self.blockwise(statistics)
        if not blockwise:
            self.product()
            if i.exact:
                self.set_exact(source)
        fit = self.fit(source)
        rate_shift = machine.scales[i.sm][0] - machine.scales[i.sd][0] + i.lr_shift
        rounding = i.momentum_rounding if self.v else i.update_rounding
        update_by = constants(rounding, gradient_shift(rate_shift, i.velocity_fraction))
        mine, met = machine.readers(d.matrix)
        weights, weight_fit = (mine.kept, mine.fit) if mine else (NOTHING, _NO_FIT)
        lr_mul = i.lr_mul
        if machine.rules.normalised:
            lr_mul, update_by = 1, constants(Rounding.FLOOR, 0)
        rule = fit, lr_mul, update_by, self.master_limits, weight_fit, self.momentum()
        m = d.matrix
        held = d.flat, weights, d.pitch, m.cols, m.groups, m.tail, d.group_pitch
        scratch, draw = self.update_scratch(fit[0], update_by), self.draw()
        if blockwise:
            changed, seen = self.at_once(scratch, draw, rule, held)
        else:
            before = d.read() if statistics is not None else None
            changed, seen, lost, beyond = updates.updating(
                self.accumulators, scratch, draw, self.update_states, d.columns, rule, held, statistics is not None
            )
        machine.saturated += changed
        machine.measured(i, source, seen)
        if not i.hold:
            for others in met:
                others.expire()
            if mine:
                mine.renew()
        if statistics is not None:
            acc = self.accumulators[:, : self.cols].astype(np.int64)
            stalled = 0 if i.hold else int(np.count_nonzero((acc != 0) & (d.read() == before)))
            statistics.add(m, acc, source, saturated=changed - beyond, underflowed=lost, stalled=stalled)
            if self.v:
                unit = machine.scales[i.sm][0] - i.velocity_fraction
                found = self.v.read().astype(np.int64)
                statistics.add(self.v.matrix, found, unit, saturated=beyond, underflowed=0)

    def momentum(self) -> Momentum:
        """How velocities move."""
        i, below = self.instruction, self.instruction.velocity_fraction
        half = 1 << max(0, i.momentum_width - 1)
        return (
            self.v.flat if self.v else NOTHING,
            i.momentum_mul,
            constants(i.momentum_rounding, MOMENTUM_BITS),
            i.decay_mul,
            constants(i.momentum_rounding, decay_shift(i.decay_shift, below)),
            (-half, half - 1),
            constants(i.update_rounding, below),
            max(0, RANDOM_BITS - below),
            bool(i.hold),
        )

    def update_scratch(self, by: By, update_by: By) -> Scratch:
        """Scratch whose values are int32 where that has room for the gradient's intermediates and the master's."""
        i, master_bits = self.instruction, self.machine.core.master_bits
        decay = decay_shift(i.decay_shift, i.velocity_fraction)
        room = (
            (i.lr_mul << (i.width - 1) << update_by[0]) < INT32_ROOM
            and update_by[1] < 30
            and master_bits <= 30
            and i.momentum_width - i.velocity_fraction <= 30
            and (not i.decay_mul or (decay < 30 and (i.decay_mul << (master_bits - 1)) < INT32_ROOM))
        )
        return self.scratch(by) if room else self.wide_scratch


class Update(Product, Updating):
    """D[r,(t,c)] -= lr * sum over pixels and k of A[q,r] B[p,c]."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.b = machine.place(instruction.b)
        self.elements = self.spans(instruction.depth, instruction.depth * self.b.pitch)
        self.terms = instruction.window.out_pixels * instruction.depth

    @property
    def block(self) -> int:
        return min(self.instruction.rows, _ROWS)

    @cached_property
    def turned(self) -> Values:
        """Scratch for a block of rows of A turned so that its sums run along them: [shares, block, terms]."""
        return np.empty((self.shares.count, self.block, self.terms), dtype=np.int16)

    def at_once(self, scratch: Scratch, draw: Draw, rule: updates.Rule, held: Held) -> tuple[int, int]:
        i, a, b = self.instruction, self.a, self.b
        arguments = (
            a.flat,
            a.pitch,
            b.flat,
            b.pitch,
            self.elements,
            i.depth,
            self.machine.bias_operand(i, i.sb) if i.bias else 0,
            self.turned,
            self.few,
            scratch,
            draw,
            self.update_states,
            self.d.columns,
            rule,
            held,
            self.shares.bounds,
        )
        return updates.update(*arguments, 0) if self.shares.count == 1 else updates.update_shared(*arguments)

    def parts(self) -> Iterator[tuple[Values, Values, Values]]:
        machine, i, depth = self.machine, self.instruction, self.instruction.depth
        dy, x = self.a.view, self.b.view
        cols, taps = x.shape[1], i.window.taps
        for t, (first, last) in enumerate(pairwise(self.segments.first)):
            span = slice(first, last)
            a = [dy[q * depth : (q + 1) * depth].T for q in self.segments.a[span]]
            b = [x[p * depth : (p + 1) * depth].T for p in self.segments.b[span]]
            where = self.accumulators[:, t * cols : (t + 1) * cols]
            yield where, beside(a, i.rows), beside(b, cols).T
        if i.bias:
            # With one tap the bias rides along with its columns; with several it has all pixels to itself.
            left = beside(a, i.rows) if taps == 1 else dy.T
            one = np.full((left.shape[1], 1), machine.bias_operand(i, i.sb))
            yield self.accumulators[:, taps * cols : taps * cols + 1], left, one
