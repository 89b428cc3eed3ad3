"""What the compiler sees of a student: layers and pools in order, each with the window it goes over."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import nn

from insitu.arch.samples import Samples
from insitu.arch.window import Window


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer with weights, its ReLU included: a convolution, or a Linear as a convolution whose kernel is its map.

    name: as in the module. module: holds weight [outputs, ...] and bias [outputs] or None. inputs: channels of a tap.
    """

    name: str
    module: nn.Linear | nn.Conv2d
    window: Window
    inputs: int
    relu: bool = False

    @property
    def outputs(self) -> int:
        return self.module.weight.shape[0]

    @property
    def bias(self) -> bool:
        return self.module.bias is not None

    @property
    def cols(self) -> int:
        """Columns of its weights without the bias."""
        return self.window.taps * self.inputs

    def weights(self) -> npt.NDArray[np.float64]:
        """Its weights as the device has them, float64 [outputs, cols]: tap by tap, the channels of each."""
        weight = self.module.weight.detach().numpy().astype(np.float64)
        by_channel = weight.reshape(self.outputs, -1, weight[0, 0].size if weight.ndim > 2 else self.window.taps)
        return by_channel.transpose(0, 2, 1).reshape(self.outputs, -1)

    def biases(self) -> npt.NDArray[np.float64]:
        """Its biases, float64 [outputs], of a layer that has them."""
        assert self.module.bias is not None
        return self.module.bias.detach().numpy().astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A maximum over windows side by side; `outputs` channels go in and out."""

    name: str
    window: Window
    outputs: int

    @property
    def relu(self) -> bool:
        """A ReLU after it belongs to the layer before it: the two commute."""
        return False


Node = Layer | Pool


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A student as it is deployed: `nodes` first to last, the last gives the logits.

    module: the same in torch, its layers shared with the user's own, but for what deployment changes: functional
    dropout taken out, batch normalisation folded. samples: how a sample lies in the tensor that the first node reads.
    """

    nodes: tuple[Node, ...]
    module: nn.Module
    samples: Samples

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The nodes that have weights."""
        return tuple(node for node in self.nodes if isinstance(node, Layer))

    @property
    def classes(self) -> int:
        return self.nodes[-1].outputs

    def unfolded(self) -> Graph | None:
        """The graph whose samples are sent as the patches that its first layer goes over, so that this layer has one
        tap; None where it has one already. The columns of its weights stay where they are."""
        first = self.nodes[0]
        if not isinstance(first, Layer) or first.window.taps == 1:
            return None
        out = {"map_height": first.window.out_height, "map_width": first.window.out_width}
        window = Window(**out, out_height=first.window.out_height, out_width=first.window.out_width)
        layer = replace(first, window=window, inputs=first.cols)
        return replace(
            self, nodes=(layer, *self.nodes[1:]), samples=Samples(channels=first.inputs, window=first.window)
        )
