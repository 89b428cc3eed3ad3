"""What a drain does to one row of accumulators, as small compiled loops over a row held in cache.

The rules are those of arch/numbers.py, written without branches so that every loop becomes vector code; each loop
touches few arrays, because LLVM gives up on a loop that needs many aliasing checks. A row is int32 where every
intermediate fits, else int64: numba widens int32 sums to int64, hence the casts to the row's own type `T`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

from insitu.arch.numbers import RANDOM_BITS, Rounding
from insitu.sim.jit import kernel

Row = npt.NDArray[Any]
States = npt.NDArray[np.uint32]
#: (left, right, random, extra, below, odd, pseudo): a clamped shift as `round_row` takes it. Rounding is
#: ((x << left) + (r & random << extra) + below + (x >> right & odd)) >> right; `pseudo` is 1 where the discarded bits
#: decide instead.
By = tuple[int, int, int, int, int, int, int]


@lru_cache(maxsize=1024)
def constants(rounding: Rounding, shift: int) -> By:
    """What `round_row` needs for a clamped shift."""
    left, right = max(0, -shift), max(0, shift)
    random = (1 << min(right, RANDOM_BITS)) - 1 if rounding is Rounding.STOCHASTIC else 0
    nearest = right > 0 and rounding is Rounding.NEAREST
    return (
        left,
        right,
        random,
        max(0, right - RANDOM_BITS),
        (1 << (right - 1)) - 1 if nearest else 0,
        int(nearest),
        int(rounding is Rounding.PSEUDO),
    )


def _shift(name: str) -> Any:
    """A shift in the value's own type, for shifts that fit it: numba's would widen it and LLVM not find back."""

    @intrinsic
    def shift(typing, value, by):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return getattr(builder, name)(*arguments)

        return value(value, value), generate

    return shift


_left, _right = _shift("shl"), _shift("ashr")


@kernel
def following(v: Any) -> Any:
    """A generator's next state: the xorshift of arch/generator.py in uint32."""
    v = np.uint32(v ^ np.uint32(v << np.uint32(13)))
    v = np.uint32(v ^ np.uint32(v >> np.uint32(17)))
    return np.uint32(v ^ np.uint32(v << np.uint32(5)))


@kernel
def step(states: States) -> None:
    """One step of every generator."""
    for c in range(states.size):
        states[c] = following(states[c])


@kernel
def take(source: Row, x: Row) -> Any:
    """x <- source, of any dtype; the OR of the one's-complement magnitudes."""
    T = x.dtype.type
    sign = T(8 * x.itemsize - 1)
    bits = T(0)
    for c in range(x.size):
        v = T(source[c])
        bits = T(bits | T(v ^ T(v >> sign)))
        x[c] = v
    return bits


@kernel
def round_row(x: Row, states: States, by: By, steps: bool) -> None:
    """x <- x * 2**-s rounded, `by` the `constants` of s; `states`, random bits [x.size], are read where it draws: after
    a step of each where it `steps`."""
    T = x.dtype.type
    left, right, extra = T(by[0]), T(by[1]), T(by[3])
    random, below, odd = T(by[2]), T(by[4]), T(by[5])
    if by[6]:
        top = T(8 * x.itemsize - 1)
        half, low = T(right >> 1), T(right & 1)
        mask, low_mask = T((1 << right) - 1), T((1 << half) - 1)
        for c in range(x.size):
            v = _left(x[c], left)
            sign = _right(v, top)
            magnitude = T(T(v ^ sign) - sign)
            discarded = T(magnitude & mask)
            up = T(_right(discarded, half) > _left(T(discarded & low_mask), low))
            q = T(_right(magnitude, right) + up)
            x[c] = T(T(q ^ sign) - sign)
    elif random and steps:
        for c in range(x.size):
            states[c] = following(states[c])
            x[c] = _right(T(x[c] + _left(T(T(states[c]) & random), extra)), right)
    elif random:
        for c in range(x.size):
            x[c] = _right(T(x[c] + _left(T(T(states[c]) & random), extra)), right)
    else:
        for c in range(x.size):
            v = _left(x[c], left)
            x[c] = _right(T(v + T(below + T(_right(v, right) & odd))), right)


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
