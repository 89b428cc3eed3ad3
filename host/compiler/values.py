"""What torch's values are on the device, and why a part that makes one cannot be taken."""

from __future__ import annotations

import math
from dataclasses import dataclass

from insitu.arch.samples import Samples
from insitu.arch.window import Window
from insitu.host.compiler import windows


class Unsupported(Exception):
    """Why a part cannot be taken."""


def refuse(reason: str) -> None:
    """Raise Unsupported where there is a reason."""
    if reason:
        raise Unsupported(reason)


@dataclass(frozen=True, kw_only=True)
class Value:
    """What a torch value is on the device: a map that a node gives; `shape` is torch's of one sample."""

    node: str
    shape: tuple[int, ...]
    channels: int
    height: int = 1
    width: int = 1

    @property
    def flat(self) -> bool:
        return len(self.shape) == 1

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def features(self) -> int:
        return math.prod(self.shape)

    def plain_samples(self) -> Samples:
        """Samples as a map of one tap."""
        return Samples(channels=self.channels, window=windows.same(self.height, self.width))

    def same_map(self, other: Value) -> bool:
        """Whether pixels and channels, and their order in torch, are the same."""
        ours, theirs = (self.channels, self.height, self.width), (other.channels, other.height, other.width)
        return ours == theirs and self.shape == other.shape


def sample(name: str, shape: tuple[int, ...]) -> Value:
    """A sample of a shape: images [channels, height, width] are maps, all else is one pixel."""
    if len(shape) == 3:
        channels, height, width = shape
        return Value(node=name, shape=shape, channels=channels, height=height, width=width)
    return Value(node=name, shape=shape, channels=math.prod(shape))


def mapped(name: str, channels: int, window: Window) -> Value:
    """The map that a node gives."""
    height, width = window.out_height, window.out_width
    return Value(node=name, shape=(channels, height, width), channels=channels, height=height, width=width)
