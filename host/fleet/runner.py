"""Fleets of growing size, one teacher: turns of all devices, then the teacher's answers, until the streams end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.host.compiler.compile import Compiled
from insitu.host.device import open_device
from insitu.host.device.snapshot import Snapshot
from insitu.host.fleet.member import Member, Turns, begin, take
from insitu.host.fleet.peers import hear
from insitu.host.fleet.report import Outcome, row
from insitu.host.fleet.request import FleetRun, check
from insitu.host.fleet.service import TeacherService
from insitu.host.online.gold import Gold
from insitu.host.online.request import compile_student
from insitu.host.online.scene import from_laboratory, test_images
from insitu.host.study.engine import Engine
from insitu.host.train import accuracy
from insitu.models import teachers
from insitu.models.datasets import Dataset
from insitu.models.shifts import Shift
from insitu.models.teachers import Teacher

#: Called as a fleet goes on: its size, rounds done, rounds in all.
Watch = Callable[[int, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What all fleets of a run share: data, a student from the laboratory as it is shipped, a teacher of all scenes."""

    dataset: Dataset
    compiled: Compiled
    teacher: Teacher
    tests: dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A fleet at its end. members: in order. heard: samples that peers answered; bytes_up, bytes_down: of samples to
    the teacher and peers and of answers back; all by device."""

    members: list[Member]
    service: TeacherService
    heard: list[int]
    bytes_up: list[int]
    bytes_down: list[int]
    seconds: float


def run(
    request: FleetRun, engine: Engine, watch: Watch = lambda *_: None, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run a fleet of each size and measure it; JSON-ready. Everything but seconds is the same on any engine.

    Raises a ModelsError, CompileError or HostError; what can be known beforehand before anything is trained.
    """
    lesson = prepare(request, check(request), say)
    fleets = []
    for size in request.devices:
        fleet = operate(request, lesson, size, engine, watch)
        fleets.append(measured(request, lesson, fleet))
    answers = {scene: teachers.soft_labels(lesson.teacher, x, 1.0) for scene, x in lesson.tests.items()}
    known = {scene: float((answer.argmax(axis=1) == lesson.dataset.y_test).mean()) for scene, answer in answers.items()}
    return {
        "data": request.data,
        "model": request.model,
        "format": request.declaration.short,
        "scenes": list(request.scenes),
        "seed": request.seed,
        "samples": request.policy.samples,
        "labels": request.labels,
        "pace": request.pace,
        "peers": request.peers,
        "sharing": request.sharing,
        "accuracy_teacher": known,
        "fleets": fleets,
    }


def prepare(request: FleetRun, dataset: Dataset, say: Callable[[str], None] = lambda _: None) -> Lesson:
    """Train the student in the laboratory and the teacher for all scenes."""
    student = from_laboratory(request.model, dataset, seed=request.seed, say=say)
    shifts = {scene: Shift.parse(scene) for scene in request.scenes}
    say(f"teacher: trained for {', '.join(shifts)} at every severity")
    return Lesson(
        dataset=dataset,
        compiled=compile_student(request, student, dataset),
        teacher=teachers.train_teacher(dataset, *shifts.values(), seed=request.seed),
        tests={scene: test_images(dataset, shift, seed=request.seed) for scene, shift in shifts.items()},
    )


def operate(request: FleetRun, lesson: Lesson, devices: int, engine: Engine, watch: Watch = lambda *_: None) -> Fleet:
    """Take a fleet through its streams. A round is a turn of every device, then the teacher's answers to them all."""
    begun = time.monotonic()
    members = [begin(request, lesson.dataset, lesson.compiled, number) for number in range(devices)]
    service = TeacherService(
        lambda x: teachers.soft_labels(lesson.teacher, x, request.temperature),
        devices=devices,
        budget=request.labels,
        sharing=request.sharing,
        pace=None if request.pace is None else request.pace * request.policy.chunk * devices,
        rounds=request.rounds,
        batch=request.teacher_batch,
        gold=Gold.of(lesson.dataset, request.gold),
    )
    up, down, heard = [0] * devices, [0] * devices, [0] * devices
    answers = [np.empty((0, lesson.dataset.classes), np.float16)] * devices
    program = lesson.compiled.program.to_bytes()
    rounds = request.rounds
    for number in range(rounds + 1):
        parts = [range(worker, devices, engine.workers) for worker in range(min(engine.workers, devices))]
        jobs = [
            Turns(
                request=request,
                program=program,
                masters=lesson.compiled.masters,
                members=[members[k] for k in part],
                answers=[answers[k] for k in part],
            )
            for part in parts
        ]
        for part, taken in zip(parts, engine.all(take, jobs), strict=True):
            for k, member in zip(part, taken, strict=True):
                members[k] = member
        watch(devices, number, rounds)
        if number == rounds:
            break
        asked = [member.asked(lesson.dataset.in_shape) for member in members]
        answers = service.answer(asked)
        for k in range(devices):
            up[k] += asked[k].nbytes
            down[k] += answers[k].nbytes
        if request.peers:
            for k, (count, sent, back) in enumerate(hear(request, program, members, asked, answers, engine)):
                heard[k] += count
                up[k] += sent
                down[k] += back
    return Fleet(
        members=members,
        service=service,
        heard=heard,
        bytes_up=up,
        bytes_down=down,
        seconds=time.monotonic() - begun,
    )


def measured(request: FleetRun, lesson: Lesson, fleet: Fleet) -> dict[str, Any]:
    """What a fleet came to, JSON-ready: accuracy of each device in its scene, as shipped and as served at the end."""
    with open_device(request.core) as driver:
        driver.load(lesson.compiled.program)
        driver.write_weights(lesson.compiled.masters)
        shipped = driver.snapshot()

        def of(snapshot: Snapshot, scene: str) -> float:
            driver.restore(snapshot)
            return accuracy(driver, lesson.tests[scene], lesson.dataset.y_test)

        before = {scene: of(shipped, scene) for scene in lesson.tests}
        outcomes = []
        for member in fleet.members:
            assert member.checkpoint is not None
            scene, k, progress = request.scene(member.number), member.number, member.checkpoint.progress
            outcomes.append(
                Outcome(
                    device=k,
                    scene=scene,
                    accuracy_before=before[scene],
                    accuracy_after=of(member.checkpoint.served, scene),
                    labels=fleet.service.given[k],
                    refused=fleet.service.refused[k],
                    heard=fleet.heard[k],
                    steps=progress["steps"],
                    cycles=progress["cycles"],
                    bytes_up=fleet.bytes_up[k],
                    bytes_down=fleet.bytes_down[k],
                    stored_bytes=member.memory.bytes,
                    fault=member.fault,
                )
            )
    return row(outcomes, fleet.service.load, fleet.seconds)
