"""Training over whole passes: the learning rate follows its schedule, however short the run."""

from __future__ import annotations

import math

import pytest

from insitu.host.compiler import rate
from insitu.host.device import open_device
from insitu.host.train import RATE_CHANGES, RATE_STEPS, Schedule, TrainPolicy, train
from insitu.models.schedules import SCHEDULES
from tests.host import tiny


def rates(schedule: Schedule, steps: int) -> list[float]:
    """The learning rate of each step of a run, as the device has it."""
    compiled, found = tiny.compiled(), list[float]()
    x, targets = tiny.samples(tiny.BATCH * steps)
    with open_device(tiny.CORE) as driver:
        driver.load(compiled.program)
        driver.write_weights(compiled.masters)

        def on_step(_done: int, _of: int) -> None:
            update = next(i for i in driver.program.entry("train") if i.lr_shift)
            found.append(rate.decode(update.lr_mul, update.lr_shift) * tiny.BATCH)

        train(driver, x, targets, TrainPolicy(lr=0.4, schedule=schedule), on_step=on_step)
    return found


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 5, 16, RATE_CHANGES])
def test_a_short_run_has_its_twins_rates(schedule: Schedule, steps: int) -> None:
    assert rates(schedule, steps) == pytest.approx(
        [0.4 * SCHEDULES[schedule](step / steps) for step in range(steps)], rel=0.004
    )


def test_a_long_run_goes_down_in_stairs() -> None:
    steps = RATE_CHANGES * (RATE_STEPS + 3)
    found = rates("linear", steps)
    assert len(set(found)) == math.ceil(steps / RATE_STEPS)
    wanted = [0.4 * (1 - step // RATE_STEPS * RATE_STEPS / steps) for step in range(steps)]
    assert found == pytest.approx(wanted, rel=0.004)
