"""Convolutional students in fixed point beside torch: logits, and every weight's step, at sixteen bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from insitu.arch.declaration import Declaration
from insitu.arch.params import CoreParams
from insitu.host.compiler.compile import compile_module
from insitu.host.device import open_device
from insitu.host.train import TrainPolicy, accuracy, train
from insitu.models.convolutional import lenet
from insitu.models.datasets import load
from insitu.models.labels import one_hot
from tests.host import gradients
from tests.host.gradients import CLASSES, CORE, SHAPE, compiled, samples


def norm(channels: int) -> nn.BatchNorm2d:
    """A BatchNorm2d that has seen something."""
    made = nn.BatchNorm2d(channels)
    nn.init.uniform_(made.weight, 0.5, 2)
    nn.init.uniform_(made.bias, -0.3, 0.3)
    assert made.running_mean is not None
    assert made.running_var is not None
    made.running_mean.uniform_(-0.3, 0.3)
    made.running_var.uniform_(0.5, 2)
    return made


def head(*layers: nn.Module) -> nn.Sequential:
    """Layers, then a Linear over whatever map they leave."""
    with torch.no_grad():
        features = nn.Sequential(*layers).eval()(torch.zeros(1, *SHAPE)).numel()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, CLASSES))


#: Each has the layer it is named for above another, so that errors go back through it.
STUDENTS: dict[str, Any] = {
    "stride 1": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 3)),
    "stride 2": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 3, stride=2), nn.ReLU()),
    "padded": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 3, padding=1), nn.ReLU()),
    "padded, stride 2": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 5, padding=2, stride=2), nn.ReLU()),
    "rectangular": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, (2, 3), padding=(0, 1)), nn.ReLU()),
    "one tap": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 1), nn.ReLU()),
    "one tap, padded": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 1, padding=1, bias=False), nn.ReLU()),
    "one tap, stride 2": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 1, stride=2), nn.ReLU()),
    "same": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, (3, 1), padding="same"), nn.ReLU()),
    "no bias": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 3, bias=False), nn.ReLU()),
    "relu, pool": lambda c: head(c, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, 2), nn.ReLU(), nn.MaxPool2d((2, 1))),
    "pool, relu": lambda c: head(c, nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(5, 6, 2), nn.MaxPool2d((2, 1)), nn.ReLU()),
    "pool alone": lambda c: head(c, nn.MaxPool2d((2, 1)), nn.Conv2d(5, 6, 2), nn.ReLU()),
    "pool of a pool": lambda c: head(c, nn.ReLU(), nn.MaxPool2d(2), nn.MaxPool2d((1, 2)), nn.Conv2d(5, 6, 1)),
    "ceil": lambda c: head(c, nn.ReLU(), nn.MaxPool2d(3, ceil_mode=True), nn.Conv2d(5, 6, 2)),
    "folded": lambda c: head(c, norm(5), nn.ReLU(), nn.Conv2d(5, 6, 3, bias=False), norm(6), nn.ReLU()),
    "pooled sample": lambda c: head(nn.MaxPool2d(2), c, nn.ReLU()),
    "deep head": lambda c: nn.Sequential(*head(c, nn.ReLU())[:-1], nn.Linear(5 * 6 * 5, 9), nn.ReLU(), nn.Linear(9, 3)),
}


def student(name: str) -> nn.Sequential:
    """A student of STUDENTS in evaluation mode, above a 3 x 3 convolution."""
    # Seeds with no value so near zero, and no two so near one another, that rounding them takes a ReLU or a pool the
    # other way.
    torch.manual_seed(100 + len(name))
    return STUDENTS[name](nn.Conv2d(2, 5, 3)).eval()


@pytest.mark.parametrize("n", [4, 16])
@pytest.mark.parametrize("name", STUDENTS)
def test_logits_and_steps_are_torchs(name: str, n: int) -> None:
    gradients.check(student(name), replace(CORE, n=n))


@pytest.mark.parametrize("exponents", ["delayed", "exact"])
def test_exponents_that_move(exponents: Any) -> None:
    module = student("relu, pool")
    declaration = Declaration.parse("w8a8e8g8", exponent=exponents)
    core = CORE.with_declaration(declaration)
    made = compiled(module, core=core, declaration=declaration)
    x, targets = samples()
    with open_device(core) as driver:
        driver.load(made.program)
        driver.write_weights(made.masters)
        losses = []
        for _ in range(30):
            z = torch.from_numpy(driver.train(x, targets))
            losses.append(float(-(torch.from_numpy(targets) * F.log_softmax(z, 1)).sum(1).mean()))
    assert losses[-1] < 0.5 * losses[0]


def test_a_batch_may_be_short() -> None:
    made = compiled(student("padded"))
    x, targets = samples()
    with open_device(CORE) as driver:
        driver.load(made.program)
        driver.write_weights(made.masters)
        whole = driver.infer(x)
        np.testing.assert_array_equal(driver.infer(x[:1]), whole[:1])
        np.testing.assert_array_equal(driver.train(x[:2], targets[:2]), whole[:2])


def test_lenet_learns_digits() -> None:
    torch.set_num_threads(1)
    dataset = load("digits")
    x, test = (np.kron(part, np.ones((2, 2), np.float32)) for part in (dataset.x_train, dataset.x_test))
    torch.manual_seed(0)
    module = lenet((1, 16, 16), 10)
    core = CoreParams(n=8, act_depth=32768, err_depth=16384, wgt_depth=16384)
    declaration = Declaration.parse("w8a8e8g8")
    targets = one_hot(dataset.y_train, 10)
    made = compile_module(
        module,
        core=core,
        declaration=declaration,
        batch=32,
        calibration=x[:128],
        targets=targets[:128],
        sample_range=1.0,
    )
    with open_device(core) as driver:
        driver.load(made.program)
        driver.write_weights(made.masters)
        before = accuracy(driver, test, dataset.y_test)
        train(driver, x, targets, TrainPolicy(epochs=6, lr=0.2))
        after = accuracy(driver, test, dataset.y_test)
    assert before < 0.3
    assert after > 0.8  # in float32 0.88
