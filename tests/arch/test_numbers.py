"""Fixed-point numbers against exact rational arithmetic; everything of 8 bits is exhausted."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.arch.errors import ArchError
from insitu.arch.numbers import (
    ALIGN_MAX,
    EXPONENT_MAX,
    EXPONENT_MIN,
    FixedFormat,
    Overflow,
    Rounding,
    alignment,
    clamp,
    fit,
    magnitude_bits,
    narrow,
    range_exponent,
    round_shift,
)

BYTES = range(-128, 128)
SHORTS = range(-600, 600)
SHIFTS = range(1, 11)
words48 = st.integers(-(2**47), 2**47 - 1)
random_bits = st.integers(0, 2**32 - 1)


def floor(x: int, s: int) -> int:
    return math.floor(Fraction(x, 2**s))


@pytest.mark.parametrize("s", SHIFTS)
def test_floor_and_nearest_are_those_of_the_rationals(s: int) -> None:
    for x in SHORTS:
        assert round_shift(x, s, Rounding.FLOOR, 12345) == floor(x, s)
        # Python rounds a Fraction to the nearest integer, ties to even.
        assert round_shift(x, s, Rounding.NEAREST, 12345) == round(Fraction(x, 2**s))


@given(words48, st.integers(1, 47))
def test_floor_and_nearest_of_wide_values(x: int, s: int) -> None:
    assert round_shift(x, s, Rounding.FLOOR, 0) == floor(x, s)
    assert round_shift(x, s, Rounding.NEAREST, 0) == round(Fraction(x, 2**s))


@pytest.mark.parametrize("s", range(1, 9))
def test_stochastic_has_the_exact_mean(s: int) -> None:
    for x in BYTES:
        results = [round_shift(x, s, Rounding.STOCHASTIC, r) for r in range(2**s)]
        assert Fraction(sum(results), 2**s) == Fraction(x, 2**s)
        assert set(results) <= {floor(x, s), floor(x, s) + 1}


@given(words48, st.integers(1, 32), random_bits)
def test_stochastic_reads_the_low_bits_of_r(x: int, s: int, r: int) -> None:
    assert round_shift(x, s, Rounding.STOCHASTIC, r) == floor(x + r % 2**s, s)


@given(words48, st.integers(33, 47), random_bits)
def test_stochastic_beyond_32_bits_leaves_the_lowest_of_r_at_zero(x: int, s: int, r: int) -> None:
    assert round_shift(x, s, Rounding.STOCHASTIC, r) == floor(x + r * 2 ** (s - 32), s)


def pseudo(x: int, s: int) -> int:
    """NITI's rule as its authors write it."""
    r = math.trunc(Fraction(x, 2**s))
    p = abs(x - r * 2**s)
    h = math.floor(s / 2)
    hi, lo = p >> h, p & (2**h - 1)
    if s % 2 == 1:
        lo <<= 1
    sign = (x > 0) - (x < 0)
    return r + sign * int(hi > lo)


@pytest.mark.parametrize("s", SHIFTS)
def test_pseudo_is_its_authors_formula(s: int) -> None:
    for x in SHORTS:
        assert round_shift(x, s, Rounding.PSEUDO, 99) == pseudo(x, s)
        assert round_shift(-x, s, Rounding.PSEUDO, 99) == -round_shift(x, s, Rounding.PSEUDO, 99)


@given(words48, st.integers(1, 47))
def test_pseudo_of_wide_values(x: int, s: int) -> None:
    assert round_shift(x, s, Rounding.PSEUDO, 0) == pseudo(x, s)


@pytest.mark.parametrize(("s", "bias"), [(1, 0.25), (2, -0.125), (4, -0.094), (8, -0.029)])
def test_pseudo_is_biased_as_measured(s: int, bias: float) -> None:
    errors = [round_shift(x, s, Rounding.PSEUDO, 0) - Fraction(x, 2**s) for x in range(4 * 2**s)]
    assert float(sum(errors) / len(errors)) == pytest.approx(bias, abs=0.0005)


