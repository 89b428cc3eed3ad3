"""What moves elements as they are, or almost: the stream into memory, the WGT read port, pools."""

from __future__ import annotations

import numpy as np

from insitu.sim import rows as row
from insitu.sim.drains import Fit, Flat, Spans
from insitu.sim.jit import kernel

_round_row, _fit_row = row.round_row, row.fit_row


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
