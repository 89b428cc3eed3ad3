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

_start, _narrow_block = drains.start, drains.narrow_block


@kernel
def add_products(acc: Flat, x: Flat, y: Flat, half: int) -> bool:
    """acc += x * y, all [columns]; wrapped into [-half, half) unless half is 0. Whether that changed any."""
    T = acc.dtype.type
    if half:
        low, mask = T(-half), T(2 * half - 1)
        wrapped = T(0)
        for c in range(acc.size):
            total = T(acc[c] + T(T(x[c]) * T(y[c])))
            q = T(T(T(total - low) & mask) + low)
            wrapped = T(wrapped | T(q ^ total))
            acc[c] = q
        return wrapped != T(0)
    for c in range(acc.size):
        acc[c] = T(acc[c] + T(T(x[c]) * T(y[c])))
    return False


@kernel
def look_up(x: Flat, table: Table, found: Flat) -> None:
    """found <- table(x), both [columns], the first of them in lane 0."""
    words, banks, drop = table
    size = words.size // banks
    for c in range(found.size):
        word = ((x[c] >> drop) + (size >> 1)) & (size - 1)
        found[c] = words[word * banks + (c & (banks - 1))]


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
    found: Flat,
    half: int,
) -> bool:
    """`count` rows of accumulators, rows `at` on of D, `first` on of a pixel. found [columns]: scratch for what is
    looked up. Returns whether one wrapped."""
    x, x_pitch, y, y_pitch, spans = terms
    size, cols = acc.shape[1], found.size
    flat = acc.reshape(-1)
    flat[: count * size] = 0
    wrapped = False
    for s in range(spans[0][pixel], spans[0][pixel + 1]):
        u, v = spans[1][s] + first * x_pitch, spans[2][s] + first * y_pitch
        for r in range(count):
            right = y[v + r * y_pitch : v + r * y_pitch + cols]
            if table[0].size:
                look_up(right, table, found)
                right = found
            left = x[u + r * x_pitch : u + r * x_pitch + cols]
            wrapped |= add_products(flat[r * size : r * size + cols], left, right, half)
    if last[0].size:
        for r in range(count):
            left = last[0][(at + r) * last[1] : (at + r) * last[1] + cols]
            wrapped |= add_products(flat[r * size : r * size + cols], left, last[2], half)
    return wrapped


@kernel
def all_sums(terms: Terms, last: Last, table: Table, rows: int, acc: Flat, found: Flat, half: int) -> bool:
    """All accumulators, `rows` a pixel: whether one wrapped."""
    wrapped = False
    for pixel in range(terms[4][0].size - 1):
        at = pixel * rows
        wrapped |= sums(terms, last, table, pixel, 0, at, acc[at : at + rows], rows, found, half)
    return wrapped


@kernel
def lanewise(
    terms: Terms,
    last: Last,
    table: Table,
    rows: int,
    acc: Flat,
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
    cols, block = found.size, acc.shape[0]
    if fit[0][2]:
        _start(scratch, draw, cols)
    changed, seen, wrapped = 0, 0, False
    for pixel in range(terms[4][0].size - 1):
        for first in range(0, rows, block):
            count, at = min(block, rows - first), pixel * rows + first
            wrapped |= sums(terms, last, table, pixel, first, at, acc, count, found, half)
            masked, target = gate[at * gate_pitch :], out[at * pitch :]
            more, bits = _narrow_block(acc, count, cols, relu, masked, gate_pitch, scratch, 0, fit, target, pitch)
            changed, seen = changed + more, seen | bits
    return changed, seen, wrapped


@kernel
def tap_sums(
    a: Flat, a_pitch: int, b: Flat, b_pitch: int, spans: Spans, rows: int, acc: Flat, cols: int, half: int
) -> bool:
    """DW_UPDATE's accumulators: a row a tap, its segments of `rows` rows. Returns whether one wrapped."""
    wrapped = False
    for tap in range(spans[0].size - 1):
        total = acc[tap, :cols]
        total[:] = 0
        for s in range(spans[0][tap], spans[0][tap + 1]):
            for k in range(rows):
                u, v = spans[1][s] + k * a_pitch, spans[2][s] + k * b_pitch
                wrapped |= add_products(total, a[u : u + cols], b[v : v + cols], half)
    return wrapped


@kernel
def row_sums(a: Flat, a_pitch: int, rows: int, one: Flat, acc: Flat, half: int) -> bool:
    """acc [columns] <- the sum of `rows` rows, each times `one` [columns]: whether it wrapped."""
    acc[:] = 0
    wrapped = False
    for k in range(rows):
        wrapped |= add_products(acc, a[k * a_pitch : k * a_pitch + acc.size], one, half)
    return wrapped


@kernel
def looking_up(a: Flat, a_pitch: int, table: Table, rows: int, cols: int, out: Flat, pitch: int) -> None:
    """LOOKUP."""
    for r in range(rows):
        look_up(a[r * a_pitch : r * a_pitch + cols], table, out[r * pitch : r * pitch + cols])
