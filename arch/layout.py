"""Where a matrix element lies: memories of N banks, stored skewed so that rows and columns both stream.

Element (r, c) of a matrix at word `base` with `pitch` words a row:

    bank    = (r + c) mod N
    address = base + r * pitch + c // N

So the N elements (r, c0 .. c0+N-1), c0 a multiple of N, share an address and fill all banks; the N elements
(r0 .. r0+N-1, c) fill all banks too, each at its own address. No transpose is ever stored.

The columns of a kernel's weights come in groups, one for each tap, and each group begins at a word of its own: c is
then counted within the group, and the address from the group's first word.
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
    TAB = 3  #: tables of functions: a lane looks up the words of the bank of its own number
    VEL = 4  #: velocities of masters, each where its master is in WGT; only where a core has them


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A matrix of one memory: `rows`, each of `groups` groups of `cols` columns and a last one of `tail`; `pitch` words
    from one row to the next."""

    memory: Memory
    base: int
    rows: int
    cols: int
    pitch: int
    groups: int = 1
    tail: int = 0

    def __post_init__(self) -> None:
        require(self.rows >= 1 and self.cols >= 1, f"a matrix of {self.rows} x {self.cols}: both must be at least 1")
        require(self.base >= 0 and self.pitch >= 0, f"base {self.base}, pitch {self.pitch}: neither can be negative")
        require(
            self.groups >= 1 and 0 <= self.tail <= self.cols,
            f"{self.groups} groups of {self.cols} columns and a last one of {self.tail}: it is never the widest",
        )

    @property
    def width(self) -> int:
        """Columns of all groups."""
        return self.groups * self.cols + self.tail

    def row_words(self, n: int) -> int:
        """Words that a row takes, N banks wide."""
        return self.groups * blocks(self.cols, n) + blocks(self.tail, n)

    def words(self, n: int) -> int:
        """Words from `base` to the end of the last row, N banks wide."""
        return (self.rows - 1) * self.pitch + self.row_words(n)

    def end(self, n: int) -> int:
        """The word behind its last."""
        return self.base + self.words(n)

    def overlaps(self, other: Matrix, n: int) -> bool:
        """Whether the spans of words of two matrices meet."""
        return self.memory is other.memory and self.base < other.end(n) and other.base < self.end(n)

    def locate(self, n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(address, bank) of every element, each int64 [rows, width]."""
        r = np.arange(self.rows)[:, None]
        group, c = np.divmod(np.arange(self.width)[None, :], self.cols)
        return self.base + r * self.pitch + group * blocks(self.cols, n) + c // n, (r + c) % n

    def read(self, image: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.signedinteger]:
        """The matrix [rows, width] out of a memory image [depth, N]."""
        return image[self.locate(image.shape[1])]

    def write(self, image: npt.NDArray[np.signedinteger], values: npt.NDArray[np.signedinteger]) -> None:
        """Put values [rows, width] into a memory image [depth, N]; padding lanes keep what they held."""
        image[self.locate(image.shape[1])] = values


def blocks(cols: int, n: int) -> int:
    """Words that a row of `cols` elements takes on N banks."""
    return -(-cols // n)
