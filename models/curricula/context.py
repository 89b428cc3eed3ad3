"""What policies are told: of a stage as it begins, and of each mini-batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from insitu.models.curricula.pool import Images, Labels, Logits, Pool

Answering = Callable[[Images], Logits]
"""Images float32 [n, 1, H, W] to logits float32 [n, classes]."""

Who = Literal["teacher", "student"]
"""Whose answers label: the fixed teacher's, or the student's own as the stage begins."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """A stage as it begins.

    Attributes:
        pool: the samples that the stage names.
        batch: samples of a training step.
        seed: of the stage's choices; another for every stage and every run.
        teacher: the fixed teacher; raises InvalidInputError where the curriculum has none.
        student: the student as it stands when asked, so as the stage begins and, later, as it has become.
        memory: what policies hand on to later stages of the same run.
    """

    pool: Pool
    batch: int
    seed: tuple[int, ...]
    teacher: Answering
    student: Answering
    memory: dict[str, Any] = field(default_factory=dict)

    def ask(self, who: Who) -> Answering:
        """The teacher's answers, or the student's."""
        return self.teacher if who == "teacher" else self.student

    def rng(self, *purpose: int) -> np.random.Generator:
        """A generator of the stage's seed and a purpose: the same numbers whoever drew what before."""
        return np.random.default_rng((*self.seed, *purpose))


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """A mini-batch, as one of the students meets it.

    Attributes:
        rows: int64 [b], places in the stage's pool; a sample may come twice.
        x, y: its samples and their labels.
        own: the student's logits on `x` before this step, float32 [b, classes]; asking costs an inference.
        peers: the other students' likewise, none where it learns alone.
    """

    rows: NDArray[np.int64]
    x: Images
    y: Labels
    own: Callable[[], Logits]
    peers: Callable[[], Sequence[Logits]]
