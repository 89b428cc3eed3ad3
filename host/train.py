"""Training a student on a device over whole passes of a data set."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.program import Program
from insitu.host.compiler.rate import with_learning_rate
from insitu.host.device.driver import Driver
from insitu.host.errors import HostError
from insitu.models.schedules import SCHEDULES, Schedule

#: Training steps between two changes of the learning rate, at most: each is a new set of instruction words.
RATE_STEPS = 8
#: Changes of it in a run that has as many steps; in a shorter one it changes with each.
RATE_CHANGES = 32


@dataclass(frozen=True, kw_only=True)
class TrainPolicy:
    """How long and how fast.

    epochs: passes over the data. lr: learning rate of the mean loss over a batch, before the schedule (of
    models/schedules.py), which acts in equal stairs of up to RATE_STEPS steps, of which there are at least RATE_CHANGES
    or one a step. seed: of the order of samples and of stochastic rounding.
    """

    epochs: int = 1
    lr: float = 0.5
    schedule: Schedule = "linear"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise HostError(f"epochs is {self.epochs}: must be at least 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise HostError(f"lr is {self.lr}: must be finite and above 0")
        if self.schedule not in SCHEDULES:
            raise HostError(f"schedule is {self.schedule!r}: allowed are {', '.join(SCHEDULES)}")
        if self.seed < 0:
            raise HostError(f"seed is {self.seed}: must be at least 0")

    def rate(self, done: float) -> float:
        """The learning rate when a share `done` of all steps, 0 to 1, is over."""
        return self.lr * SCHEDULES[self.schedule](done)


def train(
    driver: Driver,
    x: npt.NDArray[np.float32],
    targets: npt.NDArray[np.float32],
    policy: TrainPolicy,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[int], None] | None = None,
    program_at: Callable[[float], Program] | None = None,
) -> None:
    """Train on samples x [n, ...] with target distributions [n, classes], in a new order each epoch, every sample once
    an epoch. The student's weights are in the device and stay there. `on_step(done, of)`, `on_epoch(epoch)`;
    `program_at(done)` is the program when a share `done` of all steps is over, the policy's learning rate in it unless
    given."""
    program: Program = driver.program
    samples, wanted = driver.quantise("sample", x), driver.quantise("target", targets)
    batch = program.step_samples
    per_epoch = -(-len(samples) // batch)
    total, step = per_epoch * policy.epochs, 0
    at = program_at or (lambda done: with_learning_rate(program, policy.rate(done)))
    stair = stair_of(total)
    driver.seed = policy.seed + 1
    rng = np.random.default_rng(policy.seed)
    for epoch in range(policy.epochs):
        order = rng.permutation(len(samples))
        for first in range(0, len(samples), batch):
            if step % stair == 0 and (step == 0 or policy.schedule != "constant"):
                driver.replace_program(at(step / total))
            rows = order[first : first + batch]
            driver.train(samples[rows], wanted[rows])
            step += 1
            if on_step is not None:
                on_step(step, total)
        if on_epoch is not None:
            on_epoch(epoch)


def stair_of(total: int) -> int:
    """Steps that the learning rate stays at, of `total`."""
    return max(1, min(RATE_STEPS, total // RATE_CHANGES))


def accuracy(driver: Driver, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> float:
    """Share of samples x [n, ...] whose largest logit on the device is at y [n], 0 to 1."""
    return float((driver.infer(x).argmax(axis=1) == y).mean())


def statistics_by_tensor(program: Program, device: Any) -> dict[str, dict[str, float]]:
    """The emulator's statistics by tensor name; a weight's are those of its gradient.

    Only what passes narrow has some: samples, targets and what pools move have none. They are kept by place: tensors
    that share one have them together, under all their names.
    """
    narrowed = {m for i in program.entry("train") if i.width for m in (i.d, i.velocities)}
    names: dict[Any, list[str]] = {}
    for name, tensor in program.tensors.items():
        if tensor.matrix in narrowed and name != "target":
            names.setdefault((tensor.matrix.memory, tensor.matrix.base), []).append(name)
    matrices = {name: tensor.matrix for name, tensor in program.tensors.items()}
    return {" + ".join(group): device.statistics.of(matrices[group[0]]).to_json() for group in names.values()}
