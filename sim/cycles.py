"""The cycle model: what each instruction of a program takes, from the latencies of arch/timing.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from insitu.arch.isa import Instruction
from insitu.arch.params import CoreParams
from insitu.arch.program import Program
from insitu.arch.timing import Cost, cost

#: Units of the core, and the part of an instruction's cost in which each works.
UNITS = {"array": "issue", "stream": "stream", "vector": "vector", "waiting": "wait", "sequencer": "overhead"}


@dataclass(frozen=True, kw_only=True)
class Timed:
    """An instruction, the cycle it starts at, and its cost."""

    index: int
    instruction: Instruction
    start: int
    cost: Cost

    @property
    def end(self) -> int:
        return self.start + self.cost.cycles


@dataclass(frozen=True, kw_only=True)
class CycleReport:
    """The instructions of one entry in time, streams never making the core wait."""

    core: CoreParams
    instructions: tuple[Timed, ...]

    @cached_property
    def cycles(self) -> int:
        return sum(t.cost.cycles for t in self.instructions)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates whose row and column are both valid."""
        return sum(t.cost.macs for t in self.instructions)

    @property
    def busy(self) -> float:
        """Share of the array's multiply-accumulate slots that do useful work, 0 to 1."""
        return self.macs / (self.core.cells * self.cycles)

    def units(self) -> dict[str, int]:
        """Cycles in which each unit works; they add up to `cycles`."""
        return {unit: sum(getattr(t.cost, part) for t in self.instructions) for unit, part in UNITS.items()}

    def to_json(self) -> dict[str, object]:
        """Totals, units, and a row an instruction."""
        return {
            "cycles": self.cycles,
            "busy": self.busy,
            "macs": self.macs,
            "units": self.units(),
            "instructions": [
                {
                    "index": t.index,
                    "opcode": t.instruction.opcode.name,
                    "rows": t.instruction.rows,
                    "cols": t.instruction.cols,
                    "depth": t.instruction.depth,
                    "start": t.start,
                    "cycles": t.cost.cycles,
                    "macs": t.cost.macs,
                    "busy": t.cost.macs / (self.core.cells * t.cost.cycles),
                    **{unit: getattr(t.cost, part) for unit, part in UNITS.items()},
                }
                for t in self.instructions
            ],
        }


def report(program: Program, entry: str) -> CycleReport:
    """The cycles of one entry. Raises ArchError for an unknown entry."""
    return time(program.core, program.entry(entry), first=program.entries[entry])


def time(core: CoreParams, instructions: Sequence[Instruction], first: int = 0) -> CycleReport:
    """The cycles of a sequence of instructions, numbered from `first`."""
    timed, now = [], 0
    for index, instruction in enumerate(instructions, first):
        timed.append(Timed(index=index, instruction=instruction, start=now, cost=cost(instruction, core.n)))
        now = timed[-1].end
    return CycleReport(core=core, instructions=tuple(timed))
