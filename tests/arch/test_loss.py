"""The device's softmax against the exact one."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.arch.loss import (
    EXP_BITS,
    FRACTION_BITS,
    LOG2E,
    LOG2E_BITS,
    PROBABILITY_BITS,
    base2_logit,
    exp2,
    gradient,
    probability,
    weight,
)

ONE = 1 << PROBABILITY_BITS
#: The worst error of a probability while logits have exponents of -9 to 0.
WORST = 0.017


def probabilities(z: list[int], exponent: int) -> list[int]:
    s = [base2_logit(x, exponent) for x in z]
    v = [exp2(x - max(s)) for x in s]
    return [probability(x, sum(v)) for x in v]


def exact(z: list[int], exponent: int) -> np.ndarray:
    x = np.array(z) * 2.0**exponent
    e = np.exp(x - x.max())
    return e / e.sum()


def check(z: list[int], exponent: int) -> None:
    p = probabilities(z, exponent)
    assert np.abs(np.array(p) / ONE - exact(z, exponent)).max() <= WORST
    assert abs(sum(p) - ONE) <= len(z) / 2


@pytest.mark.parametrize("exponent", range(-9, 1))
def test_every_pair_of_classes(exponent: int) -> None:
    for difference in range(256):
        check([127, 127 - difference], exponent)


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=20), st.integers(-9, 0))
def test_rows_of_8_bit_logits(z: list[int], exponent: int) -> None:
    check(z, exponent)


@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=20), st.integers(-9, 0))
def test_rows_of_16_bit_logits(z: list[int], exponent: int) -> None:
    check(z, exponent)


def test_random_rows() -> None:
    rng = np.random.default_rng(5)
    for _ in range(500):
        spread = int(rng.integers(1, 128))
        check(rng.integers(-spread, spread, int(rng.integers(2, 12))).tolist(), int(rng.integers(-9, 1)))


def test_equal_logits_share_equally() -> None:
    assert probabilities([5] * 4, -3) == [ONE // 4] * 4
    assert probabilities([-7], 0) == [ONE]


@given(st.lists(st.integers(-128, 127), min_size=2, max_size=8), st.integers(-9, 0))
def test_order_is_kept(z: list[int], exponent: int) -> None:
    p = probabilities(z, exponent)
    assert [x for _, x in sorted(zip(z, p, strict=True))] == sorted(p)


def test_a_class_far_below_gets_nothing() -> None:
    assert probabilities([127, -128], 0) == [ONE, 0]


def test_log2e() -> None:
    assert abs(LOG2E / 2**LOG2E_BITS - math.log2(math.e)) < 2**-LOG2E_BITS


@given(st.integers(-(2**15), 2**15 - 1), st.integers(-24, 15))
def test_base2_logit_is_floored_once(z: int, exponent: int) -> None:
    product = z * Fraction(LOG2E, 2**LOG2E_BITS) * Fraction(2) ** (exponent + FRACTION_BITS)
    assert base2_logit(z, exponent) == math.floor(product)


@pytest.mark.parametrize(("exponent", "same_as"), [(16, 15), (127, 15), (-25, -24), (-128, -24)])
def test_base2_logit_clamps_its_shift(exponent: int, same_as: int) -> None:
    for z in (-32768, -3, 0, 7, 32767):
        assert base2_logit(z, exponent) == base2_logit(z, same_as)


def test_exp2_is_at_most_six_percent_above() -> None:
    for d in range(-10 * 2**FRACTION_BITS, 1):
        ratio = (exp2(d) + 1) / 2**EXP_BITS / 2.0 ** (d / 2**FRACTION_BITS)
        assert ratio > 1
        assert exp2(d) / 2**EXP_BITS <= 1.0625 * 2.0 ** (d / 2**FRACTION_BITS)


def test_exp2_ends() -> None:
    assert exp2(0) == 2**EXP_BITS
    assert exp2(-(2**FRACTION_BITS)) == 2 ** (EXP_BITS - 1)
    assert exp2(-(2**40)) == 0


@given(st.lists(st.tuples(st.integers(-128, 127), st.integers(0, 127)), min_size=2, max_size=20), st.integers(-7, 0))
def test_the_gradient_sums_to_nothing(row: list[tuple[int, int]], exponent: int) -> None:
    z, t = [a for a, _ in row], [b for _, b in row]
    total = weight(sum(t), 8)
    assert total == sum(t)
    dz = [gradient(p, b, total) for p, b in zip(probabilities(z, exponent), t, strict=True)]
    # Probabilities are rounded to 2**-16 each: their sum is off by at most half a step a class.
    assert abs(sum(dz)) <= len(z) / 2 * total


def test_a_row_of_zeros_trains_nothing() -> None:
    assert [gradient(p, 0, weight(0, 8)) for p in probabilities([3, -70, 20], -4)] == [0, 0, 0]


@pytest.mark.parametrize(("total", "held"), [(32767, 32767), (32768, -32768), (-32769, 32767), (65536, 0)])
def test_weights_wrap(total: int, held: int) -> None:
    assert weight(total, 8) == held
