"""Students of depthwise-separable blocks: MobileNet's three versions, for small images."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from insitu.models.errors import StudentError

#: Channels are multiples of this, as those of the papers' networks are of 8: rows of an array are not left half empty.
DIVISOR = 8
#: The smallest side of an image, and the largest multiplier of channels or blocks.
SIDE_MIN, MULTIPLIER_MAX = 8, 4


class Separable(NamedTuple):
    """A block of version 1: channels out, stride."""

    channels: int
    stride: int


class Inverted(NamedTuple):
    """A block of versions 2 and 3: kernel, channels within and out, squeeze and excitation, activation, stride."""

    kernel: int
    within: int
    channels: int
    squeeze: bool
    act: type[nn.Module]
    stride: int


#: As published (Howard et al. 2017, table 1), begun without a stride and ended at 64 channels: for images of 28 to 32
#: pixels instead of 224.
V1 = (Separable(16, 1), Separable(32, 2), Separable(32, 1), Separable(64, 2), Separable(64, 1))
#: As published (Sandler et al. 2018, table 2), four times as wide within instead of six, likewise.
V2 = (
    Inverted(3, 64, 24, squeeze=False, act=nn.ReLU6, stride=2),
    Inverted(3, 96, 24, squeeze=False, act=nn.ReLU6, stride=1),
    Inverted(3, 96, 32, squeeze=False, act=nn.ReLU6, stride=2),
    Inverted(3, 128, 32, squeeze=False, act=nn.ReLU6, stride=1),
)
#: As published (Howard et al. 2019, table 2), the first of each resolution, likewise.
V3 = (
    Inverted(3, 16, 16, squeeze=True, act=nn.ReLU, stride=2),
    Inverted(3, 48, 24, squeeze=False, act=nn.ReLU, stride=1),
    Inverted(5, 64, 32, squeeze=True, act=nn.Hardswish, stride=2),
    Inverted(5, 96, 32, squeeze=True, act=nn.Hardswish, stride=1),
)


def mobilenet_v1(
    in_shape: tuple[int, ...], classes: int, *, width: float = 1.0, depth: float = 1.0, blocks: int = len(V1)
) -> nn.Module:
    """MobileNet (Howard et al. 2017): a convolution, then depthwise-separable blocks, the mean of the map, a Linear.

    Args:
        in_shape: (channels, height, width) of an image, from 8 x 8 up.
        width: the paper's width multiplier. Its resolution multiplier is the size of the image.
        depth: multiplies the blocks of each stage, see `v1_blocks`.
        blocks: how many of V1, before depth multiplies them.

    Raises:
        StudentError: an image of another shape, or a width, depth or number of blocks out of range.
    """
    channels = _image("mobilenet-v1", in_shape, width, blocks, len(V1))
    _multiplier("mobilenet-v1", "depth", depth)
    inputs = scaled(16, width)
    layers: list[nn.Module] = [*_convolution(channels, inputs, 3), nn.ReLU()]
    for block in v1_blocks(width, depth, blocks):
        layers += [*_convolution(inputs, inputs, 3, stride=block.stride, groups=inputs), nn.ReLU()]
        layers += [*_convolution(inputs, block.channels, 1), nn.ReLU()]
        inputs = block.channels
    return initialised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)))


def mobilenet_v2(in_shape: tuple[int, ...], classes: int, *, width: float = 1.0, blocks: int = len(V2)) -> nn.Module:
    """MobileNet V2 (Sandler et al. 2018): inverted residual blocks with ReLU6, the mean of the map, a Linear.

    Args:
        in_shape: (channels, height, width) of an image, from 8 x 8 up.
        width: multiplies all channels.
        blocks: how many of V2.

    Raises:
        StudentError: an image of another shape, or a width or number of blocks out of range.
    """
    channels = _image("mobilenet-v2", in_shape, width, blocks, len(V2))
    layers, outputs = _inverted(channels, V2[:blocks], width, nn.ReLU6())
    return initialised(nn.Sequential(*layers, nn.Linear(outputs, classes)))


def v1_blocks(width: float, depth: float, blocks: int = len(V1)) -> tuple[Separable, ...]:
    """The first `blocks` of V1, channels times `width`, each stage's number of blocks times `depth`, rounded up.

    A stage is the blocks of one resolution (Tan and Le 2019, table 1): its first block has the stride, the others are
    repeats without one.
    """
    stages: list[list[Separable]] = []
    for block in V1[:blocks]:
        if block.stride > 1 or not stages:
            stages.append([])
        stages[-1].append(Separable(scaled(block.channels, width), block.stride))
    found: list[Separable] = []
    for stage in stages:
        repeats = math.ceil(round(depth * len(stage), 6)) - 1  # 1.1 * 10 is 11, not a bit more
        found += [stage[0], *[stage[-1]._replace(stride=1)] * repeats]
    return tuple(found)


def mobilenet_v3(in_shape: tuple[int, ...], classes: int, *, width: float = 1.0, blocks: int = len(V3)) -> nn.Module:
    """MobileNet V3 (Howard et al. 2019): inverted residual blocks with squeeze and excitation and hard-swish, the mean
    of the map, two Linear layers.

    Args:
        in_shape: (channels, height, width) of an image, from 8 x 8 up.
        width: multiplies all channels.
        blocks: how many of V3.

    Raises:
        StudentError: an image of another shape, or a width or number of blocks out of range.
    """
    channels = _image("mobilenet-v3", in_shape, width, blocks, len(V3))
    layers, outputs = _inverted(channels, V3[:blocks], width, nn.Hardswish())
    hidden = scaled(64, width)
    head = [nn.Linear(outputs, hidden), nn.Hardswish(), nn.Linear(hidden, classes)]
    return initialised(nn.Sequential(*layers, *head))


def _inverted(channels: int, blocks: tuple[Inverted, ...], width: float, act: nn.Module) -> tuple[list[nn.Module], int]:
    """A convolution, inverted residual blocks, the mean of the map flattened; and its channels."""
    inputs = scaled(16, width)
    layers: list[nn.Module] = [*_convolution(channels, inputs, 3), act]
    for block in blocks:
        layers.append(InvertedResidual(inputs, block, width))
        inputs = scaled(block.channels, width)
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()], inputs


class InvertedResidual(nn.Module):
    """Widen, go over each channel, scale the channels, narrow; the input is added where the shape is the same."""

    def __init__(self, inputs: int, block: Inverted, width: float) -> None:
        super().__init__()
        within, outputs = scaled(block.within, width), scaled(block.channels, width)
        layers: list[nn.Module] = []
        if within != inputs:
            layers += [*_convolution(inputs, within, 1), block.act()]
        layers += [*_convolution(within, within, block.kernel, stride=block.stride, groups=within), block.act()]
        if block.squeeze:
            layers.append(SqueezeExcitation(within))
        self.layers = nn.Sequential(*layers, *_convolution(within, outputs, 1))
        self.residual = block.stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return x + y if self.residual else y


class SqueezeExcitation(nn.Module):
    """Channels scaled by what the mean of all says (Hu et al. 2018, with version 3's hard sigmoid)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = scaled(channels, 0.25)
        self.pool, self.act, self.gate = nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Hardsigmoid()
        self.reduce, self.expand = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.expand(self.act(self.reduce(self.pool(x)))))