@pytest.mark.parametrize("rounding", Rounding)
def test_a_shift_to_the_left_rounds_nothing(rounding: Rounding) -> None:
    for x in BYTES:
        for s in range(9):
            assert round_shift(x, -s, rounding, 2**32 - 1) == x * 2**s


@pytest.mark.parametrize("rounding", Rounding)
@given(x=words48, s=st.integers(1, 47), r=random_bits)
def test_every_rounding_is_within_one_and_keeps_integers(rounding: Rounding, x: int, s: int, r: int) -> None:
    assert abs(round_shift(x, s, rounding, r) - Fraction(x, 2**s)) < 1
    whole = (x >> s) << s
    assert round_shift(whole, s, rounding, r) == whole >> s


@pytest.mark.parametrize("width", range(2, 9))
def test_fit_saturates_or_wraps(width: int) -> None:
    low, high = -(2 ** (width - 1)), 2 ** (width - 1) - 1
    for q in SHORTS:
        assert fit(q, width, Overflow.SATURATE) == sorted([low, q, high])[1]
        wrapped = fit(q, width, Overflow.WRAP)
        assert low <= wrapped <= high
        assert (wrapped - q) % 2**width == 0


def test_narrow_clamps_its_shift_then_rounds_then_fits() -> None:
    assert narrow(3, -100, 32, Rounding.FLOOR, Overflow.SATURATE) == 3 * 2**8
    assert narrow(-1, 1000, 8, Rounding.FLOOR, Overflow.SATURATE) == -1
    assert narrow(2**47 - 1, 1000, 8, Rounding.NEAREST, Overflow.SATURATE) == 1
    # 255 / 2 rounds to 128, which only then is too large.
    assert narrow(255, 1, 8, Rounding.NEAREST, Overflow.SATURATE) == 127
    assert narrow(255, 1, 8, Rounding.NEAREST, Overflow.WRAP) == -128
    assert narrow(255, 1, 8, Rounding.FLOOR, Overflow.WRAP) == 127
    assert narrow(5, 2, 8, Rounding.STOCHASTIC, Overflow.SATURATE, 3) == 2


@given(words48)
def test_magnitude_bits_is_the_narrowest_fit(x: int) -> None:
    bits = magnitude_bits(x)
    assert -(2**bits) <= x < 2**bits
    assert bits == 0 or not -(2 ** (bits - 1)) <= x < 2 ** (bits - 1)


@given(words48, st.integers(-60, 60), st.integers(2, 16))
def test_range_exponent_is_the_finest_that_does_not_overflow(x: int, source: int, width: int) -> None:
    bits = magnitude_bits(x)
    exponent = range_exponent(source, bits, width)
    s = exponent - source
    assert s >= 0
    assert fit(x >> s, width, Overflow.SATURATE) == x >> s
    if s > 0:
        assert fit(x >> (s - 1), width, Overflow.SATURATE) != x >> (s - 1)


def test_range_exponent_stays_in_a_scale_register() -> None:
    assert range_exponent(-300, 4, 8) == EXPONENT_MIN
    assert range_exponent(120, 40, 8) == EXPONENT_MAX


@pytest.mark.parametrize("a", [EXPONENT_MIN, -40, -7, 0, 33, EXPONENT_MAX])
@pytest.mark.parametrize("apart", range(-ALIGN_MAX - 3, ALIGN_MAX + 4))
def test_alignment_keeps_the_values_of_both_or_leaves_the_finer_out(a: int, apart: int) -> None:
    b = a - apart
    of_a, of_b, source = alignment(a, b)
    assert source == (min(a, b) if abs(apart) <= ALIGN_MAX else max(a, b))
    for factor, own, other in ((of_a, a, b), (of_b, b, a)):
        if abs(apart) <= ALIGN_MAX or own > other:
            assert Fraction(factor) * Fraction(2) ** source == Fraction(2) ** own
        else:
            assert factor == 0
    # Factors are elements of the widest word.
    assert max(of_a, of_b) <= 1 << ALIGN_MAX < 1 << 15
    assert alignment(b, a) == (of_b, of_a, source)


