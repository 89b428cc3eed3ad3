"""The compiled passes: products in blocks of rows, what lies between accumulators and memory (sim/rows.py), the loss.

A pass works on as many rows at a time as its accumulators `acc` have: a block that stays in cache where nobody looks at
them afterwards, else all. Matrices are flat memories from their first element on, with the elements from one row to
the next; every kernel that draws starts the lanes' generators in `states` itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch import generator, loss
from insitu.sim import lanes, simd
from insitu.sim import rows as row
from insitu.sim.jit import callee, kernel

Range = tuple[int, int]
Flat = npt.NDArray[Any]
#: (seed, the `lanes.jump` of a column's rows, lanes): what generators start from.
Draw = tuple[int, lanes.States, int]

_start = lanes.start_states
_step, _take, _round_row, _fit_row = row.step, row.take, row.round_row, row.fit_row
_NARROW, _UPDATE = generator.NARROW_STREAM, generator.UPDATE_STREAM


@kernel
def _narrow_rows(
    acc: Flat,
    count: int,
    relu: bool,
    gate: Flat,
    gate_pitch: int,
    x: Flat,
    states: row.States,
    idle: int,
    by: row.By,
    limits: Range,
    wrap: int,
    out: Flat,
    pitch: int,
) -> tuple[int, int]:
    """The first `count` rows of `acc` [rows, cols], in any dtype, -> `out`; ReLU or the mask is applied in place.

    gate: empty without a mask. x: scratch for a row [cols], its dtype the arithmetic's. idle: generator steps between a
    row and the next. Returns (fits that changed their value, OR of the one's-complement magnitudes).
    """
    cols = acc.shape[1]
    changed, bits = 0, x.dtype.type(0)
    for r in range(count):
        source = acc[r]
        if relu:
            for c in range(cols):
                source[c] = max(source[c], source.dtype.type(0))
        if gate.size:
            g = gate[r * gate_pitch : r * gate_pitch + cols]
            for c in range(cols):
                source[c] = source[c] if g[c] > 0 else source.dtype.type(0)
        bits |= _take(source, x)
        _round_row(x, states, by)
        if by[2]:
            for _ in range(idle):
                _step(states)
        changed += _fit_row(x, limits[0], limits[1], wrap)
        target = out[r * pitch : r * pitch + cols]
        for c in range(cols):
            target[c] = x[c]
    return changed, np.int64(bits)  # type: ignore[return-value]


@kernel
def narrowing(
    acc: Flat,
    relu: bool,
    gate: Flat,
    gate_pitch: int,
    x: Flat,
    states: row.States,
    draw: Draw,
    idle: int,
    by: row.By,
    limits: Range,
    wrap: int,
    out: Flat,
    pitch: int,
) -> tuple[int, int]:
    """FORWARD, BACKWARD, LOSS: all accumulators -> D. `idle` as in `_narrow_rows`, whose result it gives."""
    if by[2]:
        _start(draw[0], _NARROW, draw[1], states, draw[2])
    return _narrow_rows(acc, acc.shape[0], relu, gate, gate_pitch, x, states, idle, by, limits, wrap, out, pitch)


@kernel
def forward(
    a: Flat,
    a_pitch: int,
    b: Flat,
    b_pitch: int,
    rows: int,
    terms: int,
    one: int,
    acc: simd.Int32,
    relu: bool,
    x: Flat,
    states: row.States,
    draw: Draw,
    by: row.By,
    limits: Range,
    wrap: int,
    out: Flat,
    pitch: int,
) -> tuple[int, int]:
    """FORWARD in vector code: the product over `terms`, `one` times the bias behind them (none where 0), the drain."""
    if by[2]:
        _start(draw[0], _NARROW, draw[1], states, draw[2])
    block, cols = acc.shape
    gate = a[:0]
    changed, bits = 0, 0
    for first in range(0, rows, block):
        count = min(block, rows - first)
        forward_product(a[first * a_pitch :], a_pitch, b, b_pitch, terms, one, acc, count)
        more, seen = _narrow_rows(
            acc, count, relu, gate, 0, x, states, 0, by, limits, wrap, out[first * pitch :], pitch
        )
        changed, bits = changed + more, bits | seen
    return changed, bits


@kernel
def forward_product(
    a: Flat, a_pitch: int, b: Flat, b_pitch: int, terms: int, one: int, acc: simd.Int32, count: int
) -> None:
    """The first `count` rows of FORWARD's accumulators."""
    cols = acc.shape[1]
    simd.dot(a, a_pitch, b, b_pitch, acc.reshape(-1), count, cols, terms)
    if one:
        for c in range(cols):
            bias = np.int32(np.int32(b[c * b_pitch + terms]) * np.int32(one))
            for r in range(count):
                acc[r, c] += bias


@kernel
def backward(
    a: Flat,
    a_pitch: int,
    b: Flat,
    b_pitch: int,
    rows: int,
    depth: int,
    acc: simd.Int32,
    gate: Flat,
    gate_pitch: int,
    x: Flat,
    states: row.States,
    draw: Draw,
    by: row.By,
    limits: Range,
    wrap: int,
    out: Flat,
    pitch: int,
) -> tuple[int, int]:
    """BACKWARD in vector code."""
    if by[2]:
        _start(draw[0], _NARROW, draw[1], states, draw[2])
    block, cols = acc.shape
    changed, bits = 0, 0
    for first in range(0, rows, block):
        count = min(block, rows - first)
        simd.outer(a[first * a_pitch :], a_pitch, b, b_pitch, acc.reshape(-1), cols, count, cols, depth)
        more, seen = _narrow_rows(
            acc,
            count,
            False,
            gate[first * gate_pitch :],
            gate_pitch,
            x,
            states,
            0,
            by,
            limits,
            wrap,
            out[first * pitch :],
            pitch,
        )
        changed, bits = changed + more, bits | seen
    return changed, bits


@kernel
def update_product(
    a: Flat, a_pitch: int, b: Flat, b_pitch: int, depth: int, one: int, turned: Flat, acc: simd.Int32, count: int
) -> None:
    """The first `count` rows of UPDATE's accumulators; `turned` [rows, depth]: scratch for A with sums along rows."""
    for k in range(depth):
        source = a[k * a_pitch : k * a_pitch + count]
        for r in range(count):
            turned[r, k] = source[r]
    cols = acc.shape[1]
    terms = cols - 1 if one else cols
    simd.outer(turned.reshape(-1), depth, b, b_pitch, acc.reshape(-1), cols, count, terms, depth)
    if one:
        for r in range(count):
            total = np.int32(0)
            for k in range(depth):
                total = np.int32(total + np.int32(turned[r, k]))
            acc[r, terms] = np.int32(total * np.int32(one))


@kernel
def update(
    a: Flat,
    a_pitch: int,
    b: Flat,
    b_pitch: int,
    rows: int,
    depth: int,
    one: int,
    turned: Flat,
    acc: simd.Int32,
    x: Flat,
    states: row.States,
    update_states: row.States,
    draw: Draw,
    by: row.By,
    limits: Range,
    wrap: int,
    lr_mul: int,
    update_by: row.By,
    master: Flat,
    pitch: int,
    master_limits: Range,
    weight: Flat,
    weight_by: row.By,
    weight_limits: Range,
) -> tuple[int, int]:
    """UPDATE in vector code."""
    _start_update(draw, by, update_by, states, update_states)
    block = acc.shape[0]
    changed, bits = 0, 0
    for first in range(0, rows, block):
        count = min(block, rows - first)
        update_product(a[first:], a_pitch, b, b_pitch, depth, one, turned, acc, count)
        more, seen, _ = _update_rows(
            acc,
            count,
            x,
            states,
            update_states,
            by,
            limits,
            wrap,
            lr_mul,
            update_by,
            master[first * pitch :],
            pitch,
            master_limits,
            weight[first * pitch :],
            weight_by,
            weight_limits,
            False,
        )
        changed, bits = changed + more, bits | seen
    return changed, bits


@kernel
def updating(
    acc: Flat,
    x: Flat,
    states: row.States,
    update_states: row.States,
    draw: Draw,
    by: row.By,
    limits: Range,
    wrap: int,
    lr_mul: int,
    update_by: row.By,
    master: Flat,
    pitch: int,
    master_limits: Range,
    weight: Flat,
    weight_by: row.By,
    weight_limits: Range,
    count_lost: bool,
) -> tuple[int, int, int]:
    """UPDATE from all its accumulators on: as `_update_rows`."""
    _start_update(draw, by, update_by, states, update_states)
    return _update_rows(
        acc,
        acc.shape[0],
        x,
        states,
        update_states,
        by,
        limits,
        wrap,
        lr_mul,
        update_by,
        master,
        pitch,
        master_limits,
        weight,
        weight_by,
        weight_limits,
        count_lost,
    )


@kernel
def _start_update(draw: Draw, by: row.By, update_by: row.By, states: row.States, update_states: row.States) -> None:
    if by[2]:
        _start(draw[0], _NARROW, draw[1], states, draw[2])
    if update_by[2]:
        _start(draw[0], _UPDATE, draw[1], update_states, draw[2])


@kernel
def _update_rows(
    acc: Flat,
    count: int,
    x: Flat,
    states: row.States,
    update_states: row.States,
    by: row.By,
    limits: Range,
    wrap: int,
    lr_mul: int,
    update_by: row.By,
    master: Flat,
    pitch: int,
    master_limits: Range,
    weight: Flat,
    weight_by: row.By,
    weight_limits: Range,
    count_lost: bool,
) -> tuple[int, int, int]:
    """Accumulators -> gradient -> master -= round(lr * gradient); and, where `weight` is not empty, the weights that
    the read port will give of the new masters.

    Returns as `_narrow_rows`, and where `count_lost` the accumulators not zero whose gradient is.
    """
    T = x.dtype.type
    cols = acc.shape[1]
    changed, lost, bits, m = 0, 0, T(0), T(lr_mul)
    for r in range(count):
        source = acc[r]
        bits |= _take(source, x)
        _round_row(x, states, by)
        changed += _fit_row(x, limits[0], limits[1], wrap)
        if count_lost:
            for c in range(cols):
                lost += (x[c] == 0) & (source[c] != 0)
        for c in range(cols):
            x[c] = T(m * x[c])
        _round_row(x, update_states, update_by)
        target = master[r * pitch : r * pitch + cols]
        for c in range(cols):
            x[c] = T(T(target[c]) - x[c])
        changed += _fit_row(x, master_limits[0], master_limits[1], 0)
        for c in range(cols):
            target[c] = x[c]
        if weight.size:
            _round_row(x, states, weight_by)
            _fit_row(x, weight_limits[0], weight_limits[1], 0)
            delivered = weight[r * pitch : r * pitch + cols]
            for c in range(cols):
                delivered[c] = x[c]
    return changed, np.int64(bits), lost  # type: ignore[return-value]


@kernel
def reading(
    master: Flat, weight: Flat, pitch: int, rows: int, x: Flat, states: row.States, by: row.By, limits: Range
) -> None:
    """The WGT read port: masters -> weights, both flat from their matrix on, x [cols] scratch."""
    T = x.dtype.type
    for r in range(rows):
        source = master[r * pitch : r * pitch + x.size]
        for c in range(x.size):
            x[c] = T(source[c])
        _round_row(x, states, by)
        _fit_row(x, limits[0], limits[1], 0)
        target = weight[r * pitch : r * pitch + x.size]
        for c in range(x.size):
            target[c] = x[c]


_base2_logit: Any = callee(loss.base2_logit)
_exp2: Any = callee(loss.exp2)
_probability: Any = callee(loss.probability)
_weight: Any = callee(loss.weight)
_gradient: Any = callee(loss.gradient)


@kernel
def loss_accumulators(z: Flat, t: Flat, z_exponent: int, bits: int, acc: npt.NDArray[np.int64]) -> None:
    """LOSS: logits z and targets t of `bits` bits -> accumulators, all [rows, cols]."""
    rows, cols = z.shape
    s = np.empty(cols, np.int64)
    for r in range(rows):
        top = np.int64(-(1 << 62))
        for c in range(cols):
            s[c] = _base2_logit(np.int64(z[r, c]), z_exponent)
            top = max(top, s[c])
        total, targets = np.int64(0), np.int64(0)
        for c in range(cols):
            s[c] = _exp2(s[c] - top)
            total += s[c]
            targets += np.int64(t[r, c])
        targets = _weight(targets, bits)
        for c in range(cols):
            acc[r, c] = _gradient(_probability(s[c], total), np.int64(t[r, c]), targets)


@kernel
def wrapping_product(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64], bits: int, acc: npt.NDArray[np.int64]) -> bool:
    """acc[r, c] = sum_k a[r, k] b[c, k] in `bits`-bit accumulators, k in order; whether any addition wrapped."""
    half = np.int64(1) << (bits - 1)
    low, high = -half, half - 1
    wrapped = False
    for r in range(a.shape[0]):
        for c in range(b.shape[0]):
            total = np.int64(0)
            for k in range(a.shape[1]):
                total += a[r, k] * b[c, k]
                if total < low or total > high:
                    wrapped = True
                    total = ((total - low) & (high - low)) + low
            acc[r, c] = total
    return wrapped


@kernel
def loading(beats: Flat, out: Flat, pitch: int, rows: int, cols: int, words: int, bits: int) -> None:
    """LOAD: beats flat [rows * words] of lanes -> out, the low `bits` of each lane, sign-extended."""
    half = np.int64(1) << (bits - 1)
    mask = (half << 1) - 1
    for r in range(rows):
        source = beats[r * words : r * words + cols]
        target = out[r * pitch : r * pitch + cols]
        for c in range(cols):
            target[c] = ((np.int64(source[c]) + half) & mask) - half
