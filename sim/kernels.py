"""FORWARD and BACKWARD in vector code: a block of products, its drain, the next block.

spans: (first, a, b), the segments of a window (sim/segments.py) with a and b in elements. All else as in sim/drains.py.
"""

from __future__ import annotations

from insitu.sim import drains, simd
from insitu.sim.drains import Draw, Fit, Flat, Scratch, Spans
from insitu.sim.jit import kernel

_start, _narrow_block = drains.start, drains.narrow_block


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
        _start(scratch, draw, cols)
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
        _start(scratch, draw, cols)
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
