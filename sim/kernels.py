"""The compiled passes: what happens between accumulators and memory, row by row (sim/rows.py), and the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch import loss
from insitu.arch.numbers import Rounding
from insitu.sim import rows as row
from insitu.sim.jit import callee, kernel

#: What is applied to an accumulator before it is narrowed.
IDENTITY, RELU, MASK = 0, 1, 2

By = tuple[int, int, int, int]
Range = tuple[int, int]
Flat = npt.NDArray[Any]

_STOCHASTIC, _NEAREST = int(Rounding.STOCHASTIC), int(Rounding.NEAREST)
_step, _seen, _round_row, _fit_row = row.step, row.seen, row.round_row, row.fit_row


@kernel
def narrowing(
    acc: Flat,
    bias: Flat,
    activation: int,
    gate: Flat,
    gate_pitch: int,
    out: Flat,
    pitch: int,
    x: Flat,
    rounding: int,
    states: row.States,
    steps: int,
    by: By,
    limits: Range,
    wrap: int,
) -> tuple[int, int]:
    """FORWARD, BACKWARD, LOSS: accumulators -> D.

    acc [rows, cols] in any dtype; bias [cols] or empty, added to every row; gate and out: flat memories from their
    matrix on; x: scratch for a row [cols], its dtype the arithmetic's; steps: generator steps a row.
    Returns (fits that changed their value, OR of the one's-complement magnitudes).
    """
    T = x.dtype.type
    rows, cols = acc.shape
    changed, bits = 0, T(0)
    for r in range(rows):
        source = acc[r]
        for c in range(cols):
            x[c] = T(source[c])
        if bias.size:
            for c in range(cols):
                x[c] = T(x[c] + T(bias[c]))
        if activation == RELU:
            for c in range(cols):
                x[c] = max(x[c], T(0))
        elif activation == MASK:
            g = gate[r * gate_pitch : r * gate_pitch + cols]
            for c in range(cols):
                x[c] = x[c] if g[c] > 0 else T(0)
        bits = T(bits | _seen(x))
        if rounding == _STOCHASTIC:
            for _ in range(steps):
                _step(states)
        _round_row(x, rounding, states, by)
        changed += _fit_row(x, limits[0], limits[1], wrap)
        target = out[r * pitch : r * pitch + cols]
        for c in range(cols):
            target[c] = x[c]
    return changed, np.int64(bits)  # type: ignore[return-value]


@kernel
def updating(
    acc: Flat,
    master: Flat,
    pitch: int,
    x: Flat,
    rounding: int,
    states: row.States,
    by: By,
    limits: Range,
    wrap: int,
    lr_mul: int,
    update_rounding: int,
    update_states: row.States,
    update_by: By,
    master_limits: Range,
    weight: Flat,
    weight_rounding: int,
    weight_by: By,
    weight_limits: Range,
    count: bool,
) -> tuple[int, int, int]:
    """UPDATE: accumulators [rows, cols] -> gradient -> master -= round(lr * gradient); and, where `weight` is not
    empty, the weights that the read port will give of the new masters.

    Returns as `narrowing`, and where `count` the accumulators not zero whose gradient is.
    """
    T = x.dtype.type
    rows, cols = acc.shape
    lost = 0
    changed, bits, m, sign = 0, T(0), T(lr_mul), T(8 * x.itemsize - 1)
    for r in range(rows):
        source = acc[r]
        for c in range(cols):
            v = T(source[c])
            bits = T(bits | T(v ^ T(v >> sign)))
            x[c] = v
        if rounding == _STOCHASTIC:
            _step(states)
        _round_row(x, rounding, states, by)
        changed += _fit_row(x, limits[0], limits[1], wrap)
        if count:
            for c in range(cols):
                lost += (x[c] == 0) & (source[c] != 0)
        for c in range(cols):
            x[c] = T(m * x[c])
        if update_rounding == _STOCHASTIC:
            _step(update_states)
        _round_row(x, update_rounding, update_states, update_by)
        target = master[r * pitch : r * pitch + cols]
        for c in range(cols):
            x[c] = T(T(target[c]) - x[c])
        changed += _fit_row(x, master_limits[0], master_limits[1], 0)
        for c in range(cols):
            target[c] = x[c]
        if weight.size:
            _round_row(x, weight_rounding, states, weight_by)
            _fit_row(x, weight_limits[0], weight_limits[1], 0)
            delivered = weight[r * pitch : r * pitch + cols]
            for c in range(cols):
                delivered[c] = x[c]
    return changed, np.int64(bits), lost  # type: ignore[return-value]


@kernel
def reading(
    master: Flat, weight: Flat, pitch: int, rows: int, x: Flat, rounding: int, states: row.States, by: By, limits: Range
) -> None:
    """The WGT read port: masters -> weights, both flat from their matrix on, x [cols] scratch."""
    T = x.dtype.type
    for r in range(rows):
        source = master[r * pitch : r * pitch + x.size]
        for c in range(x.size):
            x[c] = T(source[c])
        _round_row(x, rounding, states, by)
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
