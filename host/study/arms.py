"""The arms of a study: one student trained once, on the emulated device or as what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from insitu.arch.isa import UPDATES
from insitu.arch.program import Program
from insitu.host.compiler.compile import Calibration, Compiled, calibrate, compile_calibrated
from insitu.host.device import open_device
from insitu.host.study.presets import PRESETS, Preset
from insitu.host.study.published import published
from insitu.host.study.setting import Setting
from insitu.host.train import TrainPolicy, accuracy, statistics_by_tensor, train
from insitu.models import labels, students, training
from insitu.models.datasets import Dataset
from insitu.models.errors import DivergedError
from insitu.sim import cycles
from insitu.sim.rules import Rules

Run = dict[str, Any]
#: Training samples that exponents are calibrated on.
CALIBRATION = 256
#: Training steps of a run that statistics are taken of: each takes as long as a dozen others.
STATISTICS_STEPS = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """A data set without the training images held out, and these: x_held [n, 1, H, W], y_held [n]; none are n = 0."""

    dataset: Dataset
    x_held: npt.NDArray[np.float32]
    y_held: npt.NDArray[np.int64]


def build(student: str, dataset: Dataset, folder: str, seed: int) -> nn.Module:
    """A student with the initial weights of a seed; a file's path begins in `folder`. Raises StudentError."""
    spec = students.anchored(student, folder)
    return students.build(spec, in_shape=dataset.in_shape, classes=dataset.classes, seed=seed)


def compiled(setting: Setting, dataset: Dataset, folder: str, seed: int) -> Compiled:
    """The student for the setting's core, as its preset has it. Raises CompileError."""
    assert setting.core is not None
    assert setting.declaration is not None
    found = compile_calibrated(
        _calibrated(setting.student, setting.batch, dataset, folder, seed),
        core=setting.core,
        declaration=setting.declaration,
        learning_rate=setting.lr,
    )
    return published(found, PRESETS[setting.preset]) if setting.preset else found


# Most points of a study differ in formats alone: a student of some seed is measured once.
@lru_cache(maxsize=16)
def _calibrated(student: str, batch: int, dataset: Dataset, folder: str, seed: int) -> Calibration:
    return calibrate(
        build(student, dataset, folder, seed),
        batch=batch,
        calibration=dataset.x_train[:CALIBRATION],
        targets=labels.one_hot(dataset.y_train[:CALIBRATION], dataset.classes),
        sample_range=1.0,
    )


def policy(setting: Setting, seed: int) -> TrainPolicy:
    """How long and how fast."""
    schedule: Any = setting.schedule
    return TrainPolicy(epochs=setting.epochs, lr=setting.lr, schedule=schedule, seed=seed)


def insitu(setting: Setting, data: Data, folder: str, seed: int) -> Run:
    """The student on the emulated device: accuracy after each epoch (of the test images, and `held_out`), cycles of
    the training alone, saturated fits, and statistics by tensor of a share of the steps."""
    dataset, preset = data.dataset, PRESETS.get(setting.preset or "")
    made = compiled(setting, dataset, folder, seed)
    assert setting.core is not None
    step = cycles.report(made.program, "train")
    rules = preset.rules if preset else Rules()
    found: Run = {"seed": seed, "accuracy": [], "held_out": [], "cycles": 0, "saturated": 0, "overflow": False}
    per_epoch = -(-len(dataset.y_train) // setting.batch)
    steps = per_epoch * setting.epochs
    every = max(1, steps // STATISTICS_STEPS)
    with open_device(setting.core, statistics=True, rules=rules) as driver:
        device: Any = driver.device
        driver.load(made.program)
        driver.write_weights(made.masters)
        driver.clear_counters()

        def on_step(done: int, _: int) -> None:
            device.collect((done + 1) % every == 0)

        def on_epoch(epoch: int) -> None:
            counters = driver.counters
            found["cycles"] += counters.cycles
            found["saturated"] += counters.saturated
            found["overflow"] |= counters.accumulator_overflow
            device.collect(False)
            found["accuracy"].append(accuracy(driver, dataset.x_test, dataset.y_test))
            if len(data.y_held):
                found["held_out"].append(accuracy(driver, data.x_held, data.y_held))
            driver.clear_counters()
            on_step((epoch + 1) * per_epoch, steps)

        on_step(0, steps)
        targets = labels.one_hot(dataset.y_train, dataset.classes)
        normalised = _normalised(made.program, preset) if preset and preset.magnitudes else None
        train(driver, dataset.x_train, targets, policy(setting, seed), on_step, on_epoch, normalised)
        found["statistics"] = statistics_by_tensor(made.program, device)
    return found | {"cycles_per_step": step.cycles, "busy": step.busy}


def _normalised(program: Program, preset: Preset) -> Any:
    """The program by the share of the run that is over, its updates' bits as the preset says (sim/rules.py)."""

    def at(done: float) -> Program:
        words = tuple(
            replace(i, lr_mul=1, lr_shift=i.width - 1 - preset.bits(done)) if i.opcode in UPDATES else i
            for i in program.instructions
        )
        return replace(program, instructions=words)

    return at


def float32(setting: Setting, data: Data, folder: str, seed: int) -> Run:
    """The student in PyTorch's float32, at the same rate and schedule."""
    return trained(build(setting.student, data.dataset, folder, seed), setting, data, seed)


def qpytorch(setting: Setting, data: Data, folder: str, seed: int) -> Run:
    """The student under QPyTorch's fake quantisation at the setting's widths."""
    from insitu.host.study import fake

    return fake.run(setting, data, folder, seed)


def trained(module: nn.Module, setting: Setting, data: Data, seed: int) -> Run:
    """Train a module in PyTorch, accuracy after each epoch; one that diverges ends there."""
    dataset = data.dataset
    found: Run = {"seed": seed, "accuracy": [], "held_out": []}

    def on_epoch(*_: Any) -> None:
        found["accuracy"].append(training.accuracy(module, dataset.x_test, dataset.y_test))
        if len(data.y_held):
            found["held_out"].append(training.accuracy(module, data.x_held, data.y_held))

    try:
        training.train(
            module,
            dataset.x_train,
            dataset.y_train,
            epochs=setting.epochs,
            batch=setting.batch,
            lr=setting.lr,
            schedule=setting.schedule,
            seed=seed,
            on_epoch=on_epoch,
        )
    except DivergedError as error:
        on_epoch()
        found["diverged"] = str(error)
    return found
