"""The random bits: Marsaglia's generator, and seeds that differ and are never zero."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from insitu.arch.generator import GOLDEN, MASK, NARROW_STREAM, STREAMS, UPDATE_STREAM, lane_seed, mix, xorshift

LANES = 32
seeds = st.integers(0, MASK)


def test_first_output_of_the_paper() -> None:
    assert xorshift(2463534242) == 723471715


def test_a_walk_neither_dies_nor_returns() -> None:
    state, seen = 1, set()
    for _ in range(20000):
        state = xorshift(state)
        assert 0 < state <= MASK
        seen.add(state)
    assert len(seen) == 20000


@given(seeds)
def test_generators_of_an_instruction_differ(seed: int) -> None:
    states = {lane_seed(seed, lane, stream) for lane in range(LANES) for stream in range(STREAMS)}
    assert len(states) == LANES * STREAMS
    assert all(0 < state <= MASK for state in states)


def test_streams_are_two() -> None:
    assert {NARROW_STREAM, UPDATE_STREAM} == set(range(STREAMS))


def unmix(a: int) -> int:
    """The inverse of `mix`, stage by stage: products invert modulo 2**32, xors of shifts bit by bit."""

    def unxor(value: int, constant: int, shift: int) -> int:
        value ^= constant
        out = value
        for _ in range(32 // shift + 1):
            out = value ^ (out >> shift)
        return out

    def unmultiply(value: int, constant: int, factor: int) -> int:
        return (value - constant) * pow(factor, -1, 2**32) & MASK

    a = unxor(a, 0xB55A4F09, 16)
    a = unmultiply(a, 0xFD7046C5, 9)
    low = 0
    for bit in range(32):
        if (((low + 0xD3A2646C) ^ (low << 9)) ^ a) >> bit & 1:
            low |= 1 << bit
    a = low
    a = unmultiply(a, 0x165667B1, 33)
    a = unxor(a, 0xC761C23C, 19)
    return unmultiply(a, 0x7ED55D16, 4097)


@given(seeds)
def test_mix_is_a_bijection(a: int) -> None:
    assert mix(a) <= MASK
    assert unmix(mix(a)) == a


def test_the_seed_whose_hash_is_zero() -> None:
    zero = unmix(0)
    assert mix(zero) == 0
    for lane in range(LANES):
        for stream in range(STREAMS):
            seed = (zero - (STREAMS * lane + stream + 1) * GOLDEN) & MASK
            assert lane_seed(seed, lane, stream) == GOLDEN


def test_bits_are_balanced_over_lanes_and_seeds() -> None:
    """Every bit of the first outputs is one about half the time; consecutive seeds and lanes share no pattern."""
    outputs = [xorshift(lane_seed(seed, lane, s)) for seed in range(200) for lane in range(16) for s in range(STREAMS)]
    for bit in range(32):
        ones = sum(output >> bit & 1 for output in outputs)
        # Six standard deviations of 6,400 fair coins.
        assert abs(ones - len(outputs) / 2) < 6 * len(outputs) ** 0.5 / 2
