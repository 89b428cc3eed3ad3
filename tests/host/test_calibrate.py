"""Ranges that exponents start from: of the tensors as the device will hold them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from insitu.host.compiler.calibrate import Ranges, measure
from insitu.host.compiler.trace import trace

SHAPE, COUNT, CLASSES = (2, 6, 6), 8, 3
X = np.random.default_rng(0).uniform(-1, 1, (COUNT, *SHAPE)).astype(np.float32)
TARGETS = np.eye(CLASSES, dtype=np.float32)[np.arange(COUNT) % CLASSES]


def layers() -> tuple[nn.Conv2d, nn.Linear]:
    torch.manual_seed(0)
    convolution, linear = nn.Conv2d(2, 4, 3), nn.Linear(16, CLASSES)
    assert convolution.bias is not None
    nn.init.constant_(convolution.bias, -0.5)  # so that ReLU leaves little
    return convolution, linear


def ranges(*middle: nn.Module, batch: int = COUNT) -> Ranges:
    convolution, linear = layers()
    return measure(trace(nn.Sequential(convolution, *middle, nn.Flatten(), linear), SHAPE), X, TARGETS, batch)


def by_hand(*middle: nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The convolution's output, what the Linear takes, the logits; with gradients of the summed loss."""
    convolution, linear = layers()
    y = convolution(torch.from_numpy(X))
    given = nn.Sequential(*middle, nn.Flatten())(y)
    logits = linear(given)
    for tensor in (y, given, logits):
        tensor.retain_grad()
    (-(torch.from_numpy(TARGETS) * F.log_softmax(logits, 1)).sum()).backward()
    return y, given, logits


def largest(tensor: torch.Tensor | None) -> float:
    assert tensor is not None
    return float(tensor.detach().abs().max())


def test_errors_of_a_pooled_layer_are_those_of_the_pool() -> None:
    # On the device the pool's error is narrowed before the ReLU's mask, which UNPOOL has.
    for middle in ((nn.MaxPool2d(2), nn.ReLU()), (nn.ReLU(), nn.MaxPool2d(2))):
        y, given, logits = by_hand(*middle)
        found = ranges(*middle)
        assert found.error["0"] == pytest.approx(largest(given.grad), rel=1e-5)
        assert found.error["4" if len(middle) == 2 else "3"] == pytest.approx(largest(logits.grad), rel=1e-5)
        assert found.activation["0"] == pytest.approx(float(y.max().detach()), rel=1e-5)
        assert found.error["0"] > largest(y.grad) * 1.001  # what the mask takes away is seen too


def test_errors_of_a_layer_without_a_pool_are_masked() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.ReLU(), nn.Linear(5, CLASSES))
    y = module[1](module[0](torch.from_numpy(X)))
    y.retain_grad()
    (-(torch.from_numpy(TARGETS) * F.log_softmax(module[3](module[2](y)), 1)).sum()).backward()
    for relu in (nn.ReLU(), nn.ReLU(inplace=True)):
        module[2] = relu
        found = measure(trace(module, SHAPE), X, TARGETS, COUNT)
        assert found.error["1"] == pytest.approx(largest(y.grad), rel=1e-5)
        assert found.activation["1"] == pytest.approx(float(y.max().detach()), rel=1e-5)


def test_gradients_are_of_a_batch() -> None:
    convolution, linear = layers()
    module = nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), linear)
    (-(torch.from_numpy(TARGETS) * F.log_softmax(module(torch.from_numpy(X)), 1)).sum()).backward()
    found, twice = ranges(nn.ReLU(), nn.MaxPool2d(2)), ranges(nn.ReLU(), nn.MaxPool2d(2), batch=2 * COUNT)
    for name, layer in (("0", convolution), ("4", linear)):
        assert found.gradient[name] == pytest.approx(largest(layer.weight.grad), rel=1e-5)
        assert layer.bias is not None
        assert found.bias[name] == pytest.approx(largest(layer.bias.grad), rel=1e-5)
        assert twice.gradient[name] == pytest.approx(2 * found.gradient[name], rel=1e-5)
        assert twice.bias[name] == pytest.approx(2 * found.bias[name], rel=1e-5)
