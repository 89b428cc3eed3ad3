"""POOL and UNPOOL."""

from __future__ import annotations

import numpy as np

from insitu.arch.isa import Instruction
from insitu.arch.layout import Memory
from insitu.sim import moves
from insitu.sim.drains import Spans
from insitu.sim.machine import Machine
from insitu.sim.statistics import Statistics
from insitu.sim.step import Step
from insitu.sim.stream import BeatStream


class _Pooling(Step):
    """POOL and UNPOOL: the map's place and the window's segments."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.a, self.d = machine.place(instruction.a), machine.place(instruction.d)
        met = instruction.window.reads
        self.pixel, tap = np.nonzero(met >= 0)
        self.met = met[self.pixel, tap].astype(np.int64)
        self.first = np.searchsorted(self.pixel, np.arange(len(met) + 1)).astype(np.int64)

    def spans(self, unit: int) -> Spans:
        return self.first, self.met * unit, self.met


class Pool(_Pooling):
    """D[q,c] = the largest A[p,c] of the window's."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        super().__init__(machine, instruction)
        self.elements = self.spans(instruction.rows * self.a.pitch)
        self.lowest = -(1 << (machine.core.word_bits(Memory.ACT) - 1))

    def run(self, stream_in: BeatStream, stream_out: BeatStream, statistics: Statistics | None) -> None:
        i, a, d = self.instruction, self.a, self.d
        moves.pool(a.flat, a.pitch, self.elements, i.rows, i.cols, self.lowest, d.flat, d.pitch)


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
        moves.unpool(a.flat, a.pitch, b.flat, b.pitch, spans, rows, mask, self.best, self.done, d.flat, d.pitch)
        if self.missed.size:
            d.view[self.missed] = 0
