"""What each channel adds to the sums of a layer that reads it (Luo et al. 2017, "ThiNet", ICCV, section 3.2).

A reader's output, its bias aside, is the sum over channels of what each contributes. Over sampled images, places and
all outputs the contributions are the columns of a matrix X, and y is the same layer's output in the student that
nothing has gone from. All that the choice of channels and their rescaling need is X'X, X'y and means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from insitu.host.compiler.deployed import evaluating
from insitu.host.shrink.channels import Reader

#: Places of a map that are looked at in each image, as in the paper.
PLACES = 10
#: Images at a time.
CHUNK = 64

Real = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Contributions:
    """gram: X'X [channels, channels], cross: X'y [channels], both of what is left when each output's means are taken
    off where the reader has a bias, which can make up for them. means: of X, [outputs, channels]; whole: of y,
    [outputs]. All float64."""

    gram: Real
    cross: Real
    means: Real
    whole: Real


def contributions(
    now: nn.Module, before: nn.Module, reader: Reader, x: npt.NDArray[np.float32], seed: int
) -> Contributions:
    """Of the channels that a reader in `now` takes, for samples x [n, ...]; `before` is the student from which nothing
    has gone, with the reader by the same name."""
    module, columns = reader.layer.module, torch.from_numpy(reader.columns)
    whole = before.get_submodule(reader.layer.name)
    weight = module.weight.detach()
    by_channel = weight[:, columns].reshape(len(weight), len(columns), -1)  # [outputs, channels, k]
    bias = 0 if module.bias is None else module.bias.detach()
    rng = np.random.default_rng(seed)
    seen, rows = _Sums(len(weight), len(columns)), 0
    for first in range(0, len(x), CHUNK):
        images = torch.from_numpy(np.ascontiguousarray(x[first : first + CHUNK]))
        (read, _), (_, wanted) = _through(now, module, images), _through(before, whole, images)
        if isinstance(module, nn.Linear):
            met = read[:, columns]
        else:
            places = _places(wanted.shape, rng)
            met = _patches(module, read[:, columns[:, 0]], places)
            wanted = wanted.permute(0, 2, 3, 1)[torch.arange(len(read))[:, None], places[0], places[1]].flatten(0, 1)
        seen.add(torch.einsum("pck,ock->poc", met, by_channel).double(), (wanted - bias).double())
        rows += len(wanted)
    return seen.centred(rows if module.bias is not None else 0)


class _Sums:
    def __init__(self, outputs: int, channels: int) -> None:
        self._gram = torch.zeros(channels, channels, dtype=torch.float64)
        self._cross = torch.zeros(channels, dtype=torch.float64)
        self._added = torch.zeros(outputs, channels, dtype=torch.float64)
        self._wanted = torch.zeros(outputs, dtype=torch.float64)

    def add(self, added: torch.Tensor, wanted: torch.Tensor) -> None:
        """Contributions [rows, outputs, channels] to the sums wanted [rows, outputs]."""
        flat = added.flatten(0, 1)
        self._gram += flat.T @ flat
        self._cross += flat.T @ wanted.flatten()
        self._added += added.sum(dim=0)
        self._wanted += wanted.sum(dim=0)

    def centred(self, rows: int) -> Contributions:
        """Means of so many rows taken off; none are where there are none."""
        means, whole = self._added / max(1, rows), self._wanted / max(1, rows)
        if not rows:
            means, whole = means * 0, whole * 0
        return Contributions(
            gram=(self._gram - rows * means.T @ means).numpy(),
            cross=(self._cross - rows * means.T @ whole).numpy(),
            means=means.numpy(),
            whole=whole.numpy(),
        )


def _through(student: nn.Module, module: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a module of a student is given, and what it gives."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = module.register_forward_hook(lambda _, args, given: seen.append((args[0].detach(), given.detach())))
    try:
        with torch.no_grad(), evaluating(student):
            student(images)
    finally:
        hook.remove()
    return seen[0]


def _places(shape: torch.Size, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Some pixels of each image's output, [images, places] down and across."""
    images, _, height, width = shape
    return rng.integers(height, size=(images, PLACES)), rng.integers(width, size=(images, PLACES))


def _patches(
    module: nn.Conv2d, read: torch.Tensor, places: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
) -> torch.Tensor:
    """What a convolution's kernel meets for some pixels of its output: [images * places, channels, taps]."""
    padded = F.pad(read, module._reversed_padding_repeated_twice)
    (down, across), strides = module.kernel_size, module.stride
    top, left = (torch.from_numpy(place * int(step)) for place, step in zip(places, strides, strict=True))
    image = torch.arange(len(read))[:, None, None, None]
    rows = top[:, :, None, None] + torch.arange(down)[None, None, :, None]
    columns = left[:, :, None, None] + torch.arange(across)[None, None, None, :]
    met = padded.permute(0, 2, 3, 1)[image, rows, columns]  # [images, places, down, across, channels]
    return met.flatten(0, 1).flatten(1, 2).transpose(1, 2)
