"""Matrices as the beats that LOAD takes and STORE sends, by their rule alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.layout import blocks

Beats = npt.NDArray[np.signedinteger[Any]]


def to_beats(values: npt.NDArray[np.integer], n: int) -> Beats:
    """A matrix [rows, cols] as the beats LOAD expects: int64 [rows * ceil(cols / n), n], padded with zeros."""
    rows, cols = values.shape
    words = blocks(cols, n)
    if cols == words * n:
        return np.ascontiguousarray(values, dtype=np.int64).reshape(-1, n)
    padded = np.zeros((rows, words * n), dtype=np.int64)
    padded[:, :cols] = values
    return padded.reshape(-1, n)


def from_beats(beats: Beats, rows: int, cols: int) -> Beats:
    """The matrix [rows, cols] out of the beats STORE sends."""
    return beats.reshape(rows, -1)[:, :cols]
