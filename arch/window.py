"""Windows: how the pixels of a feature map meet the taps of a kernel.

A feature map of a batch is one matrix: a row for each pixel of each sample, a column for each channel. Rows go pixel by
pixel, row-major, and within a pixel sample by sample:

    row = (y * width + x) * batch + sample

A block of rows is then one pixel of many samples: a tap moves all of them by the same number of rows, a border is the
same for all of them and is left out instead of masked, and a stride costs nothing. A matrix without pixels is a map of
one. Nothing is ever unfolded in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Window:
    """A kernel over a map. Output pixel (y, x) meets, with tap (i, j), map pixel (y * stride_height + i - pad_height,
    x * stride_width + j - pad_width), where the map has it."""

    map_height: int = 1
    map_width: int = 1
    out_height: int = 1
    out_width: int = 1
    kernel_height: int = 1
    kernel_width: int = 1
    stride_height: int = 1
    stride_width: int = 1
    pad_height: int = 0
    pad_width: int = 0

    @property
    def map_pixels(self) -> int:
        return self.map_height * self.map_width

    @property
    def out_pixels(self) -> int:
        return self.out_height * self.out_width

    @property
    def taps(self) -> int:
        return self.kernel_height * self.kernel_width

    @property
    def reads(self) -> npt.NDArray[np.int64]:
        """The map pixel each output pixel meets with each tap: int64 [out_pixels, taps], -1 where there is none."""
        return _reads(self)

    @property
    def writes(self) -> npt.NDArray[np.int64]:
        """The output pixel that meets each map pixel with each tap: int64 [map_pixels, taps], -1 for none."""
        found = np.full((self.map_pixels, self.taps), -1, dtype=np.int64)
        out, tap = np.nonzero(self.reads >= 0)
        found[self.reads[out, tap], tap] = out
        return found


@lru_cache(maxsize=256)
def _reads(w: Window) -> npt.NDArray[np.int64]:
    y, inside_y = _met(w.map_height, w.out_height, w.kernel_height, w.stride_height, w.pad_height)
    x, inside_x = _met(w.map_width, w.out_width, w.kernel_width, w.stride_width, w.pad_width)
    pixel = y[:, None, :, None] * w.map_width + x[None, :, None, :]
    inside = inside_y[:, None, :, None] & inside_x[None, :, None, :]
    found = np.where(inside, pixel, -1).reshape(w.out_pixels, w.taps)
    found.setflags(write=False)
    return found


def _met(
    size: int, out: int, kernel: int, stride: int, pad: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """(coordinate, whether the map has it), each [out, kernel], along one axis."""
    place = np.arange(out, dtype=np.int64)[:, None] * stride + np.arange(kernel, dtype=np.int64)[None, :] - pad
    return place, (place >= 0) & (place < size)
