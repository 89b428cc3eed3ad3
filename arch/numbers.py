"""Fixed-point numbers: formats, roundings, overflows, and the one narrowing rule everything is held to.

The scalar functions take Python integers of any size and are the definition; the emulator's loops (sim/rows.py) and the
core's drain are held to them by tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from insitu.arch.errors import require


class Rounding(IntEnum):
    """What happens to the `s` low bits a right shift discards."""

    FLOOR = 0  #: towards minus infinity
    NEAREST = 1  #: to the nearest, ties to even
    STOCHASTIC = 2  #: floor after adding a uniform r in [0, 2**s): unbiased
    PSEUDO = 3  #: sign-magnitude; the discarded bits' upper half against their lower half decides (NITI, 2020)


class Overflow(IntEnum):
    """What happens to a value outside the destination's range."""

    SATURATE = 0
    WRAP = 1


#: A narrowing shift is clamped to this range; negative is to the left (the destination is finer than the source).
SHIFT_MIN, SHIFT_MAX = -8, 47
#: The learning-rate product's shift reaches further left: wide masters are much finer than gradients.
UPDATE_SHIFT_MIN, UPDATE_SHIFT_MAX = -24, 31
#: Bits a generator delivers; a stochastic shift by more leaves the lowest bits of r at zero.
RANDOM_BITS = 32


def round_shift(x: int, s: int, mode: int, r: int) -> int:
    """x * 2**-s rounded to an integer.

    `s` at most 47 and, where negative, a shift to the left without rounding; `r` holds 32 uniform bits, read only by
    `Rounding.STOCHASTIC`. Pseudo-stochastic rounding after Wang et al., "NITI: Training Integer Neural Networks Using
    Integer-only Arithmetic" (2020), section III-B.
    """
    if s <= 0:
        return x << -s
    if mode == Rounding.NEAREST:
        return (x + (1 << (s - 1)) - 1 + ((x >> s) & 1)) >> s
    if mode == Rounding.STOCHASTIC:
        if s > RANDOM_BITS:
            return (x + (r << (s - RANDOM_BITS))) >> s
        return (x + (r & ((1 << s) - 1))) >> s
    if mode == Rounding.PSEUDO:
        magnitude = -x if x < 0 else x
        discarded = magnitude & ((1 << s) - 1)
        half = s >> 1
        high = discarded >> half
        low = (discarded & ((1 << half) - 1)) << (s & 1)
        q = (magnitude >> s) + (1 if high > low else 0)
        return -q if x < 0 else q
    return x >> s


def fit(q: int, width: int, wrap: int) -> int:
    """`q` brought into `width` two's-complement bits: saturated, or wrapped where `wrap` is 1."""
    half = 1 << (width - 1)
    if wrap == Overflow.WRAP:
        return ((q + half) & ((1 << width) - 1)) - half
    if q > half - 1:
        return half - 1
    if q < -half:
        return -half
    return q


def clamp(value: int, low: int, high: int) -> int:
    """`value` limited to [low, high]."""
    return low if value < low else high if value > high else value


def narrow(x: int, shift: int, width: int, rounding: int, overflow: int, r: int = 0) -> int:
    """The narrowing point: clamp the shift, round, fit. Every element a pass writes goes through this."""
    return fit(round_shift(x, clamp(shift, SHIFT_MIN, SHIFT_MAX), rounding, r), width, overflow)


def magnitude_bits(x: int) -> int:
    """Bits of the one's-complement magnitude: x fits in `magnitude_bits(x) + 1` two's-complement bits.

    One's complement because its OR over a tensor is an OR gate a lane, where a maximum would be a comparator.
    """
    return (x ^ (x >> 63)).bit_length()


def range_exponent(source_exponent: int, bits: int, width: int) -> int:
    """The finest exponent at which values of `bits` magnitude bits at `source_exponent` fit in `width` bits.

    Never finer than the source: bits that do not exist are not made up. Clamped to the scale registers' range.
    """
    return clamp(source_exponent + max(0, bits + 1 - width), EXPONENT_MIN, EXPONENT_MAX)


def bias_operand(bias_exponent: int, exponent: int, activation_bits: int) -> int:
    """The integer beside activations of an exponent that stands for 2**bias_exponent: the nearest they can hold."""
    return 1 << clamp(bias_exponent - exponent, 0, activation_bits - 2)


def alignment(a: int, b: int) -> tuple[int, int, int]:
    """What operands of exponents a and b are multiplied by to be added, and the exponent of their sum: the lesser one.

    The finer operand counts as zero where that would take a factor beyond 2**ALIGN_MAX: it is then less than about a
    unit in the last place of the other.
    """
    if a >= b:
        return (1 << (a - b), 1, b) if a - b <= ALIGN_MAX else (1, 0, a)
    return (1, 1 << (b - a), a) if b - a <= ALIGN_MAX else (0, 1, b)


#: The largest factor of an addend, as a power of two.
ALIGN_MAX = 14
#: Scale registers are eight-bit two's complement.
EXPONENT_MIN, EXPONENT_MAX = -128, 127


@dataclass(frozen=True, kw_only=True)
class FixedFormat:
    """A tensor's format: `width`-bit two's-complement integers q with value q * 2**exponent."""

    width: int
    exponent: int

    def __post_init__(self) -> None:
        require(2 <= self.width <= 48, f"width {self.width!r}: a format has 2 to 48 bits")
        require(
            EXPONENT_MIN <= self.exponent <= EXPONENT_MAX,
            f"exponent {self.exponent!r}: allowed are {EXPONENT_MIN} to {EXPONENT_MAX}",
        )

    @property
    def minimum(self) -> int:
        return -(1 << (self.width - 1))

    @property
    def maximum(self) -> int:
        return (1 << (self.width - 1)) - 1

    @property
    def step(self) -> float:
        """The real value of one unit in the last place."""
        return 2.0**self.exponent

    @property
    def dtype(self) -> np.dtype[np.signedinteger]:
        """The smallest numpy integer that holds the format."""
        bits = next(b for b in (8, 16, 32, 64) if b >= self.width)
        return np.dtype(f"int{bits}")

    def quantise(self, values: npt.ArrayLike) -> npt.NDArray[np.signedinteger]:
        """Real values -> integers of `dtype`: nearest, ties to even, saturated. Raises ArchError on NaN."""
        x = np.asarray(values, dtype=np.float64)
        require(not bool(np.isnan(x).any()), "a value to quantise is NaN")
        with np.errstate(over="ignore"):  # what overflows a float saturates here
            q = np.rint(np.ldexp(x, -self.exponent))
        return np.clip(q, self.minimum, self.maximum).astype(self.dtype)

    def real(self, q: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Integers -> the real values they stand for."""
        return np.ldexp(np.asarray(q, dtype=np.float64), self.exponent)

    @classmethod
    def covering(cls, magnitude: float, *, width: int, headroom: int = 0) -> FixedFormat:
        """The finest format of `width` bits that holds +-magnitude, with `headroom` more bits above it.

        A power of two counts as held though +magnitude itself saturates by one step: pixels in [0, 1] get all bits.
        """
        require(np.isfinite(magnitude) and magnitude >= 0, f"magnitude {magnitude!r}: must be finite and >= 0")
        # frexp: magnitude = f * 2**b with f in [0.5, 1), so 2**b is the power of two above it, or twice itself.
        fraction, above = (float(v) for v in np.frexp(magnitude)) if magnitude > 0 else (1.0, 0.0)
        above = int(above) - (fraction == 0.5)
        return cls(width=width, exponent=clamp(above + headroom - (width - 1), EXPONENT_MIN, EXPONENT_MAX))
