"""An instruction bound to a machine, and those that move a matrix between a stream and a memory."""

from __future__ import annotations

import numpy as np

from insitu.arch.isa import Instruction
from insitu.arch.timing import Cost, cost
from insitu.sim import moves
from insitu.sim.machine import Machine
from insitu.sim.statistics import Statistics
from insitu.sim.stream import BeatStream


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
        moves.loading(beats, d.flat, d.pitch, m.rows, m.cols, m.groups, m.tail, n, self.bits)
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
