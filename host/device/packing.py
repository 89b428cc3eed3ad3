"""How a tensor's values lie in the beats that its LOAD takes and its STORE gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.layout import blocks
from insitu.arch.program import Tensor
from insitu.host.device.protocol import Buffer
from insitu.host.errors import DeviceError

Integers = npt.NDArray[np.signedinteger[Any]]


class Packing:
    """Beats of a tensor on N lanes; every index is found once, here.

    beats: how many. width: values in a row of them, a sample's features where the tensor holds samples. They are given
    as torch has them, [n, width]; what the device makes of a sample (arch/samples.py) is looked up.
    """

    def __init__(self, name: str, tensor: Tensor, n: int) -> None:
        matrix, samples = tensor.matrix, tensor.samples
        self._name, self._cols = name, matrix.width
        self._rows, self._row = matrix.rows, matrix.row_words(n) * n
        self.beats = matrix.rows * matrix.row_words(n)
        self._lanes: slice | npt.NDArray[np.int64] = slice(matrix.width)  # of a row, one a column
        if matrix.groups > 1:
            group, column = np.divmod(np.arange(matrix.width), matrix.cols)
            self._lanes = group * blocks(matrix.cols, n) * n + column
        self.width = matrix.width
        self._most = matrix.rows
        self._sources: npt.NDArray[np.int64] | None = None
        self._pixels = 1
        self._shape: tuple[int, ...] = (matrix.width,)
        if samples is not None:
            self._most, self._pixels = matrix.rows // samples.pixels, samples.pixels
            self.width = samples.features
            if samples.window.map_pixels > 1:
                self._sources, self._shape = samples.sources, samples.shape

    def flat(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values [n, ...] as [n, width]. Raises DeviceError where they are images of another shape; other sizes are
        left for `fill` to refuse."""
        given, wanted = values.shape[1:], self._shape
        if values.ndim == 0:
            raise DeviceError(f"{self._name} of shape (): expected [n, {', '.join(map(str, wanted))}]")
        plain = tuple(size for size in given if size != 1) == tuple(size for size in wanted if size != 1)
        if len(given) > 1 and len(wanted) > 1 and not plain:
            raise DeviceError(f"{self._name} of shape {values.shape}: expected [n, {', '.join(map(str, wanted))}]")
        return values.reshape(len(values), int(np.prod(given)))

    def fill(self, buffer: Buffer, values: Integers) -> Buffer:
        """Put at most the tensor's rows, or samples, [n, width] into a buffer of zeros. Raises DeviceError where they
        are none."""
        if values.ndim != 2 or values.shape[1] != self.width or len(values) > self._most:
            shape = ", ".join(map(str, self._shape))
            raise DeviceError(f"{self._name} of shape {values.shape}: expected [n, {shape}], n up to {self._most}")
        if self._sources is None:
            buffer.reshape(self._rows, self._row)[: len(values), self._lanes] = values
            return buffer
        by_feature = np.zeros((self.width + 1, len(values)), dtype=values.dtype)
        by_feature[:-1] = values.T  # the last stays zero: what a tap meets beyond the map
        given = by_feature[self._sources].transpose(0, 2, 1)
        buffer.reshape(self._pixels, self._most, self._row)[:, : len(values), : self._cols] = given
        return buffer

    def matrix(self, buffer: Buffer) -> Integers:
        """The matrix [rows, columns] out of the beats of a STORE."""
        return buffer.reshape(self._rows, self._row)[:, self._lanes]
