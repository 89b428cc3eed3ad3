"""What the compiler sees of a student: nodes in an order in which they can run, each with the window it goes over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from insitu.arch.samples import Samples
from insitu.arch.window import Window

#: The name that nodes read the sample by.
SAMPLE = "sample"


@dataclass(frozen=True, kw_only=True)
class Node:
    """One part of a student, its ReLU included.

    name: as in the module. sources: nodes it reads, or SAMPLE. value: the part's name in torch.fx, whose value is what
    it gives before its ReLU. window: from the map it reads first to the one it gives. outputs: channels of that.
    """

    name: str
    sources: tuple[str, ...]
    value: str
    window: Window
    outputs: int
    relu: bool = False


@dataclass(frozen=True, kw_only=True)
class Layer(Node):
    """A node with weights: a convolution, or a Linear as a convolution whose kernel is its map.

    module: holds weight [outputs, ...] and bias [outputs] or None. inputs: channels of a tap. depthwise: each channel
    goes over its own alone.
    """

    module: nn.Linear | nn.Conv2d
    inputs: int
    depthwise: bool = False

    @property
    def bias(self) -> bool:
        return self.module.bias is not None

    @property
    def trained(self) -> bool:
        """Whether it takes updates: torch's `requires_grad`, which all its parameters have alike."""
        return self.module.weight.requires_grad

    @property
    def cols(self) -> int:
        """Columns of its weights without the bias."""
        return self.window.taps * self.inputs

    def weights(self) -> npt.NDArray[np.float64]:
        """Its weights as the device has them, float64: [outputs, cols], tap by tap, the channels of each; depthwise
        [taps, outputs]."""
        weight = self.module.weight.detach().numpy().astype(np.float64)
        if self.depthwise:
            return weight.reshape(self.outputs, -1).T
        by_channel = weight.reshape(self.outputs, -1, weight[0, 0].size if weight.ndim > 2 else self.window.taps)
        return by_channel.transpose(0, 2, 1).reshape(self.outputs, -1)

    def biases(self) -> npt.NDArray[np.float64]:
        """Its biases, float64 [outputs], of a layer that has them."""
        assert self.module.bias is not None
        return self.module.bias.detach().numpy().astype(np.float64)

    def masters(self, operand: float) -> npt.NDArray[np.float64]:
        """Its weights, and its biases in units of their operand: a column more, or, depthwise, a row."""
        if not self.bias:
            return self.weights()
        join = np.vstack if self.depthwise else np.column_stack
        return np.asarray(join([self.weights(), self.biases() / operand]), dtype=np.float64)

    def take(self, masters: npt.NDArray[np.float64], operand: float) -> None:
        """Put what `masters` gives back into the module: its weights, and its biases where it has some."""
        module, given = self.module, masters.T if self.depthwise else masters
        by_tap = given[:, : given.shape[1] - self.bias].reshape(self.outputs, -1, 1 if self.depthwise else self.inputs)
        weight = by_tap.transpose(0, 2, 1).reshape(module.weight.shape)
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(weight.astype(np.float32)))
            if module.bias is not None:
                module.bias.copy_(torch.from_numpy((given[:, -1] * operand).astype(np.float32)))


@dataclass(frozen=True, kw_only=True)
class Pool(Node):
    """A maximum over windows side by side."""


@dataclass(frozen=True, kw_only=True)
class Mean(Node):
    """A mean over windows; of one tap, what it reads as it is."""


@dataclass(frozen=True, kw_only=True)
class Sum(Node):
    """The sum of two maps."""


@dataclass(frozen=True, kw_only=True)
class Product(Node):
    """The product of two maps, or, with `broadcast`, of a map and a pixel."""

    broadcast: bool = False


@dataclass(frozen=True, kw_only=True)
class Table(Node):
    """An activation that is looked up. function: of a tensor, element by element."""

    function: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A student as it is deployed: `nodes` in an order in which they can run, the last gives the logits.

    module: the same in torch, its layers shared with the user's own, but for what deployment changes: functional
    dropout taken out, batch normalisation folded. samples: how a sample lies in the tensor that nodes read.
    """

    nodes: tuple[Node, ...]
    module: torch.fx.GraphModule
    samples: Samples

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The nodes that have weights."""
        return tuple(node for node in self.nodes if isinstance(node, Layer))

    @property
    def classes(self) -> int:
        return self.nodes[-1].outputs

    def readers(self, name: str) -> list[tuple[Node, int]]:
        """Who reads what a node gives, and as which of its sources."""
        return [(node, at) for node in self.nodes for at, source in enumerate(node.sources) if source == name]

    @property
    def reached(self) -> frozenset[str]:
        """Nodes that errors go back to: those with a trained layer, or above one."""
        found: set[str] = set()
        for node in self.nodes:
            if (isinstance(node, Layer) and node.trained) or found & set(node.sources):
                found.add(node.name)
        return frozenset(found)

    def unfolded(self) -> Graph | None:
        """The graph whose samples are sent as the patches that its first layer goes over, so that this layer has one
        tap; None where it has one already, or something else reads the sample. The columns of its weights stay where
        they are."""
        readers = self.readers(SAMPLE)
        first = readers[0][0]
        if len(readers) > 1 or not isinstance(first, Layer) or first.depthwise or first.window.taps == 1:
            return None
        out = {"map_height": first.window.out_height, "map_width": first.window.out_width}
        window = Window(**out, out_height=first.window.out_height, out_width=first.window.out_width)
        # A tap's channels: those of the sample's map that it is told of, once for every tap.
        layer = replace(first, window=window, inputs=first.cols)
        return replace(
            self,
            nodes=tuple(layer if node is first else node for node in self.nodes),
            samples=Samples(channels=first.inputs, window=first.window),
        )
