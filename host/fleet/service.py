"""The teacher's service: the samples of all devices in batches, labels up to a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.host.errors import HostError
from insitu.host.fleet.sharing import Sharing, check_sharing, granted
from insitu.host.online.gold import Gold

Real = npt.NDArray[np.float32]
#: Samples as they are sent: uint8 [n, ...]. Answers as they come back: float16 [n, classes].
Pixels = npt.NDArray[np.uint8]
Answers = npt.NDArray[np.float16]


@dataclass
class Load:
    """What the teacher did. samples: it answered, which are the labels bought; questions: gold ones among them.
    seconds: of answering. refused: samples it was asked about in vain. spent: the round, from 0, in which the first one
    was refused; None where none was. lies: samples whose answers nobody got, for it answered gold questions wrongly."""

    samples: int = 0
    questions: int = 0
    batches: int = 0
    largest_batch: int = 0
    refused: int = 0
    rounds: int = 0
    spent: int | None = None
    lies: int = 0
    seconds: float = field(default=0.0, compare=False)

    def to_json(self) -> dict[str, Any]:
        mean = self.samples / self.batches if self.batches else 0.0
        return vars(self) | {"mean_batch": mean}


class TeacherService:
    """One teacher for a number of devices. `answer` once a round.

    teach: samples float32 [n, ...] in [0, 1] -> distributions float32 [n, classes]. devices: how many there are.
    budget: labels it gives in all, None for any number; sharing: who gets them. pace: labels a round so far, at most;
    what is left of earlier rounds may be had later. When there are none left it answers nobody: the devices go on with
    what they have kept. batch: samples it takes at a time. gold: questions beside each round's, paid for by the budget,
    which lays those of so many `rounds` by; where they are answered wrongly nobody gets that round's answers, though
    they are spent.

    A round's samples are put together in the order of the devices, so that what it computes does not depend on where
    they run. Raises HostError for a setting that is none.
    """

    def __init__(
        self,
        teach: Callable[[Real], Real],
        *,
        devices: int,
        budget: int | None = None,
        sharing: Sharing = "lent",
        pace: float | None = None,
        rounds: int = 1,
        batch: int = 256,
        gold: Gold | None = None,
    ) -> None:
        check_sharing(sharing)
        for name, value in (("devices", devices), ("budget", budget), ("batch", batch)):
            if value is not None and value < 1:
                raise HostError(f"{name} is {value}: must be at least 1")
        self._teach, self._budget, self._sharing, self._batch = teach, budget, sharing, batch
        self._pace, self._rounds = pace, rounds
        self._gold, self._recent = gold, list[bool]()
        self.given = [0] * devices  #: labels, by device
        self.refused = [0] * devices  #: samples without one, by device
        self.load = Load()

    def answer(self, asked: Sequence[Pixels]) -> list[Answers]:
        """Answers to the first so many of each device's samples; a device that gets none has an array of none."""
        counts = granted([len(x) for x in asked], self.given, self._allowed(), self._sharing)
        for device, (x, count) in enumerate(zip(asked, counts, strict=True)):
            self.given[device] += count
            self.refused[device] += len(x) - count
        refused = sum(map(len, asked)) - sum(counts)
        if refused and self.load.spent is None:
            self.load.spent = self.load.rounds
        self.load.refused += refused
        self.load.rounds += 1
        pixels = np.concatenate([x[:count] for x, count in zip(asked, counts, strict=True)])
        none = [np.empty((0, 0), np.float16)] * len(asked)
        if not len(pixels):
            return none
        real, gold = pixels.astype(np.float32) / np.float32(255), self._gold
        if gold is None:
            answers: Answers | None = self._all(real)
        else:
            self.load.questions += gold.count
            answers = gold.ask(self._all, real, self.load.rounds, self._recent)
        if answers is None:
            self.load.lies += len(pixels)
            return none
        return np.split(answers, np.cumsum(counts)[:-1])

    def _allowed(self) -> int | None:
        """Labels that devices may have been given by the end of this round; None for any number."""
        gold = 0 if self._gold is None else self._gold.count
        limits = [] if self._budget is None else [self._budget - gold * self._rounds]
        if self._pace is not None:
            begun = self.load.rounds + 1
            limits.append(int(self._pace * begun) - gold * begun)
        return None if not limits else max(0, min(limits))

    def _all(self, x: Real) -> Answers:
        return np.concatenate([self._one(x[i : i + self._batch]) for i in range(0, len(x), self._batch)])

    def _one(self, x: Real) -> Answers:
        begun = time.perf_counter()
        answers = self._teach(x).astype(np.float16)
        self.load.seconds += time.perf_counter() - begun
        self.load.samples += len(x)
        self.load.batches += 1
        self.load.largest_batch = max(self.load.largest_batch, len(x))
        return answers
