"""The compiled passes: products in blocks of rows, what lies between accumulators and memory (sim/rows.py), the loss.

A pass works on as many rows at a time as its accumulators `acc` [block, padded columns] have: few enough to stay in
cache where nobody looks at them afterwards. Rows are padded to whole vectors; what is beyond the columns is zero and
stays so. Matrices are flat memories from their first element on, with the elements from one row to the next. Every
kernel that draws starts the lanes' generators itself.

spans: (first, a, b), the segments of a window (sim/segments.py) with a and b in elements.
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
#: First segment of each block, and where each segment begins in A and B.
Spans = tuple[simd.Offsets, simd.Offsets, simd.Offsets]
#: Scratch for a block's values, in the arithmetic's dtype, and for its random bits: flat, [block * padded columns]; the
#: lanes' generators [padded columns].
Scratch = tuple[Flat, row.States, row.States]
#: How accumulators are rounded and fitted: (by, limits, wrap).
Fit = tuple[row.By, Range, int]

#: Elements a vector has: what rows are padded to.
VECTOR = 16

_start = lanes.start_states
_following, _step, _take, _round_row, _fit_row = row.following, row.step, row.take, row.round_row, row.fit_row
_NARROW, _UPDATE = generator.NARROW_STREAM, generator.UPDATE_STREAM


@kernel
def _random_bits(states: row.States, bits: row.States, count: int, size: int, idle: int) -> None:
    """The generators' states in `count` rows to come -> bits [count * size], `idle` steps between rows."""
    for first in range(0, size, VECTOR):
        for r in range(count):
            for c in range(VECTOR):
                v = _following(states[first + c])
                states[first + c] = v
                bits[r * size + first + c] = v
            for _ in range(idle):
                _step(states[first : first + VECTOR])


@kernel
def _narrow_block(
    acc: Flat,
    count: int,
    cols: int,
    relu: bool,
    gate: Flat,
    gate_pitch: int,
    scratch: Scratch,
    idle: int,
    fit: Fit,
    out: Flat,
    pitch: int,
) -> tuple[int, int]:
    """The first `count` rows of `acc`, in any dtype, -> `out`; ReLU or the mask is applied in place.

    gate: empty without a mask. idle: generator steps between a row and the next. Returns (fits that changed their
    value, OR of the one's-complement magnitudes).
    """
    by, limits, wrap = fit
    size = acc.shape[1]
    flat = acc.reshape(-1)[: count * size]
    zero = flat.dtype.type(0)
    if relu:
        for c in range(flat.size):
            flat[c] = max(flat[c], zero)
    if gate.size:
        for r in range(count):
            source, g = flat[r * size : r * size + cols], gate[r * gate_pitch : r * gate_pitch + cols]
            for c in range(cols):
                source[c] = source[c] if g[c] > 0 else zero
    x, bits = scratch[0][: flat.size], scratch[1][: flat.size]
    seen = _take(flat, x)
    if by[2]:
        _random_bits(scratch[2], bits, count, size, idle)
    _round_row(x, bits, by, False)
    changed = _fit_row(x, limits[0], limits[1], wrap)
    for r in range(count):
        source, target = x[r * size : r * size + cols], out[r * pitch : r * pitch + cols]
        for c in range(cols):
            target[c] = source[c]
    return changed, np.int64(seen)  # type: ignore[return-value]


@kernel
def narrowing(
    acc: Flat,
    cols: int,
    block: int,
    relu: bool,
    gate: Flat,
    gate_pitch: int,
    scratch: Scratch,
    draw: Draw,
    idle: int,
    fit: Fit,
    out: Flat,
    pitch: int,
) -> tuple[int, int]:
    """FORWARD, BACKWARD, LOSS: all accumulators -> D, `block` rows at a time; the rest as `_narrow_block`."""
    if fit[0][2]:
        _start(draw[0], _NARROW, draw[1], scratch[2][:cols], draw[2])
    changed, seen = 0, 0
    for first in range(0, acc.shape[0], block):
        count = min(block, acc.shape[0] - first)
        part, masked = acc[first : first + count], gate[first * gate_pitch :]
        target = out[first * pitch :]
        more, bits = _narrow_block(part, count, cols, relu, masked, gate_pitch, scratch, idle, fit, target, pitch)
        changed, seen = changed + more, seen | bits
    return changed, seen


@kernel
def forward_rows(
    a: Flat,
    a_pitch: int,
    b: Flat,
    b_pitch: int,
    across: bool,
    spans: Spans,
    pixel: int,
    depth: int,
    bias: simd.Int32,
    acc: simd.Int32,
    count: int,
    cols: int,
) -> None:
    """`count` rows of FORWARD's accumulators for an output pixel, A from the first of them on. B has its sums along its
    rows or, `across`, along its columns. bias: [cols], empty without one."""
    u, v = spans[1][spans[0][pixel] : spans[0][pixel + 1]], spans[2][spans[0][pixel] : spans[0][pixel + 1]]
    flat, size = acc.reshape(-1), acc.shape[1]
    if across:
        simd.outer(a, a_pitch, b, b_pitch, u, v, flat, size, count, cols, depth)
    else:
        simd.dot(a, a_pitch, b, b_pitch, u, v, flat, size, count, cols, depth)
    if bias.size:
        for r in range(count):
            for c in range(cols):
                flat[r * size + c] += bias[c]


