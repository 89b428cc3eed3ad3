"""What a student takes of its core: cycles, memory, weights and traffic, off the cycle model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from insitu.arch.declaration import Role
from insitu.arch.program import Program
from insitu.sim import cycles
from insitu.sim.traffic import traffic

Measure = Literal["cycles", "inference", "memory", "parameters", "traffic", "channels"]


@dataclass(frozen=True, kw_only=True)
class Price:
    """cycles: of a training step; inference: of the answer to a batch. batch: samples of both. memory: words of N
    elements in each memory. parameters: trained numbers. traffic: words that a training step moves. bits: of all that
    the memories hold, each tensor in its own width."""

    cycles: int
    inference: int
    batch: int
    memory: Mapping[str, int]
    parameters: int
    traffic: int
    bits: int

    @classmethod
    def of(cls, program: Program) -> Price:
        """Of a program; what comes in several parts is taken times them."""
        parts = program.optimizer.micro_batches
        n, tensors = program.core.n, program.tensors.values()
        return cls(
            cycles=parts * cycles.report(program, "train").cycles,
            inference=parts * cycles.report(program, "infer").cycles,
            batch=program.step_samples,
            memory={memory.name.lower(): program.used(memory) for memory in program.core.memories},
            parameters=sum(t.matrix.rows * t.matrix.width for t in tensors if t.role is Role.MASTER),
            traffic=parts * traffic(program, "train").words,
            bits=sum(t.matrix.rows * t.matrix.row_words(n) * n * t.width for t in tensors),
        )

    def measured(self, measure: Measure) -> int:
        """What `--measure` counts. Channels are none of a program's."""
        return sum(self.memory.values()) if measure == "memory" else int(getattr(self, measure))

    def to_json(self, clock: float) -> dict[str, Any]:
        """All of it, and samples a second at a clock of so many MHz."""
        hertz = 1e6 * clock
        return {
            **asdict(self),
            "memory": dict(self.memory),
            "trained_per_second": hertz * self.batch / self.cycles,
            "answered_per_second": hertz * self.batch / self.inference,
        }
