"""A small online scene: a student of clean digits meets turned ones; the teacher is a table of nearly true labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from insitu.arch.declaration import Declaration
from insitu.arch.params import CoreParams
from insitu.host.compiler.compile import Compiled, compile_module
from insitu.host.device import Driver
from insitu.host.online.scene import LAB, Scene
from insitu.models import training
from insitu.models.datasets import load
from insitu.models.labels import one_hot, smooth
from insitu.models.shifts import Shift
from insitu.models.students import mlp

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

CORE = CoreParams(n=8, act_depth=512, err_depth=256, wgt_depth=512)
SHAPE, CLASSES, BATCH = (1, 8, 8), 10, 16


@cache
def scene() -> Scene:
    """Digits turned by 45 degrees, and a student that a few epochs of upright ones made."""
    torch.set_num_threads(1)  # small networks only lose time to more
    dataset, shift = load("digits"), Shift.parse("rotate:3")
    student = mlp([64, 24, CLASSES], seed=0)
    training.train(student, dataset.x_train, dataset.y_train, epochs=6, seed=0, **LAB)
    return Scene(
        dataset=dataset,
        shift=shift,
        student=student,
        teacher=nn.Identity(),
        x_test=shift.apply(dataset.x_test, seed=7),
        y_test=dataset.y_test,
        seed=0,
    )


@cache
def compiled() -> Compiled:
    """The scene's student for CORE, calibrated on what its maker had."""
    dataset = scene().dataset
    return compile_module(
        scene().student,
        core=CORE,
        declaration=Declaration.parse("w8a8e8g8"),
        batch=BATCH,
        calibration=dataset.x_train[:256],
        targets=one_hot(dataset.y_train[:256], CLASSES),
        learning_rate=0.1,
    )


@dataclass
class Table:
    """A stream that remembers its labels, and the teacher who knows them: `teach` is right on all that came."""

    known: dict[bytes, int] = field(default_factory=dict)
    asked: int = 0

    def stream(self, first: int, count: int) -> tuple[Images, Labels]:
        x, y = scene().stream(first, count)
        self.known |= {one.tobytes(): int(label) for one, label in zip(x, y, strict=True)}
        return x, y

    def pictured(self, positions: Labels) -> npt.NDArray[np.uint64]:
        return scene().pictured(positions)

    def teach(self, x: Images) -> Images:
        self.asked += len(x)
        return smooth(np.array([self.known[one.tobytes()] for one in x]), CLASSES, 0.1)


def accuracy(driver: Driver) -> float:
    """Share of the scene's test set that the device answers rightly."""
    return float((driver.infer(scene().x_test).argmax(axis=1) == scene().y_test).mean())
