"""Where an online run stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """Where a run stands.

    samples: of the stream, answered. labels: that the teacher gave and were taken. steps: trained. stream_right:
    answers of the stream that were right when given. flagged: answers the user said were wrong. true_labels: that
    arrived while their sample was kept. verdicts: of the guard and on the teacher, at which sample. asked: stream
    positions and store ids of the last chunk's samples, whose true labels may yet arrive. gold: whether the last gold
    questions were answered rightly; questions: how many were asked. refused: labels that were not taken, for a teacher
    who answered those wrongly. cycles, macs: of the device, in what is counted here; checkpoints are not. seconds: of
    running. ended: whether the run has come to its end.
    """

    samples: int = 0
    labels: int = 0
    steps: int = 0
    stream_right: int = 0
    flagged: int = 0
    true_labels: int = 0
    loss: float = float("nan")
    saturated_share: float = 0.0
    verdicts: list[tuple[int, str]] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)
    gold: list[bool] = field(default_factory=list)
    questions: int = 0
    refused: int = 0
    cycles: int = 0
    macs: int = 0
    seconds: float = field(default=0.0, compare=False)
    ended: bool = False

    @property
    def bought(self) -> int:
        """Labels that the teacher was asked for and is paid for: taken, refused, and of gold questions."""
        return self.labels + self.refused + self.questions

    @classmethod
    def of(cls, state: dict[str, Any]) -> Progress:
        """From what `asdict` and JSON made of one."""
        pairs = {name: [tuple(pair) for pair in state[name]] for name in ("verdicts", "asked")}
        return cls(**state | pairs)
