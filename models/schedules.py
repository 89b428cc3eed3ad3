"""Schedules: what the learning rate is multiplied by as a training goes on."""

import math
from collections.abc import Callable
from typing import Literal

Schedule = Literal["constant", "linear", "cosine", "step"]

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "step": lambda done: 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01,
}
"""When a share `done` in [0, 1) of all steps is behind: `constant`, `linear` and `cosine` (both to 0), `step` (a tenth
at one half, a hundredth at three quarters)."""
