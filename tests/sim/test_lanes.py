"""Lane generators started far along agree with generators stepped one row at a time."""

from __future__ import annotations

import numpy as np
import pytest

from insitu.arch.generator import NARROW_STREAM, UPDATE_STREAM, lane_seed, xorshift
from insitu.sim import lanes

SEEDS = (1, 0, 0xFFFFFFFF, 0x9E3779B9)


def stepped(state: int, steps: int) -> int:
    for _ in range(steps):
        state = xorshift(state)
    return state


@pytest.mark.parametrize("stream", [NARROW_STREAM, UPDATE_STREAM])
@pytest.mark.parametrize(
    ("rows", "cols", "n"), [(1, 1, 4), (3, 4, 4), (5, 11, 4), (64, 40, 8), (2, 16, 16), (7, 33, 32)]
)
def test_columns_start_where_stepping_brings_them(rows: int, cols: int, n: int, stream: int) -> None:
    for seed in SEEDS:
        states = lanes.start(seed, stream, rows=rows, cols=cols, n=n)
        assert states.dtype == np.uint32
        expected = [stepped(lane_seed(seed, c % n, stream), (c // n) * rows) for c in range(cols)]
        assert states.tolist() == expected


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 31, 64, 1000])
def test_jump_is_that_many_steps(steps: int) -> None:
    states = np.array([1, 0x80000000, 0xDEADBEEF, 0x9E3779B9], dtype=np.uint32)
    after = np.empty_like(states)
    lanes.skip(lanes.jump(steps), states, after)
    assert after.tolist() == [stepped(int(s), steps) for s in states]
