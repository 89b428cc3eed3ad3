"""One shrinking of a served student: pruned, compiled afresh, fine-tuned on the device, reported, kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.program import Program
from insitu.host.compiler.compile import Compiled, compile_module
from insitu.host.compiler.graph import Graph
from insitu.host.device.backends import open_device
from insitu.host.device.driver import Driver
from insitu.host.device.snapshot import Snapshot
from insitu.host.online.checkpoint import Checkpoint
from insitu.host.online.request import CHECKPOINT, PROGRAM, OnlineRun, check
from insitu.host.online.runner import locked, open_store
from insitu.host.online.scene import test_images
from insitu.host.shrink import twin
from insitu.host.shrink.channels import Dependencies
from insitu.host.shrink.criteria import Chance, Criterion, ThiNet, WeightSum, Zeros
from insitu.host.shrink.price import Price
from insitu.host.shrink.pruning import prune
from insitu.host.shrink.request import Shrink, narrowed, recorded
from insitu.host.shrink.size import Sizes
from insitu.host.shrink.tuning import Feedback
from insitu.host.shrink.undo import install, next_backup
from insitu.host.shrink.zeros import zeros
from insitu.host.train import TrainPolicy, accuracy, train
from insitu.models import students
from insitu.models.shifts import Shift

#: Samples that calibrate, that criteria look at, and that a size is priced on: its cycles do not depend on them.
CALIBRATION, LOOKED_AT, PRICED = 256, 512, 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Shrinking:
    """A student, what it is compiled for, and what its store holds: all that shrinking it takes.

    shape: of a sample. graph: the student in torch with the device's masters. program, served: the student on the
    device. lr: of fine-tuning, at its beginning. stream_lr: what the program that goes on trains with. x_test, y_test:
    what accuracy is measured on.
    """

    request: Shrink
    shape: tuple[int, ...]
    graph: Graph
    program: Program
    served: Snapshot
    lr: float
    stream_lr: float
    seed: int
    feedback: Feedback
    x_test: npt.NDArray[np.float32]
    y_test: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Shrunk:
    """What a shrinking came to. gone: channels that went, by the layer that named them. report: JSON-ready."""

    program: Program
    snapshot: Snapshot
    gone: dict[str, list[int]]
    report: dict[str, Any]


def run(
    request: Shrink,
    say: Callable[[str], None] = lambda _: None,
    on_step: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Shrink the student that a run's folder serves; the run goes on with it from where its stream stands. Returns the
    report, which the checkpoint's notes keep too; the checkpoint before stays beside it.

    Raises HostError, CompileError, CheckpointError or StoreError where that cannot be; nothing is changed then.
    """
    online = recorded(request)
    with locked(request.folder):
        dataset, compiled = check(online)
        kept = Checkpoint.load(request.folder / CHECKPOINT, compiled, online.identity)
        program = kept.program or Program.load(request.folder / PROGRAM)
        student = students.build(online.model, in_shape=dataset.in_shape, classes=dataset.classes, seed=online.seed)
        graph = twin.rebuilt(student, dataset.in_shape, stages(program))
        twin.load(graph, program, kept.served)
        with open_store(online, dataset, compiled, as_it_is=True) as store:
            feedback = Feedback.of(store, request.samples)
        found = shrink(
            Shrinking(
                request=request,
                shape=dataset.in_shape,
                graph=graph,
                program=program,
                served=kept.served,
                lr=online.lr if request.lr is None else request.lr,
                stream_lr=online.lr,
                seed=online.seed if request.seed is None else request.seed,
                feedback=feedback,
                x_test=test_images(dataset, Shift.parse(online.shift), seed=online.seed),
                y_test=dataset.y_test,
            ),
            say,
            on_step,
        )
        _keep(request.folder, online, kept, program, found)
    return found.report


def stages(program: Program) -> list[dict[str, list[int]]]:
    """The channels that shrinkings took from the student of a program, one after another."""
    return [dict(stage) for stage in program.meta.get("shrunk", [])]


