"""Where a matrix element lies: three memories of N banks, stored skewed so that rows and columns both stream.

Element (r, c) of a matrix at word `base` with `pitch` words a row:

    bank    = (r + c) mod N
    address = base + r * pitch + c // N

So the N elements (r, c0 .. c0+N-1), c0 a multiple of N, share an address and fill all banks; the N elements
(r0 .. r0+N-1, c) fill all banks too, each at its own address. No transpose is ever stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from insitu.arch.errors import require


class Memory(IntEnum):
    """The banked memories, each with one read port and one write port."""

    ACT = 0  #: activations
    ERR = 1  #: errors and targets
    WGT = 2  #: master weights; the read port delivers them rounded to the weight width


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A `rows` x `cols` matrix of one memory, `pitch` words from one row to the next."""

    memory: Memory
    base: int
    rows: int
    cols: int
    pitch: int

    def __post_init__(self) -> None:
        require(self.rows >= 1 and self.cols >= 1, f"a matrix of {self.rows} x {self.cols}: both must be at least 1")
        require(self.base >= 0 and self.pitch >= 0, f"base {self.base}, pitch {self.pitch}: neither can be negative")

    def words(self, n: int) -> int:
        """Words from `base` to the end of the last row, N banks wide."""
        return (self.rows - 1) * self.pitch + blocks(self.cols, n)

    def overlaps(self, other: Matrix, n: int) -> bool:
        """Whether the spans of words of two matrices meet."""
        return (
            self.memory is other.memory
            and self.base < other.base + other.words(n)
            and other.base < self.base + self.words(n)
        )

    def locate(self, n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(address, bank) of every element, each int64 [rows, cols]."""
        r = np.arange(self.rows)[:, None]
        c = np.arange(self.cols)[None, :]
        return self.base + r * self.pitch + c // n, (r + c) % n

    def read(self, image: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.signedinteger]:
        """The matrix [rows, cols] out of a memory image [depth, N]."""
        return image[self.locate(image.shape[1])]

    def write(self, image: npt.NDArray[np.signedinteger], values: npt.NDArray[np.signedinteger]) -> None:
        """Put values [rows, cols] into a memory image [depth, N]; padding lanes keep what they held."""
        image[self.locate(image.shape[1])] = values


def blocks(cols: int, n: int) -> int:
    """Words that a row of `cols` elements takes on N banks."""
    return -(-cols // n)
