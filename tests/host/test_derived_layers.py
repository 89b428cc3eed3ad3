"""Modules derived from torch's layers, as image models' libraries have them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from insitu.host.compiler.graph import Table
from insitu.host.compiler.trace import trace
from insitu.host.errors import CompileError

SHAPE = (2, 6, 6)


class NormAct(nn.BatchNorm2d):
    """A normalisation that asks for shapes, drops out and activates."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.ndim == 4
        return self.act(self.drop(super().forward(x)))


class Same(nn.Conv2d):
    """A convolution by another name."""


class Standardised(nn.Conv2d):
    """A convolution of other weights than its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def student(first: nn.Module, act: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(first, NormAct(3, act), nn.Flatten(), nn.Linear(48, 3))


@pytest.mark.parametrize("act", [nn.ReLU(), nn.Hardswish(), nn.Identity()])
def test_they_are_taken_apart(act: nn.Module) -> None:
    module = student(Same(2, 3, 3), act)
    norm = module[1]
    nn.init.uniform_(norm.weight, 0.5, 2)
    before, children = module(torch.ones(2, *SHAPE)), [name for name, _ in module.named_modules()]
    graph = trace(module, SHAPE)
    assert [node.name for node in graph.layers] == ["0", "3"]
    assert graph.layers[0].relu == isinstance(act, nn.ReLU)
    assert sum(isinstance(node, Table) for node in graph.nodes) == isinstance(act, nn.Hardswish)
    x = torch.rand(4, *SHAPE)
    torch.testing.assert_close(graph.module.eval()(x), module.eval()(x), rtol=1e-5, atol=1e-6)
    # The user's own is as it was.
    assert [name for name, _ in module.named_modules()] == children
    assert type(module[0]) is Same
    assert before.shape == (2, 3)


def test_what_computes_something_else_is_named() -> None:
    with pytest.raises(CompileError, match=r"_0 \(Standardised\)"):
        trace(student(Standardised(2, 3, 3), nn.ReLU()), SHAPE)
