"""Students with parts of the vector unit in fixed point beside torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from tests.host import gradients

CORE = replace(gradients.CORE, tab_depth=4096)


class Made(nn.Module):
    """Two convolutions, what is made of them, a Linear over its map."""

    def __init__(self, how: Callable[[Any, torch.Tensor], torch.Tensor], features: int, **parts: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 5, 3, padding=1)
        for name, part in parts.items():
            self.add_module(name, part)
        self.fc, self._how = nn.Linear(features, gradients.CLASSES), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self._how(self, self.first(x)).flatten(1))


#: Features of the map [5, 6, 5] that the first convolution gives.
WHOLE = 150


def depthwise(kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(5, 5, kernel, groups=5, **options)


def squeezed(m: Any, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(x)
    gate = F.hardsigmoid(m.expand(F.relu(m.reduce(x.mean((2, 3), keepdim=True)))))
    return m.second(x * gate)


Student = Callable[[], nn.Module]
EXACT: dict[str, Student] = {
    "depthwise": lambda: Made(lambda m, x: m.deep(F.relu(x)).relu(), WHOLE, deep=depthwise(padding=1)),
    "depthwise, stride 2": lambda: Made(
        lambda m, x: m.second(m.deep(x.relu()).relu()), 45, deep=depthwise(stride=2, padding=1)
    ),
    "depthwise 5 x 5, no bias": lambda: Made(
        lambda m, x: m.second(m.deep(x)), WHOLE, deep=depthwise(kernel=5, padding=2, bias=False)
    ),
    "depthwise of one tap, padded": lambda: Made(
        lambda m, x: m.deep(x), 5 * 8 * 7, deep=depthwise(kernel=1, padding=1)
    ),
    "mean": lambda: Made(lambda m, x: m.second(F.avg_pool2d(x.relu(), 2)), 30),
    "mean 3 x 3, padded": lambda: Made(lambda m, x: m.second(F.avg_pool2d(x.relu(), 3, 2, 1)), 45),
    "mean, then ReLU": lambda: Made(lambda m, x: m.second(F.avg_pool2d(x, 2).relu()), 30),
    "mean of all": lambda: Made(lambda m, x: F.adaptive_avg_pool2d(m.second(x.relu()), 1), 5),
    "mean by dimensions": lambda: Made(lambda m, x: m.second(x.relu()).mean((2, 3)), 5),
    "residual": lambda: Made(lambda m, x: x.relu() + m.second(x.relu()), WHOLE),
    "residual, then ReLU": lambda: Made(lambda m, x: F.relu(x + m.second(F.relu(x))), WHOLE),
    "residual of a pool": lambda: Made(lambda m, x: (y := F.max_pool2d(x, 2).relu()) + m.second(y), 30),
    "three ways": lambda: Made(
        lambda m, x: (y := x.relu()) + m.second(y) + m.deep(y), WHOLE, deep=depthwise(padding=1)
    ),
    "twice itself": lambda: Made(lambda m, x: m.second(x + x), WHOLE),
    "ReLU of what is read again": lambda: Made(lambda m, x: x + m.second(F.relu(x)), WHOLE),
    "product": lambda: Made(lambda m, x: x * m.second(x.relu()), WHOLE),
    "square": lambda: Made(lambda m, x: m.second(x * x), WHOLE),
    "sample and its layer": lambda: Both(),
}


class Both(nn.Module):
    """The sample itself is added to what a layer makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.fc = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(112, gradients.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((x + self.c(x)).flatten(1))


LOOKED_UP: dict[str, Student] = {
    "squeeze and excitation": lambda: Made(squeezed, WHOLE, reduce=nn.Conv2d(5, 3, 1), expand=nn.Conv2d(3, 5, 1)),
    **{
        name: lambda f=function: Made(lambda m, x: m.second(f(x)), WHOLE)  # type: ignore[misc]
        for name, function in {
            "ReLU6": F.relu6,
            "hard-swish": F.hardswish,
            "hard-sigmoid": F.hardsigmoid,
            "sigmoid": torch.sigmoid,
            "tanh": torch.tanh,
            "SiLU": F.silu,
        }.items()
    },
    "table of a pool": lambda: Made(lambda m, x: m.second(torch.tanh(F.max_pool2d(x, 2))), 30),
    "table of a sum": lambda: Made(lambda m, x: torch.tanh(x + m.second(x.relu())), WHOLE),
}


@pytest.mark.parametrize("n", [4, 16])
@pytest.mark.parametrize("name", EXACT)
def test_logits_and_steps_are_torchs(name: str, n: int) -> None:
    torch.manual_seed(3)  # no value so near zero that rounding takes a ReLU the other way
    gradients.check(EXACT[name]().eval(), replace(CORE, n=n))


@pytest.mark.parametrize("name", LOOKED_UP)
def test_tables_are_torchs_to_their_step(name: str) -> None:
    torch.manual_seed(3)  # no value so near zero that rounding takes a ReLU the other way
    gradients.check(LOOKED_UP[name]().eval(), CORE, tolerance=4)
