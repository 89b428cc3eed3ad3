"""Beats of tensors: samples as maps and as patches, weights in groups; against torch's own unfolding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from insitu.arch.declaration import Role
from insitu.arch.layout import Matrix, Memory, blocks
from insitu.arch.program import Tensor
from insitu.arch.samples import Samples
from insitu.arch.window import Window
from insitu.host.device.packing import Packing
from insitu.host.errors import DeviceError

N, BATCH = 4, 3


def packing(samples: Samples) -> Packing:
    matrix = Matrix(
        memory=Memory.ACT,
        base=5,
        rows=samples.pixels * BATCH,
        cols=samples.cols,
        pitch=blocks(samples.cols, N),
    )
    return Packing("sample", Tensor(matrix=matrix, role=Role.ACTIVATION, width=8, scale=0, samples=samples), N)


def packed(how: Packing, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The matrix [rows, columns] that a LOAD of the beats makes; lanes beyond it hold zeros."""
    beats = how.fill(np.zeros((how.beats, N), dtype=np.int32), how.flat(values))
    matrix = how.matrix(beats)
    assert np.count_nonzero(beats) == np.count_nonzero(matrix)
    return matrix


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "pad"),
    [
        ((1, 6, 5), (3, 3), 1, (1, 1)),
        ((2, 5, 6), (2, 3), 1, (0, 1)),
        ((3, 7, 7), (3, 3), 2, (1, 0)),
        ((2, 4, 4), (1, 1), 2, (0, 0)),
        ((1, 3, 3), (3, 3), 1, (0, 0)),
    ],
)
def test_patches_are_torchs_unfolding(
    shape: tuple[int, int, int], kernel: tuple[int, int], stride: int, pad: tuple[int, int]
) -> None:
    channels, height, width = shape
    out = [(s + 2 * p - k) // stride + 1 for s, p, k in zip((height, width), pad, kernel, strict=True)]
    window = Window(
        map_height=height,
        map_width=width,
        out_height=out[0],
        out_width=out[1],
        kernel_height=kernel[0],
        kernel_width=kernel[1],
        stride_height=stride,
        stride_width=stride,
        pad_height=pad[0],
        pad_width=pad[1],
    )
    x = np.random.default_rng(0).integers(1, 100, (BATCH - 1, *shape))
    found = packed(packing(Samples(channels=channels, window=window)), x)
    # torch: [n, channels * taps, pixels], the taps of each channel together.
    unfolded = F.unfold(torch.from_numpy(x).double(), kernel, stride=stride, padding=pad).numpy()
    wanted = unfolded.reshape(len(x), channels, kernel[0] * kernel[1], -1).transpose(3, 0, 2, 1)
    by_pixel = found.reshape(len(wanted), BATCH, -1)
    np.testing.assert_array_equal(by_pixel[:, : len(x)], wanted.reshape(len(wanted), len(x), -1))
    assert not by_pixel[:, len(x) :].any()


def test_a_map_is_a_row_a_pixel_a_sample() -> None:
    window = Window(map_height=2, map_width=3, out_height=2, out_width=3)
    x = np.arange(1, 1 + BATCH * 5 * 6).reshape(BATCH, 5, 2, 3)
    found = packed(packing(Samples(channels=5, window=window)), x)
    np.testing.assert_array_equal(found, x.reshape(BATCH, 5, 6).transpose(2, 0, 1).reshape(6 * BATCH, 5))


def test_samples_without_pixels_may_have_any_shape() -> None:
    how = packing(Samples(channels=6))
    x = np.arange(1, 13).reshape(2, 1, 2, 3)
    for values in (x, x.reshape(2, 6), x.reshape(2, 3, 2)):
        np.testing.assert_array_equal(packed(how, values)[:2], x.reshape(2, 6))


def test_grouped_weights() -> None:
    matrix = Matrix(memory=Memory.WGT, base=0, rows=2, cols=5, pitch=5, groups=2, tail=1)
    how = Packing("w", Tensor(matrix=matrix, role=Role.MASTER, width=16, scale=0), N)
    values = np.arange(1, 23).reshape(2, 11)
    beats = how.fill(np.zeros((how.beats, N), dtype=np.int32), values)
    np.testing.assert_array_equal(beats[:5], [[1, 2, 3, 4], [5, 0, 0, 0], [6, 7, 8, 9], [10, 0, 0, 0], [11, 0, 0, 0]])
    np.testing.assert_array_equal(how.matrix(beats), values)


@pytest.mark.parametrize("shape", [(2, 1, 4, 6), (2, 4, 6), (2, 24), (2, 4, 6, 1)])
def test_spellings_of_one_sample(shape: tuple[int, ...]) -> None:
    how = packing(Samples(channels=1, window=Window(map_height=4, map_width=6, out_height=4, out_width=6)))
    x = np.arange(1, 49)
    np.testing.assert_array_equal(packed(how, x.reshape(shape)), packed(how, x.reshape(2, 24)))


@pytest.mark.parametrize("shape", [(2, 6, 4), (2, 1, 6, 4), (2, 2, 12), (2, 23), (2, 5, 6), (4, 24), (24,)])
def test_samples_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    how = packing(Samples(channels=1, window=Window(map_height=4, map_width=6, out_height=4, out_width=6)))
    with pytest.raises(DeviceError, match=r"sample of shape .*expected \[n, 1, 4, 6\]"):
        packed(how, np.zeros(shape, dtype=np.int32))
