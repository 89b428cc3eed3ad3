"""Windows: which pixels meet, told by brute force and by PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn.functional import unfold

from insitu.arch.window import Window

lengths, taps, pads = st.integers(1, 7), st.integers(1, 4), st.integers(0, 3)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Any window, its output and its kernel larger or smaller than what the map would make of them."""
    axes = ("height", "width")
    values = {f"{name}_{axis}": draw(lengths) for name in ("map", "out") for axis in axes}
    values |= {f"{name}_{axis}": draw(taps) for name in ("kernel", "stride") for axis in axes}
    return Window(**values, **{f"pad_{axis}": draw(pads) for axis in axes})


def met(w: Window, q: int, t: int) -> int:
    """The map pixel that output pixel q meets with tap t, -1 for none: found by looking at every pixel there is."""
    for p in range(w.map_height * w.map_width):
        down, across = p // w.map_width, p % w.map_width
        y, x = q // w.out_width, q % w.out_width
        i, j = t // w.kernel_width, t % w.kernel_width
        if (down + w.pad_height, across + w.pad_width) == (y * w.stride_height + i, x * w.stride_width + j):
            return p
    return -1


@given(windows())
def test_reads_are_what_brute_force_finds(w: Window) -> None:
    pixels, taps = w.out_height * w.out_width, w.kernel_height * w.kernel_width
    assert (w.map_pixels, w.out_pixels, w.taps) == (w.map_height * w.map_width, pixels, taps)
    assert w.reads.dtype == np.int64
    assert w.reads.tolist() == [[met(w, q, t) for t in range(taps)] for q in range(pixels)]


@given(windows())
def test_writes_are_reads_the_other_way(w: Window) -> None:
    reads, writes = w.reads, w.writes
    assert writes.dtype == np.int64
    assert writes.shape == (w.map_pixels, w.taps)
    there = {(q, t, p) for (q, t), p in np.ndenumerate(reads) if p >= 0}
    back = {(q, t, p) for (p, t), q in np.ndenumerate(writes) if q >= 0}
    assert there == back
    # With one tap, a pixel is met from one place at most.
    assert len({(t, p) for _, t, p in there}) == len(there)
    assert set(np.unique(reads)) <= set(range(-1, w.map_pixels))
    assert set(np.unique(writes)) <= set(range(-1, w.out_pixels))


@given(lengths, lengths, taps, taps, st.integers(1, 3), st.integers(1, 3), pads, pads)
def test_reads_are_pytorchs_unfolding(
    height: int, width: int, down: int, across: int, step_y: int, step_x: int, pad_y: int, pad_x: int
) -> None:
    given_y, given_x = height + 2 * pad_y - down, width + 2 * pad_x - across
    assume(given_y >= 0)
    assume(given_x >= 0)
    w = Window(
        map_height=height,
        map_width=width,
        out_height=given_y // step_y + 1,
        out_width=given_x // step_x + 1,
        kernel_height=down,
        kernel_width=across,
        stride_height=step_y,
        stride_width=step_x,
        pad_height=pad_y,
        pad_width=pad_x,
    )
    # Numbered from 1: what is not there unfolds to 0.
    numbered = torch.arange(1, height * width + 1, dtype=torch.float64).reshape(1, 1, height, width)
    columns = unfold(numbered, (down, across), padding=(pad_y, pad_x), stride=(step_y, step_x))[0]
    assert w.reads.tolist() == (columns.T - 1).to(torch.int64).tolist()


def test_without_extents_a_pixel_meets_itself() -> None:
    w = Window()
    assert w.reads.tolist() == w.writes.tolist() == [[0]]


def test_a_kernel_beyond_its_map() -> None:
    """Three taps on a map of two pixels, a border of one: no output pixel meets more than two."""
    w = Window(map_width=2, out_width=4, kernel_width=3, pad_width=1)
    assert w.reads.tolist() == [[-1, 0, 1], [0, 1, -1], [1, -1, -1], [-1, -1, -1]]
    assert w.writes.tolist() == [[1, 0, -1], [2, 1, 0]]


def test_what_is_shared_cannot_be_changed() -> None:
    """Equal windows share their arrays; what one reader wrote, every other would read."""
    with pytest.raises(ValueError, match="read-only"):
        Window(map_width=3, out_width=3).reads[0, 0] = 7
