"""Curricula: what a student goes through, stage by stage."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from insitu.models.curricula.labels import Given, LabelPolicy
from insitu.models.curricula.samples import SamplePolicy, Uniform
from insitu.models.errors import InvalidInputError
from insitu.models.schedules import SCHEDULES


@dataclass(frozen=True)
class Trainable:
    """What of a student moves: its last `layers` layers, or all where None.

    Raises:
        InvalidInputError: fewer than one layer.
    """

    layers: int | None = None

    def __post_init__(self) -> None:
        if self.layers is not None and self.layers < 1:
            raise InvalidInputError(f"the last {self.layers} layers; allowed are 1 and more")

    @classmethod
    def parse(cls, text: str) -> Trainable:
        """`all`, `head` (the last layer) or `last:K` (the last K)."""
        kind, colon, count = text.partition(":")
        if not colon and kind in ("all", "head"):
            return cls(None if kind == "all" else 1)
        if kind == "last" and count.isascii() and count.isdigit() and int(count) > 0:
            return cls(int(count))
        raise InvalidInputError(f"trainable {text!r}; allowed are all, head, and last:K for the last K layers")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How long, on what, towards what, and what may move.

    Attributes:
        pools: names of the pools it draws from, joined in this order.
        samples: which samples in which order.
        labels: the target distribution, or the loss, that each gets.
        epochs: passes, at least 1.
        lr: learning rate of the mean loss over a batch, before `schedule` (of models/schedules.py).
        trainable: what moves.
        classes: the student has outputs for so many of the first classes; None for all there are. A later stage of more
            has the head grow: the classes that there were keep their weights.
        name: what it is called in results.

    Raises:
        InvalidInputError: a value out of range.
    """

    pools: tuple[str, ...]
    samples: SamplePolicy = field(default_factory=Uniform)
    labels: LabelPolicy = field(default_factory=Given)
    epochs: int = 1
    lr: float = 0.1
    schedule: str = "constant"
    trainable: Trainable = field(default_factory=Trainable)
    classes: int | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not self.pools:
            raise InvalidInputError("a stage without a pool; allowed are one and more")
        if self.epochs < 1 or not 0 < self.lr < math.inf:
            raise InvalidInputError(f"epochs {self.epochs}, lr {self.lr}; allowed are 1 and more, and numbers above 0")
        if self.classes is not None and self.classes < 2:
            raise InvalidInputError(f"classes {self.classes}; allowed are 2 and more")
        if self.schedule not in SCHEDULES:
            raise InvalidInputError(f"schedule {self.schedule!r}; allowed are {', '.join(SCHEDULES)}")

    def rate(self, done: float) -> float:
        """The learning rate when a share `done` of all the stage's steps, 0 to 1, is over."""
        return self.lr * SCHEDULES[self.schedule](done)


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Stages one after another, for one student or for several that learn side by side, from the same mini-batches.

    Raises:
        InvalidInputError: no stage, or no student.
    """

    stages: tuple[Stage, ...]
    students: int = 1

    def __post_init__(self) -> None:
        if not self.stages or self.students < 1:
            raise InvalidInputError(
                f"{len(self.stages)} stages for {self.students} students; allowed are 1 and more of each"
            )