@kernel
def forward(
    a: Flat,
    a_pitch: int,
    b: Flat,
    b_pitch: int,
    across: bool,
    spans: Spans,
    rows: int,
    depth: int,
    bias: simd.Int32,
    acc: simd.Int32,
    cols: int,
    relu: bool,
    scratch: Scratch,
    draw: Draw,
    fit: Fit,
    out: Flat,
    pitch: int,
) -> tuple[int, int]:
    """FORWARD in vector code: for each output pixel, of `rows` rows, the product and the drain."""
    if fit[0][2]:
        _start(draw[0], _NARROW, draw[1], scratch[2][:cols], draw[2])
    block, gate = acc.shape[0], a[:0]
    changed, seen = 0, 0
    for pixel in range(spans[0].size - 1):
        for first in range(0, rows, block):
            count = min(block, rows - first)
            forward_rows(a[first * a_pitch :], a_pitch, b, b_pitch, across, spans, pixel, depth, bias, acc, count, cols)
            target = out[(pixel * rows + first) * pitch :]
            more, bits = _narrow_block(acc, count, cols, relu, gate, 0, scratch, 0, fit, target, pitch)
            changed, seen = changed + more, seen | bits
    return changed, seen


@kernel
def backward(
    a: Flat,
    a_pitch: int,
    b: Flat,
    b_pitch: int,
    spans: Spans,
    rows: int,
    depth: int,
    acc: simd.Int32,
    cols: int,
    gate: Flat,
    gate_pitch: int,
    scratch: Scratch,
    draw: Draw,
    fit: Fit,
    out: Flat,
    pitch: int,
) -> tuple[int, int]:
    """BACKWARD in vector code: for each map pixel, of `rows` rows, the product and the drain."""
    if fit[0][2]:
        _start(draw[0], _NARROW, draw[1], scratch[2][:cols], draw[2])
    block, size = acc.shape
    changed, seen = 0, 0
    for pixel in range(spans[0].size - 1):
        u, v = spans[1][spans[0][pixel] : spans[0][pixel + 1]], spans[2][spans[0][pixel] : spans[0][pixel + 1]]
        for first in range(0, rows, block):
            count, at = min(block, rows - first), pixel * rows + first
            simd.outer(a[first * a_pitch :], a_pitch, b, b_pitch, u, v, acc.reshape(-1), size, count, cols, depth)
            masked, target = gate[at * gate_pitch :], out[at * pitch :]
            more, bits = _narrow_block(acc, count, cols, False, masked, gate_pitch, scratch, 0, fit, target, pitch)
            changed, seen = changed + more, seen | bits
    return changed, seen


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


#: Masters and the weights delivered of them: (masters, weights or empty, pitch, columns, groups, tail, group pitch).
Held = tuple[Flat, Flat, int, int, int, int, int]
#: What an update does: (gradient's fit, m of the rate, rounding of the rate's product, masters' limits, weights' fit).
Rule = tuple[Fit, int, row.By, Range, Fit]


@kernel
def update(
    a: Flat,
    a_pitch: int,
    b: Flat,
    b_pitch: int,
    spans: Spans,
    rows: int,
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
) -> tuple[int, int]:
    """UPDATE in vector code."""
    _start_update(scratch, draw, update_states, lanes_at, rule)
    master, weight, pitch, cols, groups, tail, group_pitch = held
    block = acc.shape[0]
    changed, seen = 0, 0
    for first in range(0, rows, block):
        count, at = min(block, rows - first), first * pitch
        update_rows(
            a[first:], a_pitch, b, b_pitch, spans, cols - (one > 0) * (groups == 1), depth, one, turned, acc, count
        )
        here = (master[at:], weight[at:], pitch, cols, groups, tail, group_pitch)
        more, bits, _ = _update_block(acc, count, scratch, update_states, rule, here, False)
        changed, seen = changed + more, seen | bits
    return changed, seen


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
) -> tuple[int, int, int]:
    """UPDATE from all its accumulators on: as `_update_block`."""
    _start_update(scratch, draw, update_states, lanes_at, rule)
    return _update_block(acc, acc.shape[0], scratch, update_states, rule, held, count_lost)


