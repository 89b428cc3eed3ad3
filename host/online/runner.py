"""One whole online run: scene, compiled student, device, store, loop; measured as it goes, reported at the end."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from insitu.arch.files import unfinished, write_whole
from insitu.arch.program import Program
from insitu.host.device.backends import open_device
from insitu.host.device.driver import Driver
from insitu.host.device.snapshot import Snapshot
from insitu.host.errors import HostError
from insitu.host.online.checkpoint import Checkpoint
from insitu.host.online.gold import Gold
from insitu.host.online.loop import Chunk, OnlineLoop
from insitu.host.online.progress import Progress
from insitu.host.online.request import (
    IDENTITY,
    LOCK,
    PARTS,
    PICTURE,
    PROGRAM,
    RESULT,
    SCALARS,
    STORE,
    TEACHER,
    OnlineRun,
    check,
    check_folder,
    claim,
    compile_student,
    logits_encoding,
)
from insitu.host.online.scene import Scene, prepare
from insitu.host.store import FeedbackStore
from insitu.host.train import accuracy
from insitu.models import teachers
from insitu.models.datasets import Dataset


@dataclass
class Curve:
    """Accuracy in the scene over the whole test set, against samples of the stream.

    training: of the weights the device trains; served: of those the guard serves.
    """

    samples: list[int] = field(default_factory=list)
    training: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a run stands, for a live table."""

    run: OnlineRun
    chunk: Chunk
    before: float
    now: float
    served: float
    teacher: float
    seconds: float
    busy: float


