"""A file carried out: every arm of every point, on a device and by its float32 twin, over paired seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from insitu.host.compiler.compile import compile_module
from insitu.host.device.backends import open_device
from insitu.host.errors import HostError, StudyError
from insitu.host.learn.device import DeviceLearner, deployed
from insitu.host.learn.prepare import Prepared, Preparing, draw
from insitu.host.learn.runner import Outcome, Run
from insitu.host.learn.schema import Plan, Point
from insitu.models import datasets, students
from insitu.models.curricula.learner import FloatLearner, Learner
from insitu.models.curricula.surgery import freeze
from insitu.models.datasets import Dataset
from insitu.models.errors import ModelsError

Arithmetic = Literal["device", "float"]
ARITHMETICS: tuple[Arithmetic, ...] = get_args(Arithmetic)

#: Between the seeds of students that learn side by side; the first one's is the run's own.
APART = 1_000_003


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A stage under way or, with `outcome`, just ended. done, of: its steps."""

    point: Point
    seed: int
    arm: str
    arithmetic: Arithmetic
    stage: int
    done: int
    of: int
    outcome: Outcome | None = None


def check(plan: Plan, root: str | None) -> Dataset:
    """Load the data and see that pools, students and formats go together, before anything is trained. Raises
    StudyError and the errors of data sets."""
    dataset = datasets.load(plan.data, root)
    for point in plan.points:
        try:
            for seed in plan.seeds:
                draw(dataset, point.pools, seed)
            module = deployed(_student(plan, point, dataset, plan.seeds[0]), dataset.in_shape)
            compile_module(
                module,
                core=point.core,
                declaration=point.declaration,
                batch=point.batch,
                calibration=dataset.x_train[:32],
            )
            for curriculum in point.arms.values():
                for stage in curriculum.stages:
                    freeze(module, stage.trainable)
                    if stage.classes is not None and stage.classes > dataset.classes:
                        raise StudyError(f"a stage of {stage.classes} classes; {dataset.name} has {dataset.classes}")
        except (HostError, ModelsError) as error:
            value = f" at {plan.varied} = {point.value!r}" if plan.varied else ""
            raise StudyError(f"{plan.path}{value}: {error}") from error
    return dataset


def run(
    plan: Plan,
    *,
    root: str | None = None,
    backend: str = "emulator",
    arithmetics: Sequence[Arithmetic] = ARITHMETICS,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Carry a plan out; everything that came of it, ready for JSON (`results.gains` says what it amounts to).

    Raises StudyError, ModelsError or DeviceError; what can be known beforehand before anything is trained.
    """
    dataset = check(plan, root)
    preparing, begun = Preparing(dataset), time.monotonic()
    points = []
    for point in plan.points:
        found: dict[str, Any] = {
            "value": point.value,
            "student": point.student,
            "format": point.declaration.short,
            "core": point.core.to_json(),
            "batch": point.batch,
            "teacher": [],
            "arms": {name: {a: [] for a in arithmetics} for name in point.arms},
        }
        for seed in plan.seeds:
            prepared = preparing.prepare(point.pools, point.teacher, point.scene, seed)
            found["teacher"].append(prepared.teacher_to_json())
            for name in point.arms:
                for arithmetic in arithmetics:
                    stages = _arm(plan, point, dataset, prepared, name, arithmetic, seed, backend, watch)
                    found["arms"][name][arithmetic].append([outcome.to_json() for outcome in stages])
        points.append(found)
    return {
        "curriculum": plan.name,
        "title": plan.title,
        "data": plan.data,
        "seeds": list(plan.seeds),
        "baseline": plan.baseline,
        "vary": plan.varied or None,
        "backend": backend,
        "points": points,
        "seconds": time.monotonic() - begun,
    }


def _arm(
    plan: Plan,
    point: Point,
    dataset: Dataset,
    prepared: Prepared,
    name: str,
    arithmetic: Arithmetic,
    seed: int,
    backend: str,
    watch: Callable[[Progress], None],
) -> list[Outcome]:
    curriculum = point.arms[name]
    outcomes = []
    with _learners(plan, point, dataset, curriculum.students, arithmetic, seed, backend) as learners:
        running = Run(curriculum, learners, prepared, point.batch, seed)
        for number in range(len(curriculum.stages)):

            def told(done: int, of: int, outcome: Outcome | None = None, number: int = number) -> None:
                watch(
                    Progress(
                        point=point,
                        seed=seed,
                        arm=name,
                        arithmetic=arithmetic,
                        stage=number,
                        done=done,
                        of=of,
                        outcome=outcome,
                    )
                )

            try:
                outcomes.append(running.stage(number, told))
            except (HostError, ModelsError) as error:
                raise StudyError(f"{plan.path}: arms.{name}.stages.{number}: {error}") from error
            told(outcomes[-1].steps, outcomes[-1].steps, outcomes[-1])
    return outcomes


@contextmanager
def _learners(
    plan: Plan, point: Point, dataset: Dataset, count: int, arithmetic: Arithmetic, seed: int, backend: str
) -> Iterator[list[Learner]]:
    """Students that begin with the weights of their seeds, whatever carries them."""
    found: list[Learner] = []
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        # One thread: students are small, and sums of floats are then the same wherever they are taken.
        torch.set_num_threads(1)
        stack.callback(torch.set_num_threads, threads)
        for k in range(count):
            module = deployed(_student(plan, point, dataset, seed + k * APART), dataset.in_shape)
            if arithmetic == "float":
                found.append(FloatLearner(module, point.batch))
                continue
            driver = stack.enter_context(open_device(point.core, backend))
            found.append(
                DeviceLearner(
                    driver,
                    module,
                    core=point.core,
                    declaration=point.declaration,
                    batch=point.batch,
                    seed=int(np.random.default_rng((seed, k)).integers(1 << 31)),
                )
            )
        yield found


def _student(plan: Plan, point: Point, dataset: Dataset, seed: int) -> Any:
    spec = students.anchored(point.student, Path(plan.path).parent)
    return students.build(spec, in_shape=dataset.in_shape, classes=dataset.classes, seed=seed)