def test_clamp() -> None:
    assert [clamp(v, -2, 3) for v in (-9, -2, 0, 3, 9)] == [-2, -2, 0, 3, 3]


@pytest.mark.parametrize("width", range(2, 9))
@pytest.mark.parametrize("exponent", [-128, -9, -1, 0, 3, 127])
def test_real_and_quantise_are_inverse(width: int, exponent: int) -> None:
    fmt = FixedFormat(width=width, exponent=exponent)
    q = np.arange(fmt.minimum, fmt.maximum + 1)
    assert len(q) == 2**width
    real = fmt.real(q)
    assert [Fraction(float(v)) for v in real] == [int(k) * Fraction(2) ** exponent for k in q]
    back = fmt.quantise(real)
    assert back.dtype == np.int8
    assert np.array_equal(back, q)


@pytest.mark.parametrize("exponent", [-5, 0, 2])
def test_quantise_is_nearest_even_and_saturates(exponent: int) -> None:
    fmt = FixedFormat(width=4, exponent=exponent)
    eighths = np.arange(-160, 161)
    got = fmt.quantise(eighths / 8 * fmt.step)
    assert got.tolist() == [min(max(round(Fraction(int(k), 8)), -8), 7) for k in eighths]


@pytest.mark.parametrize(
    ("width", "dtype"), [(2, np.int8), (8, np.int8), (9, np.int16), (17, np.int32), (48, np.int64)]
)
def test_dtype_is_the_smallest_that_holds_the_format(width: int, dtype: type) -> None:
    fmt = FixedFormat(width=width, exponent=0)
    assert fmt.dtype == dtype
    assert fmt.quantise([1e30, -1e30]).tolist() == [2 ** (width - 1) - 1, -(2 ** (width - 1))]


@pytest.mark.parametrize("exponent", [EXPONENT_MIN, 0, EXPONENT_MAX])
def test_values_beyond_any_float_shift_saturate(exponent: int) -> None:
    fmt = FixedFormat(width=8, exponent=exponent)
    assert fmt.quantise([np.inf, -np.inf]).tolist() == [127, -128]
    assert fmt.quantise([1.7e308, -1.7e308, 5e-324, 0.0]).tolist() == [127, -128, 0, 0]


def test_quantise_refuses_nan() -> None:
    with pytest.raises(ArchError, match="NaN"):
        FixedFormat(width=8, exponent=0).quantise([0.0, np.nan])


@given(st.floats(2.0**-100, 2.0**100), st.integers(2, 16), st.integers(0, 3))
def test_covering_is_the_finest_that_holds(magnitude: float, width: int, headroom: int) -> None:
    fmt = FixedFormat.covering(magnitude, width=width, headroom=headroom)
    assert fmt.width == width
    end = 2 ** (width - 1) * Fraction(2) ** (fmt.exponent - headroom)
    assert end / 2 < Fraction(magnitude) <= end
    # Even the upper end of the range is lost by less than a step.
    held = FixedFormat.covering(magnitude, width=width)
    assert np.abs(held.real(held.quantise([magnitude, -magnitude])) - [magnitude, -magnitude]).max() <= held.step


@pytest.mark.parametrize(
    ("magnitude", "exponent"), [(1.0, -7), (1.01, -6), (0.99, -7), (127.0, 0), (128.0, 0), (0.0, -7)]
)
def test_covering_at_powers_of_two(magnitude: float, exponent: int) -> None:
    assert FixedFormat.covering(magnitude, width=8).exponent == exponent


@pytest.mark.parametrize("magnitude", [math.nan, math.inf, -1.0])
def test_covering_refuses(magnitude: float) -> None:
    with pytest.raises(ArchError, match=str(magnitude)):
        FixedFormat.covering(magnitude, width=8)


@pytest.mark.parametrize(("width", "exponent", "bad"), [(1, 0, "1"), (49, 0, "49"), (8, -129, "-129"), (8, 128, "128")])
def test_formats_that_cannot_be(width: int, exponent: int, bad: str) -> None:
    with pytest.raises(ArchError, match=rf" {bad}: "):
        FixedFormat(width=width, exponent=exponent)
