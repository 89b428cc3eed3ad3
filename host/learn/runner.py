"""A curriculum carried out on learners: the same mini-batches whoever learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from insitu.host.learn.prepare import Prepared
from insitu.host.train import stair_of
from insitu.models.curricula.context import Batch, Context
from insitu.models.curricula.labels import HostLoss, Labeller
from insitu.models.curricula.learner import Learner
from insitu.models.curricula.pool import Logits, Pool
from insitu.models.curricula.stage import Curriculum, Stage

#: Called with (steps done in this stage, of) after each step.
Watch = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage came to.

    accuracy: of the test images, or of the pretext's, mean over students; each: by student. by_class: share of each
    class's test images answered rightly, mean over students; None where the data has none of it. agreement: share of
    test images on which all students answer alike; with_teacher: on which they answer as the teacher, mean over
    students, None where there is none. steps, samples: of training; cycles: of the device, all students.
    """

    stage: str
    accuracy: float
    each: tuple[float, ...]
    by_class: tuple[float | None, ...]
    agreement: float
    with_teacher: float | None
    steps: int
    samples: int
    cycles: int

    def to_json(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in self.__dict__.items()}


@dataclass
class Run:
    """A curriculum under way: its learners and what stages hand on to one another."""

    curriculum: Curriculum
    learners: Sequence[Learner]
    prepared: Prepared
    batch: int
    seed: int
    memories: list[dict[str, Any]] = field(init=False)
    #: Whether the last stage's labels were a task of its own.
    _pretext: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.memories = [{} for _ in self.learners]

    def stage(self, number: int, watch: Watch = lambda done, of: None) -> Outcome:
        """Carry out a stage, 0 first, in order. Raises InvalidInputError where its parts do not go together."""
        stage = self.curriculum.stages[number]
        named = Pool.joined([self.prepared.pools[name] for name in stage.pools])
        if stage.classes is not None:
            named = replace(named, classes=stage.classes)
        contexts = [self._context(named, number, k) for k in range(len(self.learners))]
        # One order for all: what is drawn follows the first student's answers where it follows any.
        first = contexts[0]
        pool = stage.samples.pool(first)
        labellers = [stage.labels.begin(pool, context) for context in contexts]
        rate = labellers[0].rate
        another, self._pretext = stage.samples.pretext != self._pretext, stage.samples.pretext
        for k, learner in enumerate(self.learners):
            seed = _seed(self.seed, number, k)
            learner.begin(pool, stage.trainable, stage.rate(0) * rate, seed=seed, another=another)
            learner.cycles()
        total = stage.samples.steps(pool, self.batch) * stage.epochs
        stair = stair_of(total)
        done = samples = 0
        for number_of_pass in range(stage.epochs):
            for rows in stage.samples.batches(pool, first, number_of_pass):
                if done % stair == 0:
                    for learner in self.learners:
                        learner.set_rate(stage.rate(done / total) * rate)
                self._step(pool, rows, labellers)
                done += 1
                samples += len(rows)
                watch(done, total)
        cycles = sum(learner.cycles() for learner in self.learners)
        return self._measured(stage, number, done, samples, cycles)

    def _context(self, pool: Pool, number: int, k: int) -> Context:
        return Context(
            pool=pool,
            batch=self.batch,
            seed=(self.seed, number),
            teacher=self.prepared.teacher,
            student=self.learners[k].logits,
            memory=self.memories[k],
        )

    def _step(self, pool: Pool, rows: Any, labellers: Sequence[Labeller | HostLoss]) -> None:
        x, y = pool.x[rows], pool.y[rows]
        answers = [cache(lambda learner=learner: learner.logits(x)) for learner in self.learners]
        batches = [
            Batch(
                rows=rows,
                x=x,
                y=y,
                own=answer,
                peers=lambda k=k: [other() for i, other in enumerate(answers) if i != k],  # type: ignore[misc]
            )
            for k, answer in enumerate(answers)
        ]
        # All targets before any step: what students send is of the same moment.
        targets = [
            None if isinstance(labeller, HostLoss) else labeller.targets(batch)
            for labeller, batch in zip(labellers, batches, strict=True)
        ]
        for learner, labeller, batch, wanted in zip(self.learners, labellers, batches, targets, strict=True):
            if isinstance(labeller, HostLoss):
                learner.step_with(x, _loss(labeller, batch))
            else:
                assert wanted is not None
                learner.step(x, wanted)

    def _measured(self, stage: Stage, number: int, steps: int, samples: int, cycles: int) -> Outcome:
        test, taught = self.prepared.test, self.prepared.taught
        if self._pretext:  # it is tested by its own task
            test, taught = stage.samples.pool(self._context(test, number, 0)), None
        answers = np.stack([learner.logits(test.x).argmax(axis=1) for learner in self.learners])
        for learner in self.learners:
            learner.cycles()
        right = answers == test.y
        each = tuple(float(r.mean()) for r in right)
        return Outcome(
            stage=stage.name or str(number + 1),
            accuracy=float(np.mean(each)),
            each=each,
            by_class=tuple(
                float(right[:, test.y == c].mean()) if (test.y == c).any() else None for c in range(test.classes)
            ),
            agreement=float((answers == answers[0]).all(axis=0).mean()),
            with_teacher=None if taught is None else float((answers == taught.argmax(axis=1)).mean()),
            steps=steps,
            samples=samples,
            cycles=cycles,
        )


def _loss(labeller: HostLoss, batch: Batch) -> Callable[[Logits], Any]:
    return lambda logits: labeller.gradient(batch, logits)


def _seed(seed: int, number: int, k: int) -> int:
    """Of a learner's choices as a stage begins."""
    return int(np.random.default_rng((seed, number, k, 2)).integers(1 << 31))
