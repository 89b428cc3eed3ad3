"""The device's softmax and loss gradient: base-2 exponential by add and shift, one division a class.

For a row of logits z with exponent e_z and of targets t with exponent e_t:

    s    = floor(z * log2(e) * 2**e_z), with 8 fractional bits
    d    = s - max(s) <= 0,  d = i + f  with i integer and f in [0, 1)
    v    = (1 + f) * 2**i * 2**15, floored         (2**f ~ 1 + f: at most 6.2 % above, where f = 0.44)
    p    = v * 2**16 / sum(v), rounded
    dz   = p * sum(t) - t * 2**16, an accumulator with exponent e_t - 16, narrowed to the error role like any other

The probabilities are scaled by the sum of the targets because logits do not feel a common shift: were the two sums not
the same, as where a target of 1 is stored as 127 / 128, every sample would push all logits the same way, with nothing
to push back. So a target row need not sum to one, its sum weighs the sample, and a row of zeros trains nothing.

The functions are valid numba sources.
"""

from __future__ import annotations

#: log2(e) with 15 fractional bits: 47274 / 2**15 = 1.442688.
LOG2E, LOG2E_BITS = 47274, 15
#: Fractional bits of the base-2 exponent.
FRACTION_BITS = 8
#: An exponential of zero is 2**EXP_BITS.
EXP_BITS = 15
#: Fractional bits of a probability.
PROBABILITY_BITS = 16
#: Bits the sum of a row's targets has more than a target: exact for up to 256 classes.
SUM_BITS = 8
#: An exponential shifted by more than this is zero.
EXP_SHIFT_MAX = 31
#: The base-2 scaling's right shift is clamped to this range.
SCALE_SHIFT_MIN, SCALE_SHIFT_MAX = -8, 31


def base2_logit(z: int, exponent: int) -> int:
    """z * 2**exponent * log2(e), floored to FRACTION_BITS fractional bits."""
    shift = min(max(LOG2E_BITS - FRACTION_BITS - exponent, SCALE_SHIFT_MIN), SCALE_SHIFT_MAX)
    product = z * LOG2E
    return product >> shift if shift >= 0 else product << -shift


def exp2(d: int) -> int:
    """2**(d / 2**FRACTION_BITS) with EXP_BITS fractional bits, d <= 0."""
    i = -(d >> FRACTION_BITS)
    f = d & ((1 << FRACTION_BITS) - 1)
    if i > EXP_SHIFT_MAX:
        i = EXP_SHIFT_MAX
    return (((1 << FRACTION_BITS) + f) << (EXP_BITS - FRACTION_BITS)) >> i


def probability(v: int, total: int) -> int:
    """v / total with PROBABILITY_BITS fractional bits, to the nearest, halves up. 0 <= v <= total < 2**31."""
    return ((v << PROBABILITY_BITS) + (total >> 1)) // total


def weight(targets_sum: int, bits: int) -> int:
    """The sum of a row's targets as the device holds it: wrapped to SUM_BITS more bits than a target."""
    half = 1 << (bits + SUM_BITS - 1)
    return ((targets_sum + half) & (2 * half - 1)) - half


def gradient(p: int, t: int, total: int) -> int:
    """dL/dz, with `total` the row's `weight`: an accumulator whose exponent is PROBABILITY_BITS below the targets'."""
    return p * total - (t << PROBABILITY_BITS)
