"""`insitu train`: whole passes of a data set on the emulated device."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from insitu.host.cli.common import (
    Batch,
    Core,
    Exponents,
    Format,
    Json,
    MicroBatches,
    Model,
    Momentum,
    Root,
    Seed,
    WeightDecay,
    check_writable,
    console,
    counting,
    declared,
    emit,
    writing,
)
from insitu.host.errors import HostError


def train(
    model: Model = "mlp:784-100-50-10",
    data: Annotated[str, typer.Option(help="Data set: digits, mnist, or a folder's name.")] = "mnist",
    format: Format = "w8a8e8g8",  # the option's name
    exponents: Exponents = "delayed",
    core: Core = "edge16",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 1,
    batch: Batch = 64,
    lr: Annotated[float, typer.Option(help="Learning rate at the start, of the mean loss.")] = 0.5,
    schedule: Annotated[str, typer.Option(help="constant, linear, cosine or step.")] = "linear",
    momentum: Momentum = 0.0,
    weight_decay: WeightDecay = 0.0,
    micro_batches: MicroBatches = 1,
    seed: Seed = 0,
    float_: Annotated[bool, typer.Option("--float", help="Train the float32 twin beside it.")] = False,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Saturation, underflow, stalls and range of each tensor.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Write the program here, its weights beside it (.npz).")] = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Train a student from scratch in fixed point and test it on the whole test set.

    Example: `insitu train --model mlp:784-100-50-10 --data mnist --format w8a8e8g8 --epochs 1 --float`
    """
    from insitu.arch.optimizer import Optimizer
    from insitu.arch.params import CoreParams
    from insitu.host.compiler.compile import compile_module
    from insitu.host.device import open_device
    from insitu.host.train import TrainPolicy, accuracy, statistics_by_tensor
    from insitu.host.train import train as run
    from insitu.models import datasets, labels, students

    if save is not None:
        if save.suffix == ".npz":
            raise HostError(f"save {str(save)!r}: its weights go to that name; call the program {save.stem}.insitu")
        for path in (save, save.with_suffix(".npz")):
            check_writable(path)
    policy = TrainPolicy(epochs=epochs, lr=lr, schedule=schedule, seed=seed)  # type: ignore[arg-type]  # checked there
    optimizer = Optimizer(momentum=momentum, weight_decay=weight_decay, micro_batches=micro_batches)
    declaration = declared(format, exponents, optimizer)
    params = CoreParams.parse(core).with_declaration(declaration)
    dataset = datasets.load(data, root)
    student = students.build(model, in_shape=dataset.in_shape, classes=dataset.classes, seed=seed)
    targets = labels.one_hot(dataset.y_train, dataset.classes)
    compiled = compile_module(
        student,
        core=params,
        declaration=declaration,
        batch=batch,
        calibration=dataset.x_train[:256],
        targets=targets[:256],
        learning_rate=lr,
        **optimizer.to_json(),
        sample_range=1.0,
        meta={"model": model, "data": data},
    )
    screen = console(json)
    by_epoch: list[float] = []
    begun = time.monotonic()
    with (
        open_device(params, statistics=statistics) as driver,
        counting(screen) as progress,
    ):
        driver.load(compiled.program)
        driver.write_weights(compiled.masters)
        driver.clear_counters()
        task = progress.add_task(f"{model} {declaration.short}")
        cycles = 0

        def on_epoch(_: int) -> None:
            nonlocal cycles
            # Testing is not training: its cycles are left out.
            cycles += driver.counters.cycles
            by_epoch.append(accuracy(driver, dataset.x_test, dataset.y_test))
            driver.clear_counters()

        run(
            driver,
            dataset.x_train,
            targets,
            policy,
            on_step=lambda done, of: progress.update(task, completed=done, total=of),
            on_epoch=on_epoch,
        )
        by_tensor = statistics_by_tensor(compiled.program, driver.device) if statistics else {}
        if save is not None:
            # The larger one first: where the disk is full, neither is written.
            with writing(save.with_suffix(".npz")):
                driver.snapshot().save(save.with_suffix(".npz"))
            with writing(save):
                compiled.program.save(save)
    result: dict[str, Any] = {
        "model": model,
        "data": data,
        "format": declaration.short,
        "core": params.to_json(),
        "policy": asdict(policy),
        "batch": batch,
        "optimizer": optimizer.to_json(),
        "test_accuracy": by_epoch[-1],
        "accuracy_by_epoch": by_epoch,
        "cycles": cycles,
        "seconds": time.monotonic() - begun,
    }
    if statistics:
        result["statistics"] = by_tensor
    if float_:
        result["float_test_accuracy"] = _float_twin(model, dataset, policy, batch, optimizer)
    if json:
        emit(result)
        return
    table = Table("", "fixed point", *(["float32"] if float_ else []))
    twin = [f"{result['float_test_accuracy']:.2%}"] if float_ else []
    table.add_row(f"test accuracy, {len(dataset.y_test):,} images", f"{by_epoch[-1]:.2%}", *twin)
    table.add_row("device cycles", f"{cycles:,}", *([""] if float_ else []))
    screen.print(table)
    if statistics:
        screen.print(_statistics_table(by_tensor))


def _float_twin(model: str, dataset: Any, policy: Any, batch: int, optimizer: Any) -> float:
    from insitu.models import students, training

    twin = students.build(model, in_shape=dataset.in_shape, classes=dataset.classes, seed=policy.seed)
    training.train(
        twin,
        dataset.x_train,
        dataset.y_train,
        epochs=policy.epochs,
        batch=batch,
        lr=policy.lr,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
        schedule=policy.schedule,
        seed=policy.seed,
    )
    return training.accuracy(twin, dataset.x_test, dataset.y_test)


def _statistics_table(by_tensor: dict[str, dict[str, float]]) -> Table:
    table = Table("tensor", "written", "saturated", "underflowed", "updates stalled", "largest")
    for name, s in by_tensor.items():
        shares = (f"{s[f'{k}_share']:.2%}" for k in ("saturated", "underflowed", "stalled"))
        table.add_row(name, f"{s['elements']:,}", *shares, f"{s['largest']:.3g}")
    return table
