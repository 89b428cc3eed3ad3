"""How the online-fix loop learns, and what it may spend."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from insitu.host.detector import Detector
from insitu.host.errors import HostError
from insitu.host.online.guard import GuardPolicy


@dataclass(frozen=True, kw_only=True)
class OnlinePolicy:
    """How the loop learns.

    samples: of the stream, in all. chunk: samples answered before the device trains. audit: share of pictures whose
    samples go to the teacher whatever the student thinks, and are kept for the guard: none of them is ever trained on.
    replay_share: of a mini-batch, drawn from the store. rehearsals: further mini-batches from the store
    alone after each chunk. label_budget: labels that may be bought of the teacher, gold questions among them; None for
    any number. pace: of those, at most so many a sample of the stream so far, so that a budget lasts: what a quiet
    stretch leaves a busy one may have; None for as fast as they are wanted.
    """

    samples: int = 3000
    chunk: int = 64
    audit: float = 0.1
    rehearsals: int = 4
    replay_share: float = 0.5
    label_budget: int | None = None
    pace: float | None = None
    detector: Detector = field(default_factory=lambda: Detector(kind="margin", threshold=0.9))
    guard: GuardPolicy = field(default_factory=GuardPolicy)

    def __post_init__(self) -> None:
        for name, low in (("samples", 1), ("chunk", 1), ("rehearsals", 0)):
            if getattr(self, name) < low:
                raise HostError(f"{name} is {getattr(self, name)}: must be at least {low}")
        if not 0 < self.audit < 1:
            raise HostError(f"audit is {self.audit}: must lie between 0 and 1, the guard needs held-out samples")
        if not 0 <= self.replay_share < 1:
            raise HostError(f"replay_share is {self.replay_share}: must be at least 0 and below 1")
        if self.label_budget is not None and self.label_budget < 1:
            raise HostError(f"label_budget is {self.label_budget}: must be at least 1")
        check_pace(self.pace)

    def allowed(self, samples: int) -> int | None:
        """Labels that may have been bought when so many samples of the stream were answered; None for any number."""
        limits = [] if self.label_budget is None else [self.label_budget]
        if self.pace is not None:
            limits.append(int(self.pace * samples))
        return min(limits, default=None)


def check_pace(pace: float | None) -> None:
    """Raise HostError for what is no number of labels a sample."""
    if pace is not None and not (math.isfinite(pace) and pace > 0):
        raise HostError(f"pace is {pace}: must be finite and above 0, labels a sample of the stream")