def initialised(module: nn.Module) -> nn.Module:
    """The module with weights that keep the size of activations from layer to layer (He et al. 2015), and biases of
    zero: its normalisations have seen nothing, and cannot do it."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module


def scaled(channels: int, width: float) -> int:
    """Channels times a multiplier, to the nearest multiple of DIVISOR, never less than nine tenths of it."""
    wanted = channels * width
    found = max(DIVISOR, int(wanted + DIVISOR / 2) // DIVISOR * DIVISOR)
    return found + DIVISOR if found < 0.9 * wanted else found


def _convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A padded convolution and its normalisation."""
    padding = kernel // 2
    return [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


def _image(name: str, in_shape: tuple[int, ...], width: float, blocks: int, most: int) -> int:
    if len(in_shape) != 3 or min(in_shape[1:]) < SIDE_MIN:
        shape, least = " x ".join(map(str, in_shape)), f"{SIDE_MIN} x {SIDE_MIN}"
        raise StudentError(f"student {name!r} takes images of channels x H x W, {least} or more; not {shape}")
    _multiplier(name, "width", width)
    if not isinstance(blocks, int) or not 1 <= blocks <= most:
        raise StudentError(f"student {name!r}: {blocks} blocks; allowed are 1 to {most}")
    return in_shape[0]


def _multiplier(name: str, what: str, value: float) -> None:
    if not 0 < value <= MULTIPLIER_MAX:
        raise StudentError(f"student {name!r}: {what} {value}; allowed are more than 0, up to {MULTIPLIER_MAX}")
