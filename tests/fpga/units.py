"""One unit in Amaranth's simulator: vectors in with random gaps, results out LATENCY cycles later."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from random import Random
from typing import Any

from amaranth.sim import Simulator


def simulate(unit: Any, script: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Run a testbench on a unit to its end."""
    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(script)
    simulator.run()


def pipeline(
    unit: Any,
    items: Iterable[Any],
    put: Callable[[Any, Any], None],
    get: Callable[[Any], Any],
    expected: Callable[[Any], Any],
    *,
    latency: int,
    gaps: float = 0.3,
    seed: int = 0,
) -> None:
    """Check that every item comes out as `expected` exactly `latency` cycles after it went in, whatever is between."""
    random = Random(seed)

    async def script(ctx: Any) -> None:
        due: list[Any] = [None] * (latency - 1)
        waiting = list(items)
        while waiting or any(item is not None for item in due):
            item = None
            if waiting and random.random() >= gaps:
                item = waiting.pop(0)
                put(ctx, item)
            due.append(item)
            await ctx.tick()
            ready = due.pop(0)
            if ready is not None:
                assert get(ctx) == expected(ready), ready

    simulate(unit, script)
