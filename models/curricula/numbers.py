"""Softmax in float32, and its logarithm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from insitu.models.curricula.pool import Logits

LEAST = np.float32(1e-7)
"""What a probability is taken as where its logarithm is asked for, at least."""


def softmax(z: Logits, temperature: float = 1.0) -> NDArray[np.float32]:
    """softmax(z / temperature), float32 [n, classes]."""
    e = np.exp((z - z.max(axis=1, keepdims=True)) / np.float32(temperature))
    return e / e.sum(axis=1, keepdims=True)


def log(p: NDArray[np.float32]) -> NDArray[np.float32]:
    """log(p), p of LEAST at least."""
    return np.log(np.maximum(p, LEAST))
