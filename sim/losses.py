"""LOSS: the accumulators of softmax(z) * sum(t) - t, by the rules of arch/loss.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch import loss
from insitu.sim.drains import Flat
from insitu.sim.jit import callee, kernel

_base2_logit: Any = callee(loss.base2_logit)
_exp2: Any = callee(loss.exp2)
_probability: Any = callee(loss.probability)
_weight: Any = callee(loss.weight)
_gradient: Any = callee(loss.gradient)


@kernel
def loss_accumulators(z: Flat, t: Flat, z_exponent: int, bits: int, acc: npt.NDArray[np.int64]) -> None:
    """LOSS: logits z and targets t of `bits` bits -> accumulators, all [rows, cols]."""
    rows, cols = z.shape
    s = np.empty(cols, np.int64)
    for r in range(rows):
        top = np.int64(-(1 << 62))
        for c in range(cols):
            s[c] = _base2_logit(np.int64(z[r, c]), z_exponent)
            top = max(top, s[c])
        total, targets = np.int64(0), np.int64(0)
        for c in range(cols):
            s[c] = _exp2(s[c] - top)
            total += s[c]
            targets += np.int64(t[r, c])
        targets = _weight(targets, bits)
        for c in range(cols):
            acc[r, c] = _gradient(_probability(s[c], total), np.int64(t[r, c]), targets)
