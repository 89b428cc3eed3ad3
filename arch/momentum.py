"""How an update with velocities moves a master: the one rule that emulator and core are held to.

A velocity v counts units of the master's last place times 2**-fraction. An update of a gradient g moves it and, by it,
the master D:

    v' = fit(mu v + lr g + decay D),   D' = fit(D - v' / 2**fraction)

Each of the four products is rounded for itself. Stochastic rounding is what a small velocity needs: to nearest, one
below half a unit would never decay, and one below half of the master's last place would never move it. A rounding of
random bits r is unbiased whatever its operand, but only where its operand does not depend on r; and v' depends on the
bits of its terms. So the terms take r from its lowest bit up and what moves the master takes the `fraction` bits at its
top, which no term reaches: none shifts by more than 31 - fraction where a velocity has a fraction. The terms may share
bits, because a sum's mean is the sum of means. A master without gradient and velocity then stays where it is, and a
velocity at rest leaves it where it was, on average.

All functions are valid numba sources.
"""

from __future__ import annotations

from insitu.arch.isa import MOMENTUM_BITS
from insitu.arch.numbers import RANDOM_BITS, UPDATE_SHIFT_MAX, UPDATE_SHIFT_MIN, Overflow, clamp, fit, round_shift

SATURATE = int(Overflow.SATURATE)


def gradient_shift(shift: int, fraction: int) -> int:
    """From the shift that takes lr_mul * g to the master's units, not yet clamped, to that to the velocity's."""
    return clamp(shift - fraction, UPDATE_SHIFT_MIN, UPDATE_SHIFT_MAX - max(0, fraction))


def decay_shift(shift: int, fraction: int) -> int:
    """From the shift of a decay in the master's units to that to the velocity's, 0 to 55."""
    return max(0, shift - fraction)


def moving_bits(r: int, fraction: int) -> int:
    """The random bits with which a velocity moves its master: those at the top of r."""
    return r >> (RANDOM_BITS - fraction) if fraction > 0 else 0


def decayed(d: int, mul: int, shift: int, width: int, rounding: int, r: int) -> int:
    """What a master adds to its velocity of `width` bits: d * mul * 2**-shift, saturated. shift: `decay_shift`."""
    return fit(round_shift(mul * d, shift, rounding, r), width, SATURATE)


def kept(v: int, mul: int, rounding: int, r: int) -> int:
    """What is kept of a velocity: mul / 256 of it."""
    return round_shift(mul * v, MOMENTUM_BITS, rounding, r)


def moved(v: int, fraction: int, rounding: int, r: int) -> int:
    """What a velocity takes from its master, in the master's units; r: the update's random bits."""
    return round_shift(v, fraction, rounding, moving_bits(r, fraction))