def shrink(
    given: Shrinking, say: Callable[[str], None] = lambda _: None, on_step: Callable[[int, int], None] | None = None
) -> Shrunk:
    """Prune, compile, fine-tune on a device and measure before, between and after. The given graph changes. Raises
    HostError where there is no such size, or the student cannot do with fewer channels."""
    request, program, feedback = given.request, given.program, given.feedback
    now = Price.of(program)
    declaration = narrowed(program.declaration, request.bits)

    def compiled(graph: Graph, images: int, meta: dict[str, Any] | None = None) -> Compiled:
        optimizer = program.optimizer
        return compile_module(
            graph.module,
            core=program.core,
            declaration=declaration,
            batch=program.step_samples,
            calibration=feedback.x[:images],
            targets=feedback.targets[:images],
            learning_rate=given.stream_lr,
            sample_range=1.0,
            meta=meta,
            **optimizer.to_json(),
        )

    sizes = Sizes(
        graph=given.graph,
        shape=given.shape,
        compiled=lambda graph: Price.of(compiled(graph, PRICED).program),
        lanes=program.core.n,
    )
    counts = sizes.counts
    keep = counts if request.to is None else sizes.largest(request.to, request.measure, now)
    with open_device(program.core, request.backend) as driver:
        driver.load(program)
        driver.restore(given.served)
        before = _measured(driver, given)
        say(f"before: {before['accuracy']:.1%} in the scene, {now.cycles:,} cycles a step of {now.batch}")
        judge = _judge(driver, given)
        graph, gone = prune(given.graph, given.shape, keep, judge)
        made = compiled(
            graph, CALIBRATION, {**program.meta, "shrunk": [*stages(program), gone]} if gone else dict(program.meta)
        )
        driver.load(made.program)
        driver.write_weights(made.masters)
        price = Price.of(made.program)
        pruned = _measured(driver, given)
        say(f"pruned: {pruned['accuracy']:.1%}, {price.cycles:,} cycles")
        steps = 0
        if request.epochs:
            policy = TrainPolicy(epochs=request.epochs, lr=given.lr, schedule="linear", seed=given.seed)
            train(driver, feedback.x, feedback.targets, policy, on_step=on_step)
            driver.replace_program(made.program)
            steps = request.epochs * -(-len(feedback.x) // made.program.step_samples)
        after = _measured(driver, given)
        snapshot = driver.snapshot()
    report = {
        "to": request.to,
        "by": request.by,
        "measure": request.measure,
        "bits": dict(request.bits),
        "format_before": program.declaration.short,
        "format": declaration.short,
        "clock": request.clock,
        "samples": len(feedback.x),
        "epochs": request.epochs,
        "steps": steps,
        "lr": given.lr,
        "channels": {name: [count, keep[name]] for name, count in counts.items()},
        "before": {**before, **now.to_json(request.clock)},
        "pruned": pruned,
        "after": {**after, **price.to_json(request.clock)},
    }
    return Shrunk(program=made.program, snapshot=snapshot, gone=gone, report=report)


def _judge(driver: Driver, given: Shrinking) -> Callable[[Dependencies], Criterion]:
    """The request's criterion. Zeros are counted in the driver's device, which holds the student."""
    x = given.feedback.x[-LOOKED_AT:]
    match given.request.by:
        case "l1":
            return WeightSum
        case "random":
            return lambda books: Chance(books, given.seed)
        case "apoz":
            counted = zeros(driver, given.graph, x)
            return lambda books: Zeros(books, counted)
    return lambda books: ThiNet(books, x, given.seed)


def _measured(driver: Driver, given: Shrinking) -> dict[str, float | None]:
    """accuracy: in the scene, over the whole test set; agreement: with what the store holds out."""
    return {
        "accuracy": accuracy(driver, given.x_test, given.y_test),
        "agreement": given.feedback.agreement(driver),
    }


def _keep(folder: Path, online: OnlineRun, kept: Checkpoint, program: Program, found: Shrunk) -> None:
    """Have the run go on with what was found, and keep the way back."""
    replace(kept, program=program).save(next_backup(folder))
    notes = {**kept.notes, "shrunk": [*kept.notes.get("shrunk", []), found.report]}
    # The guard begins anew: losses and first weights of another student say nothing of this one.
    guard = {**kept.guard, "steps": 0, "losses": [], "saturated": [], "reference_loss": None}
    progress = {**kept.progress, "steps": kept.progress["steps"] + found.report["steps"]}
    install(
        folder,
        Checkpoint(
            identity=kept.identity,
            training=found.snapshot,
            served=found.snapshot,
            first=found.snapshot,
            progress=progress,
            guard=guard,
            notes=notes,
            program=found.program,
        ),
    )
