"""A banked memory as the emulator holds it: rows contiguous, so that matrices are views and nothing is copied.

The device rotates a word's N lanes by its matrix row (arch/layout.py). Here words lie unrotated and each word's
rotation is kept beside it, so that the device's image can be shown at any time.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.layout import Matrix, blocks

Values = npt.NDArray[Any]


class BankedMemory:
    """`depth` words of `n` elements, all zero at first.

    dtype: int16 for activations, errors and tables, int32 for masters.
    version: raised whenever words were turned, which may put lanes of any matrix out of place.
    """

    def __init__(self, depth: int, n: int, dtype: npt.DTypeLike) -> None:
        self.n = n
        self.flat: Values = np.zeros(depth * n, dtype=dtype)
        self.version = 0
        self._rotation = np.zeros(depth, dtype=np.int64)

    @property
    def depth(self) -> int:
        return self._rotation.size

    def view(self, matrix: Matrix) -> Values:
        """A matrix of one group as a writable view [rows, cols], for this once: see `Place.view`."""
        return Place(self, matrix).view

    def align(self, matrix: Matrix) -> None:
        """Turn words that were last written as another row number; the image does not change."""
        words = matrix.row_words(self.n)
        rows = np.arange(matrix.rows)[:, None]
        addresses = (matrix.base + rows * matrix.pitch + np.arange(words)[None, :]).ravel()
        self.settle(addresses, np.broadcast_to(rows % self.n, (matrix.rows, words)).ravel())

    def settle(self, addresses: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> None:
        """Turn words that do not have the wanted rotation."""
        wrong = self._rotation[addresses] != wanted
        if wrong.any():
            self._turn(addresses[wrong], wanted[wrong])
            self.version += 1

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
        self.version += 1


class Place:
    """A matrix in its memory, found once and used many times. Writing it is writing the device's memory.

    pitch: elements from one row to the next.
    """

    def __init__(self, memory: BankedMemory, matrix: Matrix) -> None:
        self.memory = memory
        self.matrix = matrix
        self.pitch = matrix.pitch * memory.n
        self._flat = memory.flat[matrix.base * memory.n :]
        size = self._flat.itemsize
        #: Elements from one group of columns to the next.
        self.group_pitch = blocks(matrix.cols, memory.n) * memory.n
        self._view = np.lib.stride_tricks.as_strided(
            self._flat, shape=(matrix.rows, matrix.cols), strides=(self.pitch * size, size)
        )
        self._version = -1

    @property
    def flat(self) -> Values:
        """The memory from the matrix on, lanes in place now: what compiled loops take. Ask anew before each use."""
        if self._version != self.memory.version:
            self.memory.align(self.matrix)
            self._version = self.memory.version
        return self._flat

    @property
    def view(self) -> Values:
        """The matrix's first group [rows, cols], writable, lanes in place now. Ask anew before each use: laying another
        matrix over it may turn its words."""
        _ = self.flat
        return self._view

    @cached_property
    def columns(self) -> npt.NDArray[np.int64]:
        """Where each column lies in a row's words: int64 [width]."""
        group, column = np.divmod(np.arange(self.matrix.width), self.matrix.cols)
        return group * self.group_pitch + column

    def read(self) -> Values:
        """All columns: a copy [rows, width]."""
        return self.flat[np.arange(self.matrix.rows)[:, None] * self.pitch + self.columns]

    def write(self, values: npt.NDArray[np.integer[Any]]) -> None:
        """Write all columns [rows, width]."""
        self.flat[np.arange(self.matrix.rows)[:, None] * self.pitch + self.columns] = values


class Table:
    """Words of a memory as its banks hold them, found once and used many times."""

    def __init__(self, memory: BankedMemory, base: int, words: int) -> None:
        self.memory = memory
        self._addresses = np.arange(base, base + words)
        self._flat = memory.flat[base * memory.n : (base + words) * memory.n]
        self._version = -1

    @property
    def flat(self) -> Values:
        """[words * n], word by word, a bank after another. Ask anew before each use."""
        if self._version != self.memory.version:
            self.memory.settle(self._addresses, np.zeros_like(self._addresses))
            self._version = self.memory.version
        return self._flat