@kernel
def _start_update(scratch: Scratch, draw: Draw, update_states: row.States, lanes_at: simd.Offsets, rule: Rule) -> None:
    """Generators of every column's lane: lanes_at [columns] is each column's place in a row's words."""
    if rule[0][0][2]:
        _start_at(draw, _NARROW, lanes_at, scratch[2])
    if rule[2][2]:
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
    scratch: Scratch,
    update_states: row.States,
    rule: Rule,
    held: Held,
    count_lost: bool,
) -> tuple[int, int, int]:
    """Accumulators -> gradient -> master -= round(lr * gradient); and, where there are weights, what the read port will
    give of the new masters.

    Returns as `_narrow_block`, and where `count_lost` the accumulators not zero whose gradient is.
    """
    (by, limits, wrap), lr_mul, update_by, master_limits, (weight_by, weight_limits, _) = rule
    master, weight, pitch, cols, groups, tail, group_pitch = held
    states = scratch[2]
    x = scratch[0][: acc.shape[1]]
    T = x.dtype.type
    bottom, top, m = T(master_limits[0]), T(master_limits[1]), T(lr_mul)
    changed, lost, seen = 0, 0, T(0)
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
    return changed, np.int64(seen), lost  # type: ignore[return-value]


@kernel
def reading(master: Flat, weight: Flat, pitch: int, rows: int, x: Flat, fit: Fit) -> None:
    """The WGT read port: masters -> weights, both flat from their matrix on, x scratch for a row's words."""
    T = x.dtype.type
    by, limits, _ = fit
    states = np.empty(0, np.uint32)
    for r in range(rows):
        source = master[r * pitch : r * pitch + x.size]
        for c in range(x.size):
            x[c] = T(source[c])
        _round_row(x, states, by, False)
        _fit_row(x, limits[0], limits[1], 0)
        target = weight[r * pitch : r * pitch + x.size]
        for c in range(x.size):
            target[c] = x[c]


@kernel
def turn(weight: Flat, pitch: int, group_pitch: int, turned: Flat) -> None:
    """Weights as they are delivered -> turned [taps, depth, outputs]."""
    taps, depth, outputs = turned.shape
    for o in range(outputs):
        for t in range(taps):
            source = weight[o * pitch + t * group_pitch : o * pitch + t * group_pitch + depth]
            for k in range(depth):
                turned[t, k, o] = source[k]


@kernel
def pool(a: Flat, a_pitch: int, spans: Spans, rows: int, cols: int, lowest: int, out: Flat, pitch: int) -> None:
    """POOL: spans' a in elements, as FORWARD's."""
    for pixel in range(spans[0].size - 1):
        for r in range(rows):
            target = out[(pixel * rows + r) * pitch : (pixel * rows + r) * pitch + cols]
            for c in range(cols):
                target[c] = lowest
            for s in range(spans[0][pixel], spans[0][pixel + 1]):
                at = spans[1][s] + r * a_pitch
                source = a[at : at + cols]
                for c in range(cols):
                    target[c] = max(target[c], source[c])


@kernel
def unpool(
    a: Flat,
    a_pitch: int,
    b: Flat,
    b_pitch: int,
    spans: Spans,
    rows: int,
    mask: bool,
    best: Flat,
    done: Flat,
    out: Flat,
    pitch: int,
) -> None:
    """UNPOOL: spans' a are the map pixels that each output pixel meets, in the order of taps. best, done [cols]:
    scratch. D of pixels that no output pixel meets is not written."""
    cols = best.size
    for pixel in range(spans[0].size - 1):
        for r in range(rows):
            for c in range(cols):
                best[c] = -32768
                done[c] = 0
            for s in range(spans[0][pixel], spans[0][pixel + 1]):
                at = (spans[1][s] * rows + r) * b_pitch
                x = b[at : at + cols]
                for c in range(cols):
                    best[c] = max(best[c], x[c])
            if mask:
                for c in range(cols):
                    done[c] = best[c] <= 0
            at = (pixel * rows + r) * a_pitch
            dy = a[at : at + cols]
            for s in range(spans[0][pixel], spans[0][pixel + 1]):
                row_at = spans[1][s] * rows + r
                x, target = b[row_at * b_pitch : row_at * b_pitch + cols], out[row_at * pitch : row_at * pitch + cols]
                for c in range(cols):
                    hit = np.int16(x[c] == best[c]) & np.int16(done[c] == 0)
                    target[c] = dy[c] * hit
                    done[c] |= hit


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
def loading(
    beats: Flat, out: Flat, pitch: int, rows: int, cols: int, groups: int, tail: int, n: int, bits: int
) -> None:
    """LOAD: beats flat, a word of `n` lanes each -> out, group by group, the low `bits` of each lane, sign-extended."""
    half = np.int64(1) << (bits - 1)
    mask = (half << 1) - 1
    source_at = 0
    for r in range(rows):
        at = r * pitch
        for g in range(groups + (tail > 0)):
            width = cols if g < groups else tail
            source, target = beats[source_at : source_at + width], out[at : at + width]
            for c in range(width):
                target[c] = ((np.int64(source[c]) + half) & mask) - half
            words = (width + n - 1) // n
            source_at += words * n
            at += words * n
