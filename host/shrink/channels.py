"""Which channels of a student go together: what one layer gives and others read, or, through sums, products and
depthwise layers, give as well. torch-pruning keeps the books (Fang et al. 2023, "DepGraph", CVPR)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch_pruning
from torch import nn

from insitu.host.compiler.deployed import evaluating
from insitu.host.compiler.graph import Graph, Layer


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """A layer that reads channels. columns: int64 [channels, k], the inputs of its weight [outputs, inputs, ...] that
    each of them takes: one, or of a Linear one for each pixel of the map before it."""

    layer: Layer
    columns: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Channels:
    """Channels that come and go together.

    name: of the first layer that gives them. count: how many. makers: the layers that give them, depthwise ones
    included. readers: the layers that read them.
    """

    name: str
    count: int
    makers: tuple[Layer, ...]
    readers: tuple[Reader, ...]


class Dependencies:
    """What goes together in a graph, for samples of a shape. It stays right as channels are dropped one set after
    another; the graph's nodes still say what there was before, its module is what there is."""

    def __init__(self, graph: Graph, shape: Sequence[int]) -> None:
        self.graph = graph
        self._layers = {layer.module: layer for layer in graph.layers}
        with _trainable(graph), evaluating(graph.module):
            self._books = torch_pruning.DependencyGraph().build_dependency(
                graph.module, example_inputs=torch.zeros(1, *shape)
            )
            last = [graph.layers[-1].module]
            kinds = [nn.Conv2d, nn.Linear]
            found = [self._first(group) for group in self._books.get_all_groups(last, kinds)]
        order = {layer.name: at for at, layer in enumerate(graph.layers)}
        #: The sets, each by the name of its first layer, from the input on. Those of the logits are none.
        self.names = tuple(sorted(found, key=order.__getitem__))

    def group(self, name: str, which: Sequence[int] | None = None) -> Any:
        """torch-pruning's group of a set: of all its channels, or of some."""
        module = self._module(name)
        rows = range(module.weight.shape[0]) if which is None else which
        return self._books.get_pruning_group(module, self._books.get_pruner_of_module(module).prune_out_channels, rows)

    def channels(self, group: Any) -> Channels:
        """A group as makers and readers. Raises KeyError for one of layers that are not the graph's."""
        makers: list[Layer] = []
        readers: list[Reader] = []
        count = len(group[0].idxs)
        for item in group:
            layer = self._layers.get(item.dep.target.module)
            if layer is None:
                continue  # an operation, which has no channels of its own
            if self._books.is_out_channel_pruning_fn(item.dep.handler):
                makers.append(layer)
            else:
                readers.append(Reader(layer=layer, columns=_columns(item, count)))
        order = [layer.name for layer in self.graph.layers]
        makers.sort(key=lambda layer: order.index(layer.name))
        return Channels(name=makers[0].name, count=count, makers=tuple(makers), readers=tuple(readers))

    def drop(self, name: str, gone: Sequence[int]) -> None:
        """Take channels of a set away, wherever they are. Raises KeyError for a set that is none, IndexError for
        channels that it has not."""
        if name not in self.names:
            raise KeyError(name)
        count = self._module(name).weight.shape[0]
        if not gone:
            return
        if not all(0 <= channel < count for channel in gone) or len(set(gone)) >= count:
            raise IndexError(f"channels {list(gone)} of the {count} of {name}")
        with _trainable(self.graph):
            self.group(name, sorted(gone)).prune()

    def _module(self, name: str) -> Any:
        return next(layer.module for layer in self.graph.layers if layer.name == name)

    def _first(self, group: Any) -> str:
        return self.channels(group).name


def drop(graph: Graph, shape: Sequence[int], gone: Mapping[str, Sequence[int]]) -> None:
    """Take channels of some sets away; the numbers are those before any went. Raises as `Dependencies.drop`."""
    books = Dependencies(graph, shape)
    for name, which in gone.items():
        books.drop(name, which)


def _columns(item: Any, count: int) -> npt.NDArray[np.int64]:
    """The inputs that hold each channel, [channels, k]: torch-pruning gives inputs, and the channel that each is of."""
    inputs, channels = np.array(item.idxs, dtype=np.int64), np.array(item.root_idxs)
    return inputs[np.argsort(channels, kind="stable")].reshape(count, -1)


@contextmanager
def _trainable(graph: Graph) -> Iterator[None]:
    """torch-pruning follows gradients, and what it puts in place of a parameter asks for one: frozen layers are
    trainable meanwhile."""
    trained = {layer.name: layer.trained for layer in graph.layers}
    for parameter in graph.module.parameters():
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for layer in graph.layers:
            for parameter in layer.module.parameters():
                parameter.requires_grad_(trained[layer.name])
