"""The arithmetic of docs/arithmetic.md on Python integers: narrowing, random bits, exponents, loss."""

from __future__ import annotations

from insitu.arch.numbers import Overflow, Rounding

WORD = 2**32


def limit(value: int, low: int, high: int) -> int:
    """`value`, or the end of [low, high] it lies beyond."""
    return min(max(value, low), high)


def rounded(x: int, s: int, rounding: Rounding, r: int) -> int:
    """x / 2**s as an integer: step 2 of narrowing. Shifts left, and rounds nothing, where s <= 0."""
    if s <= 0:
        return x * 2**-s
    unit = 2**s
    quotient, rest = divmod(x, unit)
    match rounding:
        case Rounding.FLOOR:
            return quotient
        case Rounding.NEAREST:
            up = 2 * rest > unit or (2 * rest == unit and quotient % 2 == 1)
            return quotient + up
        case Rounding.STOCHASTIC:
            noise = r % unit if s <= 32 else r * 2 ** (s - 32)
            return quotient + (rest + noise >= unit)
        case Rounding.PSEUDO:
            whole, d = divmod(abs(x), unit)
            h = s // 2
            hi, lo = divmod(d, 2**h)
            magnitude = whole + (hi > lo * 2 ** (s % 2))
            return -magnitude if x < 0 else magnitude
    raise AssertionError(rounding)


def fitted(q: int, width: int, overflow: Overflow) -> int:
    """`q` in `width` two's-complement bits."""
    low, high = -(2 ** (width - 1)), 2 ** (width - 1) - 1
    if overflow == Overflow.SATURATE:
        return limit(q, low, high)
    q %= 2**width
    return q - 2**width if q > high else q


def shifted(x: int, s: int, rounding: Rounding, r: int) -> int:
    """Narrowing up to, and without, its fit."""
    return rounded(x, limit(s, -8, 47), rounding, r)


def xorshift(state: int) -> int:
    """One step of the 32-bit generator (13, 17, 5)."""
    state ^= state * 2**13 % WORD
    state ^= state // 2**17
    return state ^ (state * 2**5 % WORD)


def lane_seed(seed: int, lane: int, stream: int) -> int:
    """The state of a lane's generator when an instruction begins."""
    a = (seed + (2 * lane + stream + 1) * 0x9E3779B9) % WORD
    a = (a + 0x7ED55D16 + (a << 12)) % WORD
    a = a ^ 0xC761C23C ^ (a >> 19)
    a = (a + 0x165667B1 + (a << 5)) % WORD
    a = ((a + 0xD3A2646C) % WORD) ^ ((a << 9) % WORD)
    a = (a + 0xFD7046C5 + (a << 3)) % WORD
    a = a ^ 0xB55A4F09 ^ (a >> 16)
    return a or 0x9E3779B9


def range_exponent(source: int, bits: int, width: int) -> int:
    """The exponent at which magnitudes of `bits` bits at exponent `source` fit `width` bits."""
    return limit(source + max(0, bits + 1 - width), -128, 127)


def magnitude(x: int) -> int:
    """The one's-complement magnitude."""
    return x if x >= 0 else -x - 1


def loss_row(z: list[int], t: list[int], z_exponent: int, word_bits: int) -> list[int]:
    """The accumulators of a LOSS row: softmax of the logits z times the targets' sum, minus the targets t."""
    shift = limit(7 - z_exponent, -8, 31)
    scores = [rounded(value * 47274, shift, Rounding.FLOOR, 0) for value in z]
    top = max(scores)
    powers = []
    for score in scores:
        whole, fraction = divmod(score - top, 256)
        powers.append((256 + fraction) * 128 // 2 ** min(31, -whole))
    total = sum(powers)
    span = 2 ** (word_bits + 8)
    weight = sum(t) % span
    if weight >= span // 2:
        weight -= span
    return [
        (power * 65536 + total // 2) // total * weight - value * 65536 for power, value in zip(powers, t, strict=True)
    ]
