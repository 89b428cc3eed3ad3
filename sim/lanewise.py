"""The passes with one channel a lane: products of elements, summed column by column, and elements looked up.

Rows are contiguous, so every innermost loop runs along one and becomes vector code. Accumulators are int32 where no
sum of the pass leaves that, else int64; only where one may leave the core's accumulator is each addition wrapped. All
else as in sim/drains.py.
"""

from __future__ import annotations

from insitu.sim import drains
from insitu.sim.drains import Draw, Fit, Flat, Scratch, Spans
from insitu.sim.jit import kernel

#: Factors of a sum's terms: (x, x's pitch, y, y's pitch, spans), a segment a term and a row of it a row of D. A pitch
#: of 0 is the same row for all.
Terms = tuple[Flat, int, Flat, int, Spans]
#: The factors of one term more, the last, whose x has a row for each row of D: (x, x's pitch, y), x empty for none.
Last = tuple[Flat, int, Flat]
#: What is looked up in place of y: (words as the banks hold them, banks, bits dropped), words empty for nothing.
Table = tuple[Flat, int, int]

_begin, _narrow_block, _own = drains.begin, drains.narrow_block, drains.own


@kernel
def add_products(
    acc: Flat, size: int, x: Flat, u: int, x_pitch: int, y: Flat, v: int, y_pitch: int, count: int, cols: int, half: int
) -> bool:
    """acc += x * y, each of `count` rows of `cols` elements, those of acc `size` apart; wrapped into [-half, half)
    unless half is 0. Whether that changed any."""
    T = acc.dtype.type
    low, mask = T(-half), T(2 * half - 1)
    wrapped = T(0)
    if size == x_pitch == y_pitch == cols:  # row upon row: one long row
        cols, count = cols * count, 1
    for r in range(count):
        total = acc[r * size : r * size + cols]
        left, right = x[u + r * x_pitch : u + r * x_pitch + cols], y[v + r * y_pitch : v + r * y_pitch + cols]
        if half:
            for c in range(cols):
                w = T(total[c] + T(T(left[c]) * T(right[c])))
                q = T(T(T(w - low) & mask) + low)
                wrapped = T(wrapped | T(q ^ w))
                total[c] = q
        else:
            for c in range(cols):
                total[c] = T(total[c] + T(T(left[c]) * T(right[c])))
    return wrapped != T(0)


@kernel
def look_up(x: Flat, x_pitch: int, table: Table, count: int, cols: int, out: Flat, pitch: int) -> None:
    """out <- table(x), both of `count` rows of `cols` elements, the first of a row in lane 0."""
    words, banks, drop = table
    half = words.size // banks >> 1
    mask = 2 * half - 1
    for r in range(count):
        source, target = x[r * x_pitch : r * x_pitch + cols], out[r * pitch : r * pitch + cols]
        for c in range(cols):
            word = ((source[c] >> drop) + half) & mask
            target[c] = words[word * banks + (c & (banks - 1))]


@kernel
def sums(
    terms: Terms,
    last: Last,
    table: Table,
    pixel: int,
    first: int,
    at: int,
    acc: Flat,
    count: int,
    cols: int,
    found: Flat,
    half: int,
) -> bool:
    """`count` rows of accumulators, rows `at` on of D, `first` on of a pixel. found, flat as acc: scratch for
    what is looked up. Returns whether one wrapped."""
    x, x_pitch, y, y_pitch, spans = terms
    size = acc.shape[1]
    flat = acc.reshape(-1)
    flat[: count * size] = 0
    wrapped = False
    for s in range(spans[0][pixel], spans[0][pixel + 1]):
        u, v = spans[1][s] + first * x_pitch, spans[2][s] + first * y_pitch
        if table[0].size:
            look_up(y[v:], y_pitch, table, count, cols, found, size)
            wrapped |= add_products(flat, size, x, u, x_pitch, found, 0, size, count, cols, half)
        else:
            wrapped |= add_products(flat, size, x, u, x_pitch, y, v, y_pitch, count, cols, half)
    if last[0].size:
        wrapped |= add_products(flat, size, last[0], at * last[1], last[1], last[2], 0, 0, count, cols, half)
    return wrapped


@kernel
def all_sums(terms: Terms, last: Last, table: Table, rows: int, acc: Flat, cols: int, found: Flat, half: int) -> bool:
    """All accumulators, `rows` a pixel: whether one wrapped."""
    wrapped = False
    for pixel in range(terms[4][0].size - 1):
        at = pixel * rows
        wrapped |= sums(terms, last, table, pixel, 0, at, acc[at : at + rows], rows, cols, found, half)
    return wrapped


@kernel
def lanewise(
    terms: Terms,
    last: Last,
    table: Table,
    rows: int,
    acc: Flat,
    cols: int,
    found: Flat,
    half: int,
    relu: bool,
    gate: Flat,
    gate_pitch: int,
    scratch: Scratch,
    draw: Draw,
    fit: Fit,
    out: Flat,
    pitch: int,
) -> tuple[int, int, bool]:
    """Block by block, the sums and their drain; the rest as `drains.narrow_block`, and whether a sum wrapped."""
    block, own = acc.shape[0], _own(scratch, 0)
    if fit[0][2]:
        _begin(own, draw, cols)
    changed, seen, wrapped = 0, 0, False
    for pixel in range(terms[4][0].size - 1):
        for first in range(0, rows, block):
            count, at = min(block, rows - first), pixel * rows + first
            wrapped |= sums(terms, last, table, pixel, first, at, acc, count, cols, found, half)
            masked, target = gate[at * gate_pitch :], out[at * pitch :]
            more, bits = _narrow_block(acc, count, cols, relu, masked, gate_pitch, own, 0, fit, target, pitch)
            changed, seen = changed + more, seen | bits
    return changed, seen, wrapped


@kernel
def tap_sums(
    a: Flat, a_pitch: int, b: Flat, b_pitch: int, spans: Spans, rows: int, acc: Flat, cols: int, half: int
) -> bool:
    """DW_UPDATE's accumulators: a row a tap, its segments of `rows` rows. Returns whether one wrapped."""
    wrapped = False
    for tap in range(spans[0].size - 1):
        total = acc[tap]
        total[:] = 0
        for s in range(spans[0][tap], spans[0][tap + 1]):
            wrapped |= add_products(total, 0, a, spans[1][s], a_pitch, b, spans[2][s], b_pitch, rows, cols, half)
    return wrapped


@kernel
def row_sums(a: Flat, a_pitch: int, rows: int, one: Flat, acc: Flat, half: int) -> bool:
    """acc [columns] <- the sum of `rows` rows, each times `one` [columns]: whether it wrapped."""
    acc[:] = 0
    return add_products(acc, 0, a, 0, a_pitch, one, 0, 0, rows, acc.size, half)
