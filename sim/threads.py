"""Large passes on all of numba's threads: rows are shared out, the bits stay the same.

How many is numba's to say (NUMBA_NUM_THREADS, numba.set_num_threads); with one, or for small work, nothing here runs.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from insitu.sim import kernels, lanes, simd
from insitu.sim.jit import parallel
from insitu.sim.kernels import By, Flat, Range
from insitu.sim.simd import Int16, Int32

#: Multiply-accumulates, and masters of an update, below which a second thread costs more than it brings.
MACS_FROM, MASTERS_FROM = 1 << 20, 1 << 15


def parts(work: int, least: int) -> int:
    """Threads to share `work` among."""
    return int(nb.get_num_threads()) if work >= least else 1


_dot, _outer, _updating = simd.dot, simd.outer, kernels.updating


@parallel
def dot(
    a: Int16, a_stride: int, b: Int16, b_stride: int, c: Int32, rows: int, cols: int, depth: int, parts: int
) -> None:
    """`simd.dot` with its rows in `parts` parts."""
    size = -(-rows // parts)
    for part in nb.prange(parts):
        first = part * size
        count = min(size, rows - first)
        if count > 0:
            _dot(a[first * a_stride :], a_stride, b, b_stride, c[first * cols :], count, cols, depth)


@parallel
def outer(
    a: Int16,
    a_stride: int,
    b: Int16,
    b_stride: int,
    c: Int32,
    c_stride: int,
    rows: int,
    cols: int,
    depth: int,
    parts: int,
) -> None:
    """`simd.outer` with its rows in `parts` parts."""
    size = -(-rows // parts)
    for part in nb.prange(parts):
        first = part * size
        count = min(size, rows - first)
        if count > 0:
            _outer(a[first * a_stride :], a_stride, b, b_stride, c[first * c_stride :], c_stride, count, cols, depth)


@parallel
def updating(
    acc: Flat,
    master: Flat,
    pitch: int,
    x: Flat,
    rounding: int,
    states: lanes.States,
    by: By,
    limits: Range,
    wrap: int,
    lr_mul: int,
    update_rounding: int,
    update_states: lanes.States,
    update_by: By,
    master_limits: Range,
    weight: Flat,
    weight_rounding: int,
    weight_by: By,
    weight_limits: Range,
    results: Flat,
) -> None:
    """`kernels.updating` with its rows in as many parts as x, states and update_states [parts, cols] have rows, the
    states each where its part begins; results int64 [parts, 3] takes what each returns."""
    rows, parts = acc.shape[0], x.shape[0]
    size = -(-rows // parts)
    for part in nb.prange(parts):
        first = part * size
        count = min(size, rows - first)
        if count > 0:
            changed, bits, lost = _updating(
                acc[first : first + count],
                master[first * pitch :],
                pitch,
                x[part],
                rounding,
                states[part],
                by,
                limits,
                wrap,
                lr_mul,
                update_rounding,
                update_states[part],
                update_by,
                master_limits,
                weight[first * pitch :] if weight.size else weight,
                weight_rounding,
                weight_by,
                weight_limits,
                False,
            )
            results[part, 0] = changed
            results[part, 1] = bits
            results[part, 2] = lost


def starts(states: lanes.States, rows: int, parts: int) -> lanes.States:
    """The generators where each of `parts` parts of `rows` rows begins: uint32 [parts, cols]."""
    size = -(-rows // parts)
    found = np.empty((parts, states.size), dtype=np.uint32)
    found[0] = states
    for part in range(1, parts):
        lanes.skip(lanes.jump(size), found[part - 1], found[part])
    return found
