"""Who learns: a student that takes training steps, and the float32 one that a device's is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import nn

from insitu.models.curricula.labels import Distributions
from insitu.models.curricula.numbers import softmax
from insitu.models.curricula.pool import Images, Logits, Pool
from insitu.models.curricula.stage import Trainable
from insitu.models.curricula.surgery import freeze, new_head, outputs
from insitu.models.training import logits

Gradient = Callable[[Logits], Distributions]
"""Logits [b, classes] to dL/dz [b, classes] of the loss summed over the mini-batch."""


class Learner(Protocol):
    """A student under training by mini-batches of a fixed size; smaller ones weigh less, by the samples they lack."""

    def begin(self, pool: Pool, trainable: Trainable, lr: float, seed: int, *, another: bool = False) -> None:
        """Get ready for a stage: a head of `pool.classes` outputs where there are others, new weights from `seed`, old
        classes keep theirs; all of it new where it is `another` task than before; what is trainable; the learning rate
        to begin with. `pool` shows what samples are like."""
        ...

    def set_rate(self, lr: float) -> None:
        """Learning rate of the mean loss over a batch, from the next step on."""
        ...

    def logits(self, x: Images) -> Logits:
        """Answers to samples [n, ...], float32 [n, classes]."""
        ...

    def step(self, x: Images, targets: Distributions) -> None:
        """A step along softmax(z) * sum(target) - target on b samples, at most a batch."""
        ...

    def step_with(self, x: Images, gradient: Gradient) -> None:
        """A step along a gradient that is worked out from the logits."""
        ...

    def cycles(self) -> int:
        """Clock cycles of all steps, and of the answers that they needed, since the last call; 0 without a clock."""
        ...


class FloatLearner:
    """The float32 twin: plain stochastic gradient descent in PyTorch, the module in evaluation mode as a device has it.

    Args:
        module: changed in place; maps float32 [b, *image] to logits.
        batch: samples that the mean loss is over.
    """

    def __init__(self, module: nn.Module, batch: int) -> None:
        self.module, self._batch, self._lr = module.eval(), batch, 0.0

    def begin(self, pool: Pool, trainable: Trainable, lr: float, seed: int, *, another: bool = False) -> None:
        if another or outputs(self.module) != pool.classes:
            new_head(self.module, pool.classes, seed, grown=not another)
        freeze(self.module, trainable)
        self._lr = lr

    def set_rate(self, lr: float) -> None:
        self._lr = lr

    def logits(self, x: Images) -> Logits:
        return logits(self.module, x)

    def step(self, x: Images, targets: Distributions) -> None:
        self.step_with(x, lambda z: softmax(z) * targets.sum(axis=1, keepdims=True) - targets)

    def step_with(self, x: Images, gradient: Gradient) -> None:
        z = self.module(torch.from_numpy(np.ascontiguousarray(x)))
        wanted = torch.from_numpy(np.ascontiguousarray(gradient(z.detach().numpy()), np.float32))
        moving = [p for p in self.module.parameters() if p.requires_grad]
        found = torch.autograd.grad(z, moving, grad_outputs=wanted)
        with torch.no_grad():
            for parameter, by in zip(moving, found, strict=True):
                parameter.sub_(by, alpha=self._lr / self._batch)

    def cycles(self) -> int:
        return 0
