"""FORWARD and BACKWARD in vector code: a block of products, its drain, the next block.

spans: (first, a, b), the segments of a window (sim/segments.py) with a and b in elements. acc: a block of accumulators
for each share of the rows. All else as in sim/drains.py. `forward` and `backward` take one share;
`forward_shared` and `backward_shared` all of them, a thread each.
"""

from __future__ import annotations

import numpy as np

from insitu.sim import drains, simd
from insitu.sim.drains import Draw, Fit, Flat, Scratch, Shared, Spans
from insitu.sim.jit import kernel, parallel_kernel, prange

_start, _narrow_block, _own, _together = (
    drains.start,
    drains.narrow_block,
    drains.own,
    drains.together,
)


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
    shared: Shared,
    s: int,
) -> tuple[int, int]:
    """Share `s` of FORWARD's rows: for each of its output pixels, of `rows` rows, the product and the drain."""
    own, last = _own(scratch, s), shared[0][s + 1]
    if fit[0][2]:
        _start(own, draw, cols, shared, s)
    sums, gate = acc[s], a[:0]
    changed, seen, at = 0, 0, shared[0][s]
    while at < last:
        pixel, first = at // rows, at % rows
        count = min(sums.shape[0], rows - first, last - at)
        forward_rows(a[first * a_pitch :], a_pitch, b, b_pitch, across, spans, pixel, depth, bias, sums, count, cols)
        more, bits = _narrow_block(sums, count, cols, relu, gate, 0, own, 0, fit, out[at * pitch :], pitch)
        changed, seen, at = changed + more, seen | bits, at + count
    return changed, seen


@parallel_kernel
def forward_shared(
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
    shared: Shared,
) -> tuple[int, int]:
    """FORWARD, a thread for each share."""
    # Loops over threads take no tuples of tuples: one is taken apart outside and put together inside.
    by, limits, wrap = fit
    found = np.zeros((shared[1].shape[0], 2), np.int64)
    for s in prange(found.shape[0]):
        found[s, 0], found[s, 1] = forward(
            a,
            a_pitch,
            b,
            b_pitch,
            across,
            spans,
            rows,
            depth,
            bias,
            acc,
            cols,
            relu,
            scratch,
            draw,
            (by, limits, wrap),
            out,
            pitch,
            shared,
            int(s),
        )
    return _together(found)


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
    shared: Shared,
    s: int,
) -> tuple[int, int]:
    """Share `s` of BACKWARD's rows: for each of its map pixels, of `rows` rows, the product and the drain."""
    own, last = _own(scratch, s), shared[0][s + 1]
    if fit[0][2]:
        _start(own, draw, cols, shared, s)
    sums = acc[s]
    block, size = sums.shape
    changed, seen, at = 0, 0, shared[0][s]
    while at < last:
        pixel, first = at // rows, at % rows
        count = min(block, rows - first, last - at)
        u, v = spans[1][spans[0][pixel] : spans[0][pixel + 1]], spans[2][spans[0][pixel] : spans[0][pixel + 1]]
        simd.outer(a[first * a_pitch :], a_pitch, b, b_pitch, u, v, sums.reshape(-1), size, count, cols, depth)
        masked, target = gate[at * gate_pitch :], out[at * pitch :]
        more, bits = _narrow_block(sums, count, cols, False, masked, gate_pitch, own, 0, fit, target, pitch)
        changed, seen, at = changed + more, seen | bits, at + count
    return changed, seen


@parallel_kernel
def backward_shared(
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
    shared: Shared,
) -> tuple[int, int]:
    """BACKWARD, a thread for each share."""
    # Loops over threads take no tuples of tuples: one is taken apart outside and put together inside.
    by, limits, wrap = fit
    found = np.zeros((shared[1].shape[0], 2), np.int64)
    for s in prange(found.shape[0]):
        found[s, 0], found[s, 1] = backward(
            a,
            a_pitch,
            b,
            b_pitch,
            spans,
            rows,
            depth,
            acc,
            cols,
            gate,
            gate_pitch,
            scratch,
            draw,
            (by, limits, wrap),
            out,
            pitch,
            shared,
            int(s),
        )
    return _together(found)
