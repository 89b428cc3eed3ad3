"""What a drain does to one row of accumulators, as small compiled loops over a row held in cache.

The rules are those of arch/numbers.py, written without branches so that every loop becomes vector code; each loop
touches few arrays, because LLVM gives up on a loop that needs many aliasing checks. A row is int32 where every
intermediate fits, else int64: numba widens int32 sums to int64, hence the casts to the row's own type `T`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.numbers import RANDOM_BITS, Rounding
from insitu.sim.jit import kernel

Row = npt.NDArray[Any]
States = npt.NDArray[np.uint32]

_STOCHASTIC, _NEAREST, _PSEUDO = int(Rounding.STOCHASTIC), int(Rounding.NEAREST), int(Rounding.PSEUDO)


def constants(rounding: Rounding, shift: int) -> tuple[int, int, int, int]:
    """(left, right, mask, extra) of a clamped shift, for `round_row`."""
    left, right = max(0, -shift), max(0, shift)
    if rounding is Rounding.STOCHASTIC:
        return left, right, (1 << min(right, RANDOM_BITS)) - 1, max(0, right - RANDOM_BITS)
    if rounding is Rounding.NEAREST:
        return left, right, (1 << (right - 1)) - 1 if right else 0, 1 if right else 0
    return left, right, (1 << right) - 1, 0


@kernel
def step(states: States) -> None:
    """One step of every generator: the xorshift of arch/generator.py in uint32."""
    for c in range(states.size):
        v = states[c]
        v = np.uint32(v ^ np.uint32(v << np.uint32(13)))
        v = np.uint32(v ^ np.uint32(v >> np.uint32(17)))
        states[c] = np.uint32(v ^ np.uint32(v << np.uint32(5)))


@kernel
def seen(x: Row) -> Any:
    """OR of the one's-complement magnitudes."""
    T = x.dtype.type
    sign = T(8 * x.itemsize - 1)
    bits = T(0)
    for c in range(x.size):
        bits = T(bits | T(x[c] ^ T(x[c] >> sign)))
    return bits


@kernel
def round_row(x: Row, rounding: int, states: States, by: tuple[int, int, int, int]) -> None:
    """x <- x * 2**-s rounded, `by` the `constants` of s. States are read by stochastic rounding only."""
    T = x.dtype.type
    # The masks change nothing; they tell LLVM that a shift fits the row's own type, which it then stays in.
    widest = T(8 * x.itemsize - 1)
    left, right, extra = T(T(by[0]) & widest), T(T(by[1]) & widest), T(T(by[3]) & widest)
    mask = T(by[2])
    if left != 0:
        for c in range(x.size):
            x[c] = T(x[c] << left)
    elif rounding == _STOCHASTIC and extra != 0:
        for c in range(x.size):
            x[c] = T(T(x[c] + T(T(T(states[c]) & mask) << extra)) >> right)
    elif rounding == _STOCHASTIC:
        for c in range(x.size):
            x[c] = T(T(x[c] + T(T(states[c]) & mask)) >> right)
    elif rounding == _NEAREST:
        odd = T(by[3])
        for c in range(x.size):
            x[c] = T(T(x[c] + T(mask + T(T(x[c] >> right) & odd))) >> right)
    elif rounding == _PSEUDO:
        half, odd = T(right >> T(1)), T(right & T(1))
        low_mask = T(T(T(1) << half) - T(1))
        for c in range(x.size):
            sign = T(x[c] >> widest)
            magnitude = T(T(x[c] ^ sign) - sign)
            discarded = T(magnitude & mask)
            up = T(T(discarded >> half) > T(T(discarded & low_mask) << odd))
            q = T(T(magnitude >> right) + up)
            x[c] = T(T(q ^ sign) - sign)
    else:
        for c in range(x.size):
            x[c] = T(x[c] >> right)


@kernel
def fit_row(x: Row, low: int, high: int, wrap: int) -> int:
    """x <- x in [low, high], saturated or wrapped. Returns how many elements changed."""
    T = x.dtype.type
    bottom, top = T(low), T(high)
    mask = T(top - bottom)
    changed = T(0)
    if wrap:
        for c in range(x.size):
            q = T(T(T(x[c] - bottom) & mask) + bottom)
            changed = T(changed + T(q != x[c]))
            x[c] = q
    else:
        for c in range(x.size):
            q = min(max(x[c], bottom), top)
            changed = T(changed + T(q != x[c]))
            x[c] = q
    return np.int64(changed)  # type: ignore[return-value]
