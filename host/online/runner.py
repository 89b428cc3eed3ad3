"""One whole online run: scene, compiled student, device, store, loop; measured as it goes, reported at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from insitu.arch.declaration import Declaration
from insitu.arch.params import CoreParams
from insitu.arch.program import write_whole
from insitu.host.compiler.compile import compile_module
from insitu.host.device.driver import Driver, open_device
from insitu.host.device.snapshot import Snapshot
from insitu.host.online.loop import Chunk, OnlineLoop, OnlinePolicy
from insitu.host.online.scene import Scene, prepare
from insitu.host.store import FeedbackStore
from insitu.host.train import accuracy
from insitu.models import teachers


@dataclass(frozen=True, kw_only=True)
class OnlineRun:
    """What a run is made of.

    out: its folder: feedback store, checkpoint, teacher, program, scalars, picture and result. store: a database URL
    instead of the folder's own file. temperature: of the teacher's soft labels. curve: chunks between two points of the
    accuracy curve.
    """

    data: str
    shift: str
    model: str
    out: Path
    seed: int = 0
    core: CoreParams = field(default_factory=CoreParams)
    declaration: Declaration = field(default_factory=Declaration)
    batch: int = 32
    lr: float = 0.2
    temperature: float = 1.5
    policy: OnlinePolicy = field(default_factory=OnlinePolicy)
    backend: str = "emulator"
    store: str | None = None
    store_bytes: int = 1_000_000
    root: str | None = None
    curve: int = 1


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
    """Carry a run out, or on from its folder's checkpoint. Returns (and writes to result.json) what it came to."""
    from torch.utils.tensorboard import SummaryWriter  # seconds to import, and only a run needs it

    out = request.out
    out.mkdir(parents=True, exist_ok=True)
    scene = prepare(
        data=request.data,
        shift=request.shift,
        model=request.model,
        seed=request.seed,
        root=request.root,
        teacher_file=out / "teacher.npz",
        say=say,
    )
    compiled = compile_module(
        scene.student,
        core=request.core,
        declaration=request.declaration,
        batch=request.batch,
        calibration=scene.dataset.x_train[:256],
        learning_rate=request.lr,
        sample_range=1.0,
        meta={"model": request.model, "data": request.data, "shift": request.shift},
    )
    compiled.program.save(out / "student.insitu")
    taught = teachers.soft_labels(scene.teacher, scene.x_test, 1.0)
    teacher_accuracy = float((taught.argmax(axis=1) == scene.y_test).mean())
    begun = time.monotonic()
    with (
        open_device(request.core, request.backend) as driver,
        open_device(request.core) as twin,
        FeedbackStore.open(
            request.store or out / "feedback.db",
            shape=scene.dataset.in_shape,
            classes=scene.dataset.classes,
            byte_budget=request.store_bytes,
            seed=request.seed,
        ) as store,
        SummaryWriter(str(out / "scalars")) as scalars,
    ):
        for device in (driver, twin):
            device.load(compiled.program)
            device.write_weights(compiled.masters)
            device.seed = request.seed + 1
        before = accuracy(twin, scene.x_test, scene.y_test)
        clean = accuracy(twin, scene.dataset.x_test, scene.dataset.y_test)
        say(f"the scene: the student falls from {clean:.1%} to {before:.1%}; the teacher has {teacher_accuracy:.1%}")
        driver.clear_counters()
        loop = OnlineLoop(
            driver,
            scene,
            lambda x: teachers.soft_labels(scene.teacher, x, request.temperature),
            store,
            policy=request.policy,
            seed=request.seed,
            folder=out,
        )
        measure = _Measure(twin, scene, before)
        seen: list[int] = []

        def after(chunk: Chunk) -> None:
            seen.append(1)
            if len(seen) % request.curve == 0 or chunk.verdict is not None:
                measure(chunk.progress.samples, driver.snapshot(), loop.guard.incumbent)
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
                        seconds=time.monotonic() - begun,
                        busy=chunk.counters.busy(request.core),
                    )
                )

        progress = loop.run(after)
        counters = driver.counters
        measure(progress.samples, driver.snapshot(), loop.guard.incumbent)
        usage = store.usage()
    result: dict[str, Any] = {
        "data": request.data,
        "shift": request.shift,
        "model": request.model,
        "seed": request.seed,
        "format": request.declaration.short,
        "accuracy_clean": clean,
        "accuracy_before": before,
        "accuracy_after": measure.curve.served[-1],
        "accuracy_teacher": teacher_accuracy,
        "samples": progress.samples,
        "labels": progress.labels,
        "steps": progress.steps,
        "stored": usage.samples,
        "stored_bytes": usage.bytes,
        "cycles": counters.cycles,
        "busy": counters.busy(request.core),
        "verdicts": progress.verdicts,
        "seconds": time.monotonic() - begun,
        "folder": str(out),
    }
    _picture(out / "accuracy.png", request, measure.curve, before, teacher_accuracy)
    write_whole(out / "result.json", json.dumps(result, indent=2).encode())
    return result


class _Measure:
    """Accuracy on the scene's test set, on a twin device: measuring costs the running one no cycle."""

    def __init__(self, twin: Driver, scene: Scene, before: float) -> None:
        self._twin, self._scene = twin, scene
        self._served: Snapshot | None = None
        self._served_accuracy = before
        self.curve = Curve(samples=[0], training=[before], served=[before])

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
        "device/cycles": chunk.counters.cycles,
    }
    for name, value in values.items():
        if np.isfinite(value):
            writer.add_scalar(name, value, at)


def _picture(path: Path, request: OnlineRun, curve: Curve, floor: float, teacher: float) -> None:
    """Accuracy against samples seen, with the student's floor and the teacher's line."""
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
        title=f"{request.model} on {request.data}, {request.shift}, {request.declaration.short}",
        xlim=(0, max(curve.samples)),
        ylim=(0, 100),
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=150)
