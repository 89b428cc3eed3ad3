"""UPDATE in vector code: a block of products, gradients, masters, and the weights that are delivered of them."""

from __future__ import annotations

import numpy as np

from insitu.arch import generator
from insitu.sim import drains, lanes, simd
from insitu.sim import rows as row
from insitu.sim.drains import Draw, Fit, Flat, Range, Scratch, Shared, Spans
from insitu.sim.jit import kernel, parallel_kernel, prange
from insitu.sim.velocities import Held, Momentum, into_velocities

_start, _take, _round_row, _fit_row = lanes.start_states, row.take, row.round_row, row.fit_row
_own, _advance, _together = drains.own, drains.advance, drains.together
_NARROW, _UPDATE = generator.NARROW_STREAM, generator.UPDATE_STREAM

#: What an update does: (gradient's fit, m of the rate, rounding of the rate's product, masters' limits, weights' fit,
#: momentum).
Rule = tuple[Fit, int, row.By, Range, Fit, Momentum]


@kernel
def update_rows(
    a: Flat,
    a_pitch: int,
    b: Flat,
    b_pitch: int,
    spans: Spans,
    cols: int,
    depth: int,
    one: int,
    turned: Flat,
    acc: simd.Int32,
    count: int,
) -> None:
    """The first `count` rows of UPDATE's accumulators; `turned` [rows, terms]: scratch for A with sums along rows.
    `one`: the bias operand, 0 without a bias."""
    terms, size, taps = turned.shape[1], acc.shape[1], spans[0].size - 1
    for k in range(terms):
        source = a[k * a_pitch : k * a_pitch + count]
        for r in range(count):
            turned[r, k] = source[r]
    flat = acc.reshape(-1)
    for tap in range(taps):
        u, v = spans[1][spans[0][tap] : spans[0][tap + 1]], spans[2][spans[0][tap] : spans[0][tap + 1]]
        simd.outer(turned.reshape(-1), terms, b, b_pitch, u, v, flat[tap * cols :], size, count, cols, depth)
    if one:
        for r in range(count):
            total = np.int32(0)
            if taps == 1:
                for s in range(spans[1].size):
                    for k in range(spans[1][s], spans[1][s] + depth):
                        total = np.int32(total + np.int32(turned[r, k]))
            else:
                for k in range(terms):
                    total = np.int32(total + np.int32(turned[r, k]))
            acc[r, taps * cols] = np.int32(total * np.int32(one))


@kernel
def update(
    a: Flat,
    a_pitch: int,
    b: Flat,
    b_pitch: int,
    spans: Spans,
    depth: int,
    one: int,
    turned: Flat,
    acc: simd.Int32,
    scratch: Scratch,
    draw: Draw,
    update_states: row.States,
    lanes_at: simd.Offsets,
    rule: Rule,
    held: Held,
    shared: Shared,
    s: int,
) -> tuple[int, int]:
    """Share `s` of UPDATE's rows."""
    own, states = _own(scratch, s), update_states[s]
    _start_update(own, draw, states, lanes_at, rule)
    _advance(own[2], shared, s)
    _advance(states, shared, s)
    master, weight, pitch, cols, groups, tail, group_pitch = held
    sums, last = acc[s], shared[0][s + 1]
    block = sums.shape[0]
    changed, seen = 0, 0
    for first in range(shared[0][s], last, block):
        count, at = min(block, last - first), first * pitch
        width = cols - (one > 0) * (groups == 1)
        update_rows(a[first:], a_pitch, b, b_pitch, spans, width, depth, one, turned[s], sums, count)
        here = (master[at:], weight[at:], pitch, cols, groups, tail, group_pitch)
        more, bits, _, _ = _update_block(sums, count, at, own, states, rule, here, False)
        changed, seen = changed + more, seen | bits
    return changed, seen


@parallel_kernel
def update_shared(
    a: Flat,
    a_pitch: int,
    b: Flat,
    b_pitch: int,
    spans: Spans,
    depth: int,
    one: int,
    turned: Flat,
    acc: simd.Int32,
    scratch: Scratch,
    draw: Draw,
    update_states: row.States,
    lanes_at: simd.Offsets,
    rule: Rule,
    held: Held,
    shared: Shared,
) -> tuple[int, int]:
    """UPDATE, a thread for each share."""
    # Loops over threads take no tuples of tuples: one is taken apart outside and put together inside.
    (by, limits, wrap), lr_mul, update_by, master_limits, (weight_by, weight_limits, weight_wrap), momentum = rule
    velocity, kept_mul, kept_by, decay_mul, decay_by, velocity_limits, moving_by, down, hold = momentum
    found = np.zeros((shared[1].shape[0], 2), np.int64)
    for s in prange(found.shape[0]):
        found[s, 0], found[s, 1] = update(
            a,
            a_pitch,
            b,
            b_pitch,
            spans,
            depth,
            one,
            turned,
            acc,
            scratch,
            draw,
            update_states,
            lanes_at,
            (
                (by, limits, wrap),
                lr_mul,
                update_by,
                master_limits,
                (weight_by, weight_limits, weight_wrap),
                (velocity, kept_mul, kept_by, decay_mul, decay_by, velocity_limits, moving_by, down, hold),
            ),
            held,
            shared,
            int(s),
        )
    return _together(found)


