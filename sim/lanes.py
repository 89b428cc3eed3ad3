"""The lanes' random generators, all columns of a pass at once.

A column of tiles drains all its rows before the next column begins, so column c's generator has taken
(c // N) * rows steps when its first row comes. Xorshift is linear over GF(2): that many steps are one 32 x 32 bit
matrix, and every column can start where it belongs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from insitu.arch import generator
from insitu.sim.jit import callee, kernel

States = npt.NDArray[np.uint32]

_mix, _lane_key, _nonzero = callee(generator.mix), callee(generator.lane_key), callee(generator.nonzero)


@kernel
def skip(columns: States, before: States, after: States) -> None:
    """after <- before, the steps later that `columns` is the `jump` of."""
    after[:] = 0
    for bit in range(32):
        column, place = columns[bit], np.uint32(bit)
        for c in range(before.size):
            after[c] ^= np.uint32(column & np.uint32(-np.int32((before[c] >> place) & np.uint32(1))))


def _skipped(columns: States, states: States) -> States:
    after = np.empty_like(states)
    skip(columns, states, after)
    return after


@lru_cache(maxsize=256)
def jump(steps: int) -> States:
    """The bit matrix of `steps` generator steps: uint32 [32], the images of the single bits."""
    result = np.array([1 << b for b in range(32)], dtype=np.uint32)
    square = np.array([generator.xorshift(1 << b) for b in range(32)], dtype=np.uint32)
    while steps:
        if steps & 1:
            result = _skipped(square, result)
        square = _skipped(square, square)
        steps >>= 1
    return result


@kernel
def start_states(seed: int, stream: int, columns: States, states: States, n: int) -> None:
    """states [cols] <- every column's generator before its first row; `columns` is the `jump` of a column's rows."""
    for lane in range(min(n, states.size)):
        states[lane] = _nonzero(_mix(_lane_key(seed, lane, stream)))
    for first in range(n, states.size, n):
        width = min(n, states.size - first)
        skip(columns, states[first - n : first - n + width], states[first : first + width])


def start(seed: int, stream: int, *, rows: int, cols: int, n: int) -> States:
    """Every column's generator before its first row: uint32 [cols]."""
    states = np.empty(cols, dtype=np.uint32)
    start_states(seed, stream, jump(rows), states, n)
    return states
