"""Random convolutional students: every layer the compiler takes, in any order that fits the map."""

from __future__ import annotations

import random

import torch
from torch import nn

TABLES = (nn.Hardswish, nn.Sigmoid, nn.ReLU6, nn.Tanh, nn.Hardsigmoid)
#: What a part may be, and what stands for it in a case's name.
PARTS = ("convolution", "depthwise", "maximum", "mean", "residual", "scale", "product", "table", "relu")


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class Scale(nn.Module):
    """Squeeze and excitation without the squeeze."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.pool, self.inner, self.gate = nn.AdaptiveAvgPool2d(1), inner, nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.inner(self.pool(x)))


class Product(Residual):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.inner(x)


def student(seed: int, shape: tuple[int, int, int], parts: tuple[str, ...], classes: int) -> nn.Module:
    """A convolution, a module for each of `parts`, a Linear over the map or its mean; one layer in five is frozen."""
    generator = random.Random(f"student {seed}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        channels = generator.randint(1, 6)
        layers: list[nn.Module] = [nn.Conv2d(shape[0], channels, 3, padding=1, bias=generator.random() < 0.7)]
        for part in parts:
            layers.append(_part(generator, part, channels, _size(layers, shape)))
            channels = _channels(layers, shape)
        if generator.random() < 0.4:
            layers.append(nn.AdaptiveAvgPool2d(1))
        height, width = _size(layers, shape)
        head = nn.Linear(channels * height * width, classes)
        for layer in layers:
            if generator.random() < 0.2:
                layer.requires_grad_(False)
        return nn.Sequential(*layers, nn.Flatten(), head).eval()


def _part(generator: random.Random, part: str, channels: int, size: tuple[int, int]) -> nn.Module:
    kernel = generator.choice([1, 2, 3, 5])
    fits = [padding for padding in range(kernel // 2 + 1) if min(size) + 2 * padding >= kernel]
    padding = generator.choice(fits or [kernel // 2])
    options = {"padding": padding, "stride": generator.choice([1, 1, 2]), "bias": generator.random() < 0.7}
    match part:
        case "convolution":
            return nn.Conv2d(channels, generator.randint(1, 6), kernel, **options)  # type: ignore[arg-type]
        case "depthwise" if channels > 1:
            return nn.Conv2d(channels, channels, kernel, groups=channels, **options)  # type: ignore[arg-type]
        case "maximum" if min(size) > 1:
            return nn.MaxPool2d(2)
        case "mean" if min(size) > 1:
            return nn.AvgPool2d(2)
        case "residual" | "product":
            inner = nn.Conv2d(channels, channels, 3, padding=1)
            return (Residual if part == "residual" else Product)(inner)
        case "scale":
            return Scale(nn.Conv2d(channels, channels, 1))
        case "table":
            return generator.choice(TABLES)()
    return nn.ReLU()


def _shape(layers: list[nn.Module], shape: tuple[int, int, int]) -> torch.Size:
    with torch.no_grad():
        return nn.Sequential(*layers).eval()(torch.zeros(1, *shape)).shape


def _size(layers: list[nn.Module], shape: tuple[int, int, int]) -> tuple[int, int]:
    return tuple(_shape(layers, shape)[2:])  # type: ignore[return-value]  # two of them


def _channels(layers: list[nn.Module], shape: tuple[int, int, int]) -> int:
    return _shape(layers, shape)[1]
