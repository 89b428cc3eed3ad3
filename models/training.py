"""Float32 training: teachers, a student's schooling in the laboratory, and the baselines a device is held against."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from insitu.models.errors import DivergedError, InvalidInputError
from insitu.models.schedules import SCHEDULES

OPTIMIZERS = ("sgd", "adam")


def train(
    module: nn.Module,
    x: NDArray[np.float32],
    targets: NDArray[Any],
    *,
    epochs: int,
    batch: int,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    seed: int,
    schedule: str = "constant",
    optimizer: str = "sgd",
    on_epoch: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train `module` in place with cross-entropy on shuffled mini-batches.

    The result depends on the module, the data and the arguments alone: torch's global generator is put aside, seeded
    for the modules that draw from it (dropout), and given back as it was.

    Args:
        module: maps float32 [b, *image] to logits [b, classes]; on the CPU.
        x: float32 [n, *image].
        targets: int64 [n] class numbers, or float32 [n, classes] distributions.
        epochs: passes over the data, 0 or more; the last mini-batch of a pass may be smaller.
        lr: the rate before `schedule` (of models/schedules.py), which acts at every step.
        optimizer: "sgd" or "adam" (which has no use for `momentum`).
        on_epoch: called with (epoch from 0, mean loss) after each pass.

    Returns:
        The mean loss of every pass.

    Raises:
        InvalidInputError: an argument out of range, or data of another shape or dtype.
        DivergedError: the mean loss of a pass is not finite.
    """
    inputs, wanted = _checked(x, targets)
    if epochs < 0 or batch < 1 or not 0 < lr < math.inf:
        raise InvalidInputError(f"epochs {epochs}, batch {batch}, lr {lr}; allowed: epochs >= 0, batch >= 1, lr > 0")
    if schedule not in SCHEDULES:
        raise InvalidInputError(f"schedule {schedule!r}; allowed are {', '.join(SCHEDULES)}")
    rule = _optimizer(module, optimizer, lr, momentum, weight_decay)
    total = epochs * math.ceil(len(inputs) / batch)
    rate = torch.optim.lr_scheduler.LambdaLR(rule, lambda step: SCHEDULES[schedule](min(step / max(total, 1), 1.0)))
    order = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    was_training = module.training
    module.train()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for epoch in range(epochs):
                summed = 0.0
                shuffled = torch.randperm(len(inputs), generator=order)
                for start in range(0, len(inputs), batch):
                    pick = shuffled[start : start + batch]
                    loss = nn.functional.cross_entropy(module(inputs[pick]), wanted[pick])
                    rule.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    rule.step()
                    rate.step()
                    summed += loss.item() * len(pick)
                losses.append(summed / len(inputs))
                if not math.isfinite(losses[-1]):
                    raise DivergedError(f"loss is {losses[-1]} in epoch {epoch + 1} of {epochs} at lr {lr}; lower lr")
                if on_epoch is not None:
                    on_epoch(epoch, losses[-1])
    finally:
        module.train(was_training)
    return losses


def logits(module: nn.Module, x: NDArray[np.float32], batch: int = 1024) -> NDArray[np.float32]:
    """The module's answers, float32 [n, classes], in evaluation mode, `batch` images at a time.

    Raises:
        InvalidInputError: no images, another dtype than float32, or a batch below 1.
    """
    if batch < 1 or x.dtype != np.float32 or len(x) == 0:
        raise InvalidInputError(
            f"{x.dtype} {list(x.shape)} in batches of {batch}; expected float32 [n >= 1, ...], >= 1"
        )
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            parts = [module(_tensor(x[i : i + batch])).numpy() for i in range(0, len(x), batch)]
    finally:
        module.train(was_training)
    return np.concatenate(parts)


def accuracy(module: nn.Module, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    """The share in [0, 1] of images whose largest logit is their label's."""
    if len(x) != len(y):
        raise InvalidInputError(f"{len(x)} images and {len(y)} labels; expected one label an image")
    return float((logits(module, x).argmax(axis=1) == y).mean())


def _optimizer(
    module: nn.Module, name: str, lr: float, momentum: float, weight_decay: float
) -> torch.optim.SGD | torch.optim.Adam:
    # Frozen parameters are left out, or weight decay would still move them.
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise InvalidInputError(f"{type(module).__name__} has nothing to train; expected a trainable parameter")
    if not 0 <= momentum < 1 or weight_decay < 0:
        raise InvalidInputError(f"momentum {momentum}, weight_decay {weight_decay}; allowed: [0, 1) and >= 0")
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay)
    if name == "adam" and momentum == 0:
        return torch.optim.Adam(parameters, lr, weight_decay=weight_decay)
    raise InvalidInputError(f"optimizer {name!r} with momentum {momentum}; allowed are sgd, and adam without momentum")


def _checked(x: NDArray[np.float32], targets: NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    hard = targets.dtype == np.int64 and targets.ndim == 1
    soft = targets.dtype == np.float32 and targets.ndim == 2
    if x.dtype != np.float32 or not (hard or soft) or len(x) != len(targets) or len(x) == 0:
        raise InvalidInputError(
            f"x {x.dtype} {list(x.shape)}, targets {targets.dtype} {list(targets.shape)}; "
            "expected float32 [n >= 1, ...] with int64 [n] or float32 [n, classes]"
        )
    return _tensor(x), _tensor(targets)


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    # torch shares memory where it can, and warns of arrays it could not write to.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
