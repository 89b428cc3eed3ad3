"""The rotator: every amount, with gaps."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from insitu.fpga.rotate import Rotator
from tests.fpga.units import pipeline


@pytest.mark.parametrize("n", [4, 8, 16, 32])
def test_lane_l_is_lane_l_plus_amount(n: int) -> None:
    unit = Rotator(n, 9)
    random = Random(n)
    items = [([random.getrandbits(9) for _ in range(n)], amount) for amount in [*range(n), 0, n - 1, n // 2]]

    def put(ctx: Any, item: tuple[list[int], int]) -> None:
        for lane, value in enumerate(item[0]):
            ctx.set(unit.i[lane], value)
        ctx.set(unit.amount, item[1])

    pipeline(
        unit,
        items,
        put,
        lambda ctx: [ctx.get(unit.o[lane]) for lane in range(n)],
        lambda item: [item[0][(lane + item[1]) % n] for lane in range(n)],
        latency=Rotator.LATENCY,
    )