@kernel
def updating(
    acc: Flat,
    scratch: Scratch,
    draw: Draw,
    update_states: row.States,
    lanes_at: simd.Offsets,
    rule: Rule,
    held: Held,
    count_lost: bool,
) -> tuple[int, int, int, int]:
    """UPDATE from all its accumulators on: as `_update_block`."""
    own, states = _own(scratch, 0), update_states[0]
    _start_update(own, draw, states, lanes_at, rule)
    return _update_block(acc, acc.shape[0], 0, own, states, rule, held, count_lost)


@kernel
def _start_update(scratch: Scratch, draw: Draw, update_states: row.States, lanes_at: simd.Offsets, rule: Rule) -> None:
    """Generators of every column's lane: lanes_at [columns] is each column's place in a row's words."""
    if rule[0][0][2]:
        _start_at(draw, _NARROW, lanes_at, scratch[2])
    _, _, rate_by, _, _, (_, _, kept_by, _, decay_by, _, moving_by, _, _) = rule
    if rate_by[2] or kept_by[2] or decay_by[2] or moving_by[2]:
        _start_at(draw, _UPDATE, lanes_at, update_states)


@kernel
def _start_at(draw: Draw, stream: int, lanes_at: simd.Offsets, states: row.States) -> None:
    whole = np.empty(lanes_at[-1] + 1, np.uint32)
    _start(draw[0], stream, draw[1], whole, draw[2])
    for c in range(lanes_at.size):
        states[c] = whole[lanes_at[c]]


@kernel
def _update_block(
    acc: Flat,
    count: int,
    at: int,
    scratch: Scratch,
    update_states: row.States,
    rule: Rule,
    held: Held,
    count_lost: bool,
) -> tuple[int, int, int, int]:
    """Accumulators -> gradient -> master -= round(lr * gradient), or velocities, from `at` on, and what they move; and,
    where there are weights, what the read port will give of the new masters.

    Returns as `drains.narrow_block`, where `count_lost` the accumulators not zero whose gradient is, and how many
    velocities saturated.
    """
    (by, limits, wrap), lr_mul, update_by, master_limits, (weight_by, weight_limits, _), momentum = rule
    master, weight, pitch, cols, groups, tail, group_pitch = held
    states = scratch[2]
    x = scratch[0][: acc.shape[1]]
    T = x.dtype.type
    bottom, top, m = T(master_limits[0]), T(master_limits[1]), T(lr_mul)
    changed, lost, beyond_velocity, seen = 0, 0, 0, T(0)
    if momentum[0].size:
        y, moving = np.zeros(x.size, x.dtype), np.empty(x.size, np.uint32)
    for r in range(count):
        source = acc[r]
        seen |= _take(source, x)
        _round_row(x, states, by, True)
        changed += _fit_row(x, limits[0], limits[1], wrap)
        if count_lost:
            for c in range(x.size):
                lost += (x[c] == 0) & (source[c] != 0)
        for c in range(x.size):
            x[c] = T(m * x[c])
        if momentum[0].size:
            velocities = momentum[0][at + r * pitch :]
            beyond_velocity += into_velocities(
                x, y, moving, velocities, master[r * pitch :], update_states, update_by, momentum, held
            )
            if momentum[8]:
                continue
        else:
            _round_row(x, update_states, update_by, True)
        for g in range(groups + (tail > 0)):
            width = cols if g < groups else tail
            part = x[g * cols : g * cols + width]
            target = master[r * pitch + g * group_pitch : r * pitch + g * group_pitch + width]
            beyond = T(0)
            for c in range(width):
                v = T(T(target[c]) - part[c])
                q = min(max(v, bottom), top)
                beyond = T(beyond + T(q != v))
                part[c] = q
                target[c] = q
            changed += int(beyond)
        if weight.size:
            _round_row(x, states, weight_by, False)
            _fit_row(x, weight_limits[0], weight_limits[1], 0)
            for g in range(groups + (tail > 0)):
                width = cols if g < groups else tail
                part = x[g * cols : g * cols + width]
                delivered = weight[r * pitch + g * group_pitch : r * pitch + g * group_pitch + width]
                for c in range(width):
                    delivered[c] = part[c]
    return changed + beyond_velocity, np.int64(seen), lost, beyond_velocity  # type: ignore[return-value]
