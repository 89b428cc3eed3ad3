"""Small students with every way in which channels hang together, for the tests of shrinking."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from insitu.host.compiler.graph import Graph
from insitu.host.compiler.trace import trace
from insitu.host.shrink.channels import Dependencies

SHAPE, CLASSES = (1, 8, 8), 5


class Branches(nn.Module):
    """A convolution, a depthwise one with squeeze and excitation, a residual block, a map flattened into a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish()
        self.deep, self.pool = nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8), nn.AdaptiveAvgPool2d(1)
        self.squeeze, self.expand, self.gate = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Hardsigmoid()
        self.narrow = nn.Conv2d(8, 6, 1)
        self.one, self.two = nn.Conv2d(6, 10, 3, padding=1), nn.Conv2d(10, 6, 3, padding=1)
        self.shrink = nn.MaxPool2d(2)
        self.hidden, self.last = nn.Linear(6 * 2 * 2, 12), nn.Linear(12, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.deep(self.act(self.norm(self.stem(x)))))
        x = x * self.gate(self.expand(torch.relu(self.squeeze(self.pool(x)))))
        x = self.narrow(x)
        x = x + self.two(torch.relu(self.one(x)))
        x = self.shrink(torch.relu(x)).flatten(1)
        return self.last(torch.relu(self.hidden(x)))


#: Its sets of channels, by their first layers, and how many each has.
SETS = {"stem": 8, "squeeze": 4, "narrow": 6, "one": 10, "hidden": 12}


@cache
def _made() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Branches().eval()


def graph() -> Graph:
    """Its graph, the caller's own."""
    return trace(copy.deepcopy(_made()), SHAPE)


def books(of: Graph) -> Dependencies:
    return Dependencies(of, SHAPE)


def samples(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, *SHAPE), dtype=np.float32)


def logits(of: Graph, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(of.module.eval()(torch.from_numpy(x)).numpy())