def run(
    request: OnlineRun,
    watch: Callable[[Status], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Carry a run out, or on from its folder's checkpoint. Returns (and writes to result.json) what it came to;
    of a run that has ended already, what is written there.

    Raises a ModelsError, CompileError, CheckpointError, StoreError or OSError; what can be known beforehand before
    anything is trained or written.
    """
    dataset, program = check(request)
    with _folder(request.out):
        kept = check_folder(request, program)
        ended = _ended(request, kept)
        if ended is not None:
            return ended
        claim(request)
        with open_store(request, dataset, program) as store:
            return _run(request, store, kept, watch, say)


def _ended(request: OnlineRun, kept: Checkpoint | None) -> dict[str, Any] | None:
    """The written result of a run that has ended; None where it has not, or its end was not written down."""
    path = request.out / RESULT
    if kept is None or not kept.progress["ended"] or kept.progress["samples"] < request.policy.samples:
        return None
    try:
        result = json.loads(path.read_bytes())
        return result if result["samples"] == kept.progress["samples"] else None
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Have a run's folder to oneself, and clear away what a killed process was writing. Raises HostError where another
    process has it."""
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise HostError(f"{out} is in use by another process: wait for it, or give this run another folder") from error
    try:
        for part in PARTS:
            for left in unfinished(out, part):
                left.unlink()
        yield
    finally:
        lock.release()  # the file stays: whoever has opened it meanwhile would hold one that nobody else sees


@contextmanager
def _folder(out: Path) -> Iterator[None]:
    """The run's folder to oneself; gone again if it was made for nothing. A write that fails without a name failed in
    there."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out):
            try:
                yield
            finally:
                if made and {path.name for path in out.iterdir()} <= {LOCK, IDENTITY}:
                    for name in (IDENTITY, LOCK):
                        (out / name).unlink(missing_ok=True)
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(out)
        raise
    finally:
        for folder in made:
            if any(folder.iterdir()):
                break
            folder.rmdir()


def open_store(request: OnlineRun, dataset: Dataset, program: Program, *, as_it_is: bool = False) -> FeedbackStore:
    """A run's feedback store. program: the one that the request compiles. as_it_is: to read alone."""
    return FeedbackStore.open(
        request.store or request.out / STORE,
        shape=dataset.in_shape,
        classes=dataset.classes,
        byte_budget=None if as_it_is else request.store_bytes,
        seed=request.seed,
        logits_encoding=logits_encoding(program),
        as_it_is=as_it_is,
    )


def _run(
    request: OnlineRun,
    store: FeedbackStore,
    kept: Checkpoint | None,
    watch: Callable[[Status], None] | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    from torch.utils.tensorboard import SummaryWriter  # seconds to import, and only a run needs it

    out = request.out
    scene = prepare(
        data=request.data,
        shift=request.shift,
        model=request.model,
        seed=request.seed,
        root=request.root,
        flag_rate=request.flag_rate,
        label_rate=request.label_rate,
        teacher_file=out / TEACHER,
        say=say,
    )
    compiled = compile_student(request, scene.student, scene.dataset)
    program = compiled.program if kept is None or kept.program is None else kept.program
    program.save(out / PROGRAM)
    taught = teachers.soft_labels(scene.teacher, scene.x_test, 1.0)
    teacher_accuracy = float((taught.argmax(axis=1) == scene.y_test).mean())
    with (
        open_device(request.core, request.backend) as driver,
        open_device(request.core) as twin,
        SummaryWriter(str(out / SCALARS)) as scalars,
    ):
        for device in (driver, twin):
            device.load(compiled.program)
            device.write_weights(compiled.masters)
            device.seed = request.seed + 1
        before = accuracy(twin, scene.x_test, scene.y_test)
        clean = accuracy(twin, scene.dataset.x_test, scene.dataset.y_test)
        say(f"the scene: the student falls from {clean:.1%} to {before:.1%}; the teacher has {teacher_accuracy:.1%}")
        if kept is not None and kept.program is not None:
            for device in (driver, twin):
                device.load(kept.program)
                device.restore(kept.first)
        loop = OnlineLoop(
            driver,
            scene,
            lambda x: teachers.soft_labels(scene.teacher, x, request.temperature),
            store,
            policy=request.policy,
            seed=request.seed,
            identity=request.identity,
            user=scene,
            gold=Gold.of(scene.dataset, request.gold),
            folder=out,
        )
        curve = None if kept is None else Curve(**kept.notes["curve"])
        measure = _Measure(twin, scene, before, curve)

        def record(chunk: Chunk) -> None:
            number = -(-chunk.progress.samples // request.policy.chunk)
            if number % request.curve == 0 or chunk.verdict is not None:
                measure(chunk.progress.samples, driver.snapshot(), loop.guard.incumbent)
            loop.notes["curve"] = asdict(measure.curve)

        def after(chunk: Chunk) -> None:
            _scalars(scalars, chunk, measure.curve)
            if watch is not None:
                watch(
                    Status(
                        run=request,
                        chunk=chunk,
                        before=before,
                        now=measure.curve.training[-1],
                        served=measure.curve.served[-1],
                        teacher=teacher_accuracy,
                        seconds=chunk.progress.seconds,
                        busy=_busy(request, chunk.progress),
                    )
                )

        progress = loop.run(after, record)
        measure(progress.samples, driver.snapshot(), loop.guard.incumbent)
        usage = store.usage()
    result: dict[str, Any] = {
        "data": request.data,
        "shift": request.shift,
        "model": request.model,
        "seed": request.seed,
        "format": program.declaration.short,
        "accuracy_clean": clean,
        "accuracy_before": before,
        "accuracy_after": measure.curve.served[-1],
        "accuracy_teacher": teacher_accuracy,
        "samples": progress.samples,
        "stream_accuracy": progress.stream_right / progress.samples,
        "labels": progress.labels,
        "questions": progress.questions,
        "bought": progress.bought,
        "flagged": progress.flagged,
        "true_labels": progress.true_labels,
        "refused": progress.refused,
        "steps": progress.steps,
        "stored": usage.samples,
        "stored_bytes": usage.bytes,
        "cycles": progress.cycles,
        "macs": progress.macs,
        "busy": _busy(request, progress),
        "verdicts": [list(verdict) for verdict in progress.verdicts],
        "seconds": progress.seconds,
        "folder": str(out),
    }
    write_whole(out / PICTURE, _picture(request, program, measure.curve, before, teacher_accuracy))
    write_whole(out / RESULT, json.dumps(result, indent=2).encode())
    return result


def _busy(request: OnlineRun, progress: Progress) -> float:
    """Share of the array's multiply-accumulate slots that did useful work, 0 to 1."""
    return progress.macs / (request.core.cells * progress.cycles) if progress.cycles else 0.0


class _Measure:
    """Accuracy on the scene's test set, on a twin device: measuring costs the running one no cycle."""

    def __init__(self, twin: Driver, scene: Scene, before: float, curve: Curve | None) -> None:
        self._twin, self._scene = twin, scene
        self._served: Snapshot | None = None
        self._served_accuracy = before
        self.curve = curve or Curve(samples=[0], training=[before], served=[before])

    def __call__(self, samples: int, training: Snapshot, served: Snapshot) -> None:
        if served is not self._served:
            self._served, self._served_accuracy = served, self._accuracy(served)
        self.curve.samples.append(samples)
        self.curve.training.append(self._accuracy(training))
        self.curve.served.append(self._served_accuracy)

    def _accuracy(self, snapshot: Snapshot) -> float:
        self._twin.restore(snapshot)
        return accuracy(self._twin, self._scene.x_test, self._scene.y_test)


def _scalars(writer: Any, chunk: Chunk, curve: Curve) -> None:
    at = chunk.progress.samples
    values = {
        "loss": chunk.loss,
        "saturated share": chunk.progress.saturated_share,
        "agreement with teacher": chunk.agreement,
        "asked": chunk.asked,
        "accuracy/training": curve.training[-1],
        "accuracy/served": curve.served[-1],
        "device/cycles": chunk.progress.cycles,
    }
    for name, value in values.items():
        if np.isfinite(value):
            writer.add_scalar(name, value, at)


def _picture(request: OnlineRun, program: Program, curve: Curve, floor: float, teacher: float) -> bytes:
    """Accuracy against samples seen, with the student's floor and the teacher's line, as a PNG."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve.samples, np.multiply(100, curve.training), color="0.65", lw=1, label="in training")
    axes.step(curve.samples, np.multiply(100, curve.served), where="post", lw=2, label="served")
    axes.axhline(100 * teacher, ls="--", lw=1, color="tab:green", label=f"teacher {teacher:.1%}")
    axes.axhline(100 * floor, ls=":", lw=1, color="tab:red", label=f"floor {floor:.1%}")
    axes.set(
        xlabel="samples of the stream seen",
        ylabel="accuracy in the scene, %",
        title=f"{request.model} on {request.data}, {request.shift}, {program.declaration.short}",
        xlim=(0, max(curve.samples)),
        ylim=(0, 100),
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()
