"""Rules of published integer training that no core of arch/ has: the emulator follows them for comparison alone.

NITI: Wang et al., "NITI: Training Integer Neural Networks Using Integer-only Arithmetic" (2020), sections III-A to
III-C, and the integer cross-entropy its authors published with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insitu.arch.loss import LOG2E, LOG2E_BITS

#: Fractional bits of NITI's loss gradient before it is narrowed, and after.
LOSS_BITS, ERROR_BITS = 11, 7
#: Powers of two that a probability spans: those of logits further below the largest are 0.
_SPAN = 10
#: Logits of an exponent above this take the base-2 exponential, others are so small that 1 + x + x**2 / 2 does.
_LINEAR = -7
#: Exponents below this are taken as this: the gradient no longer changes, and would leave 64 bits.
_LOWEST = -24


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What differs from docs/arithmetic.md.

    symmetric: results saturate to +-(2**(width-1) - 1). ceiling: an exact range has ceil(log2(max|acc|)) bits, where
    the device ORs magnitudes: the two differ where the largest is a positive power of two. normalised: an exact UPDATE
    shifts the accumulated gradient down to `width - 1 - lr_shift` bits by its own range and subtracts it as it is:
    neither its exponent nor lr_mul is looked at. integer_loss: LOSS is NITI's, with the class of the largest target as
    label.
    """

    symmetric: bool = False
    ceiling: bool = False
    normalised: bool = False
    integer_loss: bool = False

    def limits(self, width: int) -> tuple[int, int]:
        """The least and the largest number of a width."""
        half = 1 << (width - 1)
        return (1 - half if self.symmetric else -half), half - 1


def ceiling_bits(acc: npt.NDArray[np.int64]) -> int:
    """ceil(log2(max|acc|)), 0 where all are zero."""
    return max(0, int(np.abs(acc).max(initial=0)) - 1).bit_length()


def integer_loss(z: npt.NDArray[np.integer], t: npt.NDArray[np.integer], exponent: int) -> npt.NDArray[np.int64]:
    """NITI's cross-entropy: dL/dz with LOSS_BITS fractional bits, int64 [rows, classes].

    z, t: logits of that exponent and targets, [rows, classes]. Divisions truncate, as its integer tensors did. A row
    whose targets are all zero has a gradient of zero.
    """
    a = z.astype(np.int64)
    if exponent > _LINEAR:
        s = _truncated(a * LOG2E, LOG2E_BITS)
        s = s << exponent if exponent >= 0 else _truncated(s, -exponent)
        d = np.maximum(s - (s.max(axis=1, keepdims=True) - _SPAN), 0)
        p = (np.int64(1) << d) - 1
    else:
        e = max(exponent, _LOWEST)
        p = (1 << (1 - 2 * e)) + (a << (1 - e)) + a * a
    g = (p << LOSS_BITS) // p.sum(axis=1, keepdims=True)
    g[np.arange(len(g)), t.argmax(axis=1)] -= g.sum(axis=1)
    g[(t == 0).all(axis=1)] = 0
    return g


def _truncated(x: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.int64]:
    """x / 2**bits towards zero."""
    return np.sign(x) * (np.abs(x) >> bits)
