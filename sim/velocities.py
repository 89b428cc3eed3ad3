"""What an update does to velocities, and they to masters (arch/momentum.py), a row at a time."""

from __future__ import annotations

import numpy as np

from insitu.sim import rows as row
from insitu.sim.drains import Flat, Range
from insitu.sim.jit import kernel

_step, _round_row, _fit_row = row.step, row.round_row, row.fit_row

#: Masters and the weights delivered of them: (masters, weights or empty, pitch, columns, groups, tail, group pitch).
Held = tuple[Flat, Flat, int, int, int, int, int]
#: How velocities move: (velocities or empty, m of what is kept, rounding of that, m of the decay, rounding of that,
#: limits, rounding of what moves a master, places by which the random bits of that are moved down, hold).
Momentum = tuple[Flat, int, row.By, int, row.By, Range, row.By, int, bool]


@kernel
def _gather(source: Flat, y: Flat, mul: int, held: Held) -> None:
    """y <- mul * a row of a matrix laid out as the masters."""
    _, _, _, cols, groups, tail, group_pitch = held
    T = y.dtype.type
    for g in range(groups + (tail > 0)):
        width = cols if g < groups else tail
        part, words = y[g * cols : g * cols + width], source[g * group_pitch : g * group_pitch + width]
        for c in range(width):
            part[c] = T(mul * T(words[c]))


@kernel
def into_velocities(
    x: Flat,
    y: Flat,
    moving: row.States,
    velocity: Flat,
    master: Flat,
    states: row.States,
    rate_by: row.By,
    momentum: Momentum,
    held: Held,
) -> int:
    """x, lr_mul * gradients of a row -> what its masters are moved by. velocity, master: from the row on. y, moving:
    scratch, y zero beyond the columns. Returns how many velocities saturated."""
    _, kept_mul, kept_by, decay_mul, decay_by, limits, moving_by, down, _ = momentum
    _, _, _, cols, groups, tail, group_pitch = held
    T = x.dtype.type
    if rate_by[2] or kept_by[2] or decay_by[2] or moving_by[2]:
        _step(states)
    _round_row(x, states, rate_by, False)
    _gather(velocity, y, T(kept_mul), held)
    _round_row(y, states, kept_by, False)
    for c in range(x.size):
        x[c] = T(x[c] + y[c])
    if decay_mul:
        _gather(master, y, T(decay_mul), held)
        _round_row(y, states, decay_by, False)
        _fit_row(y, limits[0], limits[1], 0)
        for c in range(x.size):
            x[c] = T(x[c] + y[c])
    beyond = _fit_row(x, limits[0], limits[1], 0)
    for g in range(groups + (tail > 0)):
        width = cols if g < groups else tail
        part = x[g * cols : g * cols + width]
        target = velocity[g * group_pitch : g * group_pitch + width]
        for c in range(width):
            target[c] = part[c]
    if moving_by[2]:
        places = np.uint32(down)
        for c in range(moving.size):
            moving[c] = np.uint32(states[c] >> places)
    _round_row(x, moving, moving_by, False)
    return beyond
