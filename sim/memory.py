"""A banked memory as the emulator holds it: rows contiguous, so that matrices are views and nothing is copied.

The device rotates a word's N lanes by its matrix row (arch/layout.py). Here words lie unrotated and each word's
rotation is kept beside it, so that the device's image can be shown at any time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.layout import Matrix, blocks

Values = npt.NDArray[Any]


class BankedMemory:
    """`depth` words of `n` elements, all zero at first.

    dtype: int16 for activations and errors, int32 for masters.
    """

    def __init__(self, depth: int, n: int, dtype: npt.DTypeLike) -> None:
        self.n = n
        self.flat: Values = np.zeros(depth * n, dtype=dtype)
        self._rotation = np.zeros(depth, dtype=np.int64)
        self._version = 0
        self._views: dict[Matrix, tuple[int, Values]] = {}

    @property
    def depth(self) -> int:
        return self._rotation.size

    def view(self, matrix: Matrix) -> Values:
        """The matrix as a writable view [rows, cols]. Writing it is writing the device's memory.

        A word that was last written as another row number is first turned, so that the image does not change. Call it
        before each use: a view taken before another matrix was laid over it may show lanes out of place.
        """
        version, view = self._views.get(matrix, (-1, self.flat))
        if version == self._version:
            return view
        self._align(matrix)
        n, size = self.n, self.flat.itemsize
        view = np.lib.stride_tricks.as_strided(
            self.flat[matrix.base * n :],
            shape=(matrix.rows, matrix.cols),
            strides=(matrix.pitch * n * size, size),
        )
        self._views[matrix] = self._version, view
        return view

    def tail(self, matrix: Matrix) -> Values:
        """The flat memory from the matrix on, turned as `view` does: what compiled loops take, pitch * n a row."""
        self.view(matrix)
        return self.flat[matrix.base * self.n :]

    def _align(self, matrix: Matrix) -> None:
        words = blocks(matrix.cols, self.n)
        rows = np.arange(matrix.rows)[:, None]
        addresses = (matrix.base + rows * matrix.pitch + np.arange(words)[None, :]).ravel()
        wanted = np.broadcast_to(rows % self.n, (matrix.rows, words)).ravel()
        wrong = self._rotation[addresses] != wanted
        if wrong.any():
            self._turn(addresses[wrong], wanted[wrong])
            self._version += 1

    def _turn(self, addresses: npt.NDArray[np.int64], rotation: npt.NDArray[np.int64]) -> None:
        lanes = np.arange(self.n)
        source = (lanes[None, :] + (rotation - self._rotation[addresses])[:, None]) % self.n
        words = self.flat.reshape(-1, self.n)
        words[addresses] = np.take_along_axis(words[addresses], source, axis=1)
        self._rotation[addresses] = rotation

    @property
    def image(self) -> npt.NDArray[np.int64]:
        """The device's memory: int64 [depth, n], a copy."""
        bank = np.arange(self.n)[None, :]
        source = (bank - self._rotation[:, None]) % self.n
        return np.take_along_axis(self.flat.reshape(-1, self.n), source, axis=1).astype(np.int64)

    @image.setter
    def image(self, values: npt.NDArray[np.integer[Any]]) -> None:
        self.flat.reshape(-1, self.n)[:] = values
        self._rotation[:] = 0
        self._version += 1
