"""The emulator: executes a core's program words on its memories, bit for bit, in vector code.

What an instruction does is fixed in docs/arithmetic.md. Tensors are held as plain rows (sim/memory.py), products are
taken by the fastest exact method (sim/product.py), drains are compiled (sim/kernels.py); `image` shows the memories as
the device has them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch import generator
from insitu.arch.check import PlaceError, check
from insitu.arch.errors import ArchError
from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.arch.registers import Error
from insitu.sim.machine import Machine
from insitu.sim.memory import BankedMemory
from insitu.sim.passes import prepare
from insitu.sim.rules import Rules
from insitu.sim.statistics import Statistics
from insitu.sim.step import Step
from insitu.sim.stream import BeatStream
from insitu.sim.threads import available

#: Instructions of a place in program memory that stay prepared.
VARIANTS = 3


@dataclass
class Counters:
    """What the device's counters hold since they were last cleared; cycles as if no stream ever made it wait."""

    cycles: int = 0
    macs: int = 0
    instructions: int = 0


class Emulator:
    """A core with its memories, registers and streams.

    `start(entry)` then `advance()`: it runs until HALT, until an error, or until a LOAD finds too few beats in
    `stream_in`; then `busy` is still true, and `advance()` goes on once more were put there.

    statistics: collect per-tensor statistics (sim/statistics.py); off, they cost nothing. rules: of published integer
    training in place of the device's own (sim/rules.py). threads: at most so many for a pass, as many as numba is set
    to use unless given; results do not depend on it.
    """

    def __init__(
        self, core: CoreParams, *, statistics: bool = False, rules: Rules | None = None, threads: int | None = None
    ) -> None:
        self.core = core
        self.machine = Machine(core, rules, available() if threads is None else threads)
        self.stream_in = BeatStream(core.n)
        self.stream_out = BeatStream(core.n)
        self.counters = Counters()
        self.statistics = Statistics() if statistics else None
        self.program: list[Step | Error] = [prepare(self.machine, Instruction(opcode=Opcode.HALT))] * core.program_depth
        self._variants: defaultdict[int, dict[bytes, Step | Error]] = defaultdict(dict)
        self.busy = False
        self.done = False
        self.error = Error.NONE
        self.pc = 0

    @property
    def memories(self) -> Mapping[Memory, BankedMemory]:
        return self.machine.memories

    @property
    def scales(self) -> list[list[int]]:
        """Scale registers: [exponent, next] each; writable in place."""
        return self.machine.scales

    @property
    def seed(self) -> int:
        """The SEED register. Writing 0 stores the generator's constant: an xorshift never leaves 0."""
        return self.machine.seed

    @seed.setter
    def seed(self, value: int) -> None:
        self.machine.seed = (value & generator.MASK) or generator.GOLDEN

    @property
    def saturated(self) -> int:
        """Fits that changed their value since the counters were cleared."""
        return self.machine.saturated

    @property
    def accumulator_overflow(self) -> bool:
        return self.machine.accumulator_overflow

    def clear(self) -> None:
        """Clear counters and sticky flags."""
        self.counters = Counters()
        self.machine.accumulator_overflow = False
        self.machine.saturated = 0

    def load_program(self, words: npt.NDArray[np.uint32], at: int = 0) -> None:
        """Put instruction words uint32 [count, WORDS] into program memory. A word that is no instruction stays in
        memory as such and stops the run that reaches it. Raises ArchError beyond the memory's end."""
        if at + len(words) > self.core.program_depth:
            raise ArchError(f"{len(words)} instructions at {at}: program memory holds {self.core.program_depth}")
        for i, w in enumerate(words):
            self.program[at + i] = self._kept(at + i, w)

    def start(self, entry: int) -> None:
        """Begin at an instruction."""
        self.pc, self.busy, self.done, self.error = entry, True, False, Error.NONE

    def finish(self) -> None:
        """Stop after the instruction just executed, without an error: a single step. PC stays where it stepped."""
        if self.busy:
            self.pc -= 1
            self._stop(Error.NONE)

    def refuse(self, error: Error) -> None:
        """End a command that cannot be carried out: done, with an error, nothing taken."""
        self._stop(error)

    def abort(self) -> None:
        """Stop a running program and drop what waits in both streams."""
        if self.busy:
            self._stop(Error.ABORTED)
        self.stream_in.clear()
        self.stream_out.clear()

    def advance(self, limit: int | None = None) -> int:
        """Execute until HALT, an error or a starved LOAD, or `limit` instructions. Returns how many were executed."""
        executed = 0
        while self.busy and (limit is None or executed < limit):
            if not 0 <= self.pc < len(self.program):
                self._stop(Error.ENTRY)
                break
            step = self.program[self.pc]
            if isinstance(step, Error):
                self._stop(step)
                break
            if not self.execute(step):
                break
            executed += 1
            if step.instruction.opcode is Opcode.HALT:
                self._stop(Error.NONE)
            else:
                self.pc += 1
        return executed

    def execute(self, step: Step) -> bool:
        """Execute one prepared instruction; false, with nothing done, where LOAD finds too few beats."""
        if self.stream_in.pending < step.beats_in:
            return False
        step.run(self.stream_in, self.stream_out, self.statistics)
        counters = self.counters
        counters.cycles += step.cost.cycles
        counters.macs += step.cost.macs
        counters.instructions += 1
        return True

    def image(self, memory: Memory) -> npt.NDArray[np.int64]:
        """A memory as the device has it: int64 [depth, n], masters where it is WGT."""
        return self.machine.memories[memory].image

    def set_image(self, memory: Memory, values: npt.NDArray[np.integer[Any]]) -> None:
        """Fill a memory from an image [depth, n]."""
        self.machine.memories[memory].image = values
        self.machine.changed()

    def _kept(self, index: int, words: npt.NDArray[np.uint32]) -> Step | Error:
        """What was prepared of these words, if they were among the last at this place: parts of a step take turns."""
        kept, key = self._variants[index], words.tobytes()
        found = kept.pop(key, None) or self._prepare(words)
        kept[key] = found  # the last one used comes last
        if len(kept) > VARIANTS:
            del kept[next(iter(kept))]
        return found

    def _prepare(self, words: npt.NDArray[np.uint32]) -> Step | Error:
        """The instruction bound to this machine, or the error that reaching it raises."""
        try:
            instruction = Instruction.decode(words)
            check(instruction, self.core)
        except PlaceError:
            return Error.ADDRESS
        except ArchError:
            return Error.ILLEGAL
        return prepare(self.machine, instruction)

    def _stop(self, error: Error) -> None:
        self.busy, self.done, self.error = False, True, error
