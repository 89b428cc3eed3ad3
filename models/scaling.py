"""Compound scaling (Tan and Le 2019, EfficientNet, section 3.3): depth, width and resolution grow together.

At a scale phi a student has depth alpha^phi, width beta^phi and resolution gamma^phi times the base's. A convolution's
multiply-accumulates go with depth * width^2 * resolution^2: with alpha * beta^2 * gamma^2 = 2 they double from one phi
to the next. The base, at phi = 0, is `mobilenet-v1`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from insitu.models import students
from insitu.models.errors import InvalidInputError
from insitu.models.mobile import MULTIPLIER_MAX, SIDE_MIN, Separable, v1_blocks

#: Scales looked at are multiples of 1 / PHI_STEPS, from -PHI_MAX to PHI_MAX.
PHI_STEPS, PHI_MAX = 100, 10
#: The finest grid: a finer one takes minutes to list.
STEP_MIN = 0.01


@dataclass(frozen=True, kw_only=True, order=True)
class Coefficients:
    """What depth, width and resolution are multiplied by from one phi to the next: alpha, beta, gamma, each >= 1.

    Raises:
        InvalidInputError: a coefficient below 1, or larger than any multiplier that a student takes.
    """

    depth: float
    width: float
    resolution: float

    def __post_init__(self) -> None:
        for name, value in (("depth", self.depth), ("width", self.width), ("resolution", self.resolution)):
            if not 1 <= value <= MULTIPLIER_MAX:
                raise InvalidInputError(f"coefficient {name} {value}; allowed are 1 to {MULTIPLIER_MAX}")

    @property
    def product(self) -> float:
        """alpha * beta^2 * gamma^2: what multiply-accumulates are multiplied by from one phi to the next."""
        return self.depth * self.width**2 * self.resolution**2

    def at(self, phi: float, side: int) -> Size:
        """The student at a scale, of a base that takes images of `side` x `side`."""
        return Size(
            phi=phi,
            depth=round(self.depth**phi, 4),
            width=round(self.width**phi, 4),
            side=round(side * self.resolution**phi),
        )


@dataclass(frozen=True, kw_only=True)
class Size:
    """A student of the family: multipliers of blocks and of channels, and the side of its images in pixels."""

    phi: float
    depth: float
    width: float
    side: int

    @cached_property
    def blocks(self) -> tuple[Separable, ...]:
        """The student's blocks, repeats rounded up and channels to multiples of 8: sizes that have the same, and the
        same side, are one student."""
        return v1_blocks(self.width, self.depth)

    @property
    def taken(self) -> bool:
        """Whether the student takes it."""
        return self.side >= SIDE_MIN and 0 < self.width <= MULTIPLIER_MAX and 0 < self.depth <= MULTIPLIER_MAX

    @property
    def spec(self) -> str:
        """The student as `students.build` and the command line's --model take it."""
        return f"mobilenet-v1:depth={self.depth},width={self.width}"

    def build(self, *, channels: int, classes: int, seed: int) -> nn.Module:
        """The student, float32 [b, channels, side, side] to [b, classes]; its weights depend on `seed` alone.

        Raises:
            StudentError: a size that the student does not take.
        """
        return students.build(self.spec, in_shape=(channels, self.side, self.side), classes=classes, seed=seed)

    def __str__(self) -> str:
        return f"depth x {self.depth:g}, width x {self.width:g}, {self.side} x {self.side} pixels"


def grid(step: float = 0.1, product: float = 2.0, tolerance: float = 0.1) -> tuple[Coefficients, ...]:
    """All coefficients 1, 1 + step, 1 + 2 step, ... whose product is within `tolerance` of `product`, in order.

    Raises:
        InvalidInputError: a step below 0.01, a product below 1, a tolerance below 0, or a grid of nothing.
    """
    if not (STEP_MIN <= step < math.inf and 1 <= product < math.inf and 0 <= tolerance < math.inf):
        given = f"grid of step {step}, product {product}, tolerance {tolerance}"
        raise InvalidInputError(f"{given}; allowed: step >= {STEP_MIN}, product >= 1, tolerance >= 0")
    most = product + tolerance
    values = [1 + i * step for i in range(int((most - 1) / step + 1e-9) + 1)]
    squared = [value for value in values if value**2 <= most + 1e-9]
    found = tuple(
        Coefficients(depth=round(depth, 10), width=round(width, 10), resolution=round(resolution, 10))
        for depth, width, resolution in itertools.product(values, squared, squared)
        if abs(depth * width**2 * resolution**2 - product) <= tolerance + 1e-9
    )
    if not found:
        raise InvalidInputError(
            f"no depth * width^2 * resolution^2 in steps of {step} is within {tolerance} of {product}; "
            "take a smaller step or a larger tolerance"
        )
    return found


def ladder(coefficients: Coefficients, side: int) -> tuple[Size, ...]:
    """Every student that the family has, the smallest first, each at the largest phi that rounds to it.

    Raises:
        InvalidInputError: images that the base student does not take.
    """
    if side < SIDE_MIN:
        raise InvalidInputError(f"images of {side} x {side}; the base student takes {SIDE_MIN} x {SIDE_MIN} or more")
    phis = (step / PHI_STEPS for step in range(-PHI_MAX * PHI_STEPS, PHI_MAX * PHI_STEPS + 1))
    sizes = (coefficients.at(phi, side) for phi in phis)
    return tuple({(size.blocks, size.side): size for size in sizes if size.taken}.values())


def resized(images: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Images float32 [n, c, H, W] at another resolution, float32 [n, c, side, side]: the mean of an area where they
    shrink, bilinear where they grow.

    Raises:
        InvalidInputError: images of another shape or dtype, or a side below 1.
    """
    if images.dtype != np.float32 or images.ndim != 4 or 0 in images.shape or side < 1:
        raise InvalidInputError(
            f"{images.dtype} {list(images.shape)} to a side of {side}; expected float32 [n, c, H, W], side >= 1"
        )
    if images.shape[2:] == (side, side):
        return images
    mode = "area" if side <= min(images.shape[2:]) else "bilinear"
    found: NDArray[np.float32] = nn.functional.interpolate(torch.tensor(images), size=(side, side), mode=mode).numpy()
    return found
