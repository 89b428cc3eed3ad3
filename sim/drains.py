"""The drain: blocks of accumulators -> memory, row by row by the rules of sim/rows.py.

A pass works on as many rows at a time as its accumulators `acc` [block, padded columns] have: few enough to stay in
cache where nobody looks at them afterwards. Rows are padded to whole vectors; what is beyond the columns is zero and
stays so. Matrices are flat memories from their first element on, with the elements from one row to the next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch import generator
from insitu.sim import lanes, simd
from insitu.sim import rows as row
from insitu.sim.jit import kernel

Range = tuple[int, int]
Flat = npt.NDArray[Any]
#: (seed, the `lanes.jump` of a column's rows, lanes): what generators start from.
Draw = tuple[int, lanes.States, int]
#: First segment of each block, and where each segment begins in A and B.
Spans = tuple[simd.Offsets, simd.Offsets, simd.Offsets]
#: Scratch for a block's values, in the arithmetic's dtype, and for its random bits: flat, [block * padded columns]; the
#: lanes' generators [padded columns]. Each share of the rows has its own: [shares, ...].
Scratch = tuple[Flat, row.States, row.States]
#: How rows are shared: where each share begins, and the `lanes.jump` to there (sim/threads.py).
Shared = tuple[simd.Offsets, row.States]
#: How accumulators are rounded and fitted: (by, limits, wrap).
Fit = tuple[row.By, Range, int]

#: Elements a vector has: what rows are padded to.
VECTOR = 16

_following, _step, _take, _round_row, _fit_row = row.following, row.step, row.take, row.round_row, row.fit_row


@kernel
def own(scratch: Scratch, s: int) -> Scratch:
    """The scratch of one share, without the leading axis."""
    return scratch[0][s], scratch[1][s], scratch[2][s]


@kernel
def together(found: npt.NDArray[np.int64]) -> tuple[int, int]:
    """What the shares found, [shares, 2], as one that has all rows would have."""
    changed, seen = 0, 0
    for s in range(found.shape[0]):
        changed, seen = changed + found[s, 0], seen | found[s, 1]
    return changed, seen


@kernel
def begin(scratch: Scratch, draw: Draw, cols: int) -> None:
    """The lanes' generators of a narrowing, before its first row."""
    lanes.start_states(draw[0], generator.NARROW_STREAM, draw[1], scratch[2][:cols], draw[2])


@kernel
def start(scratch: Scratch, draw: Draw, cols: int, shared: Shared, s: int) -> None:
    """The lanes' generators of a narrowing, before the first row of share `s`, whose scratch it is."""
    begin(scratch, draw, cols)
    advance(scratch[2][:cols], shared, s)


@kernel
def advance(states: row.States, shared: Shared, s: int) -> None:
    """Generators before the first of all rows -> those before the first row of share `s`."""
    if shared[0][s]:
        lanes.skip(shared[1][s], states.copy(), states)


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
def narrow_block(
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
    """FORWARD, BACKWARD, LOSS: all accumulators -> D, `block` rows at a time; the rest as `narrow_block`."""
    mine = own(scratch, 0)
    if fit[0][2]:
        begin(mine, draw, cols)
    changed, seen = 0, 0
    for first in range(0, acc.shape[0], block):
        count = min(block, acc.shape[0] - first)
        part, masked = acc[first : first + count], gate[first * gate_pitch :]
        target = out[first * pitch :]
        more, bits = narrow_block(part, count, cols, relu, masked, gate_pitch, mine, idle, fit, target, pitch)
        changed, seen = changed + more, seen | bits
    return changed, seen
