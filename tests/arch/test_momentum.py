"""The rule by which velocities move: what is unbiased, and that no two steps share random bits they may not."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.arch import momentum
from insitu.arch.errors import ArchError
from insitu.arch.isa import FIELDS, FRACTIONS, MOMENTUM_ONE
from insitu.arch.numbers import RANDOM_BITS, Rounding, round_shift
from insitu.arch.optimizer import Optimizer

STOCHASTIC, NEAREST = int(Rounding.STOCHASTIC), int(Rounding.NEAREST)
states = st.integers(0, 2**RANDOM_BITS - 1)
velocities = st.integers(-(2**15), 2**15 - 1)


@given(st.integers(-300, 300), st.integers(*FRACTIONS), st.integers(0, FIELDS["decay_shift"].maximum), states, states)
def test_what_moves_a_master_shares_no_bit_with_the_terms(
    shift: int, fraction: int, decay: int, r: int, other: int
) -> None:
    top = max(0, fraction)
    below = (1 << (RANDOM_BITS - top)) - 1
    assert momentum.moving_bits(r, fraction) == momentum.moving_bits(r & ~below | other & below, fraction)
    mixed = r & below | other & ~below
    for s in (momentum.gradient_shift(shift, fraction), momentum.decay_shift(decay, fraction), 8):
        if fraction > 0:
            assert s <= RANDOM_BITS - 1 - top or s == 8
        for x in (-12345, 1, 98765) if fraction > 0 else ():
            assert round_shift(x, s, STOCHASTIC, r) == round_shift(x, s, STOCHASTIC, mixed)


@pytest.mark.parametrize("fraction", [1, 2, 7, 10])
def test_a_velocity_moves_its_master_by_itself_on_average(fraction: int) -> None:
    step = 1 << (RANDOM_BITS - fraction)
    for v in (-1, 1, 3, 517, -1024, 32767):
        total = sum(momentum.moved(v, fraction, STOCHASTIC, k * step) for k in range(1 << fraction))
        assert Fraction(total, 1 << fraction) == Fraction(v, 1 << fraction)


def test_what_is_kept_and_what_decays_on_average() -> None:
    for v in (-7, 1, 200, -32768):
        kept = sum(momentum.kept(v, 230, STOCHASTIC, r) for r in range(256))
        assert Fraction(kept, 256) == Fraction(230 * v, 256)
    for d in (-5, 3, 1000):
        decayed = sum(momentum.decayed(d, 3, 10, 16, STOCHASTIC, r) for r in range(1024))
        assert Fraction(decayed, 1024) == Fraction(3 * d, 1024)


@given(velocities, states, st.sampled_from(Rounding))
def test_the_whole_of_a_velocity_is_kept_as_it_is(v: int, r: int, rounding: Rounding) -> None:
    assert momentum.kept(v, MOMENTUM_ONE, int(rounding), r) == v
    assert momentum.kept(0, 230, int(rounding), r) == 0


def test_to_nearest_the_smallest_velocity_never_decays() -> None:
    """Why velocities are rounded stochastically."""
    assert momentum.kept(1, 230, NEAREST, 0) == 1
    assert momentum.moved(1, 2, NEAREST, 0) == 0


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 255), st.integers(0, 55), states, st.integers(2, 16))
def test_a_decay_saturates(d: int, mul: int, shift: int, r: int, width: int) -> None:
    half = 1 << (width - 1)
    assert -half <= momentum.decayed(d, mul, shift, width, STOCHASTIC, r) < half


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"momentum": 1.0}, "momentum 1.0: must be at least 0 and below 1"),
        ({"momentum": -0.1}, "momentum -0.1"),
        ({"momentum": float("nan")}, "momentum nan"),
        ({"weight_decay": -1e-4}, "weight decay -0.0001: must be finite and not negative"),
        ({"weight_decay": float("inf")}, "weight decay inf"),
        ({"micro_batches": 0}, "micro-batches 0: must be at least 1"),
        ({"micro_batches": 1.5}, "micro-batches 1.5"),
    ],
)
def test_an_optimiser_there_is_none_of(values: dict[str, float], said: str) -> None:
    with pytest.raises(ArchError, match=said):
        Optimizer(**values)  # type: ignore[arg-type]


def test_an_optimiser_as_json() -> None:
    optimizer = Optimizer(momentum=0.9, weight_decay=1e-4, micro_batches=4)
    assert Optimizer.from_json(optimizer.to_json()) == optimizer
    assert not optimizer.plain
    assert Optimizer().plain
    for bad in ({}, {**optimizer.to_json(), "nesterov": True}):
        with pytest.raises(ArchError, match="expected exactly the fields"):
            Optimizer.from_json(bad)
