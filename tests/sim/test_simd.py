"""The vector products against numpy, at every edge of their tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.sim import simd

pytestmark = pytest.mark.skipif(not simd.AVAILABLE, reason="this machine has no AVX-512 VNNI")

sizes = st.tuples(st.integers(1, 30), st.integers(1, 70), st.integers(1, 70), st.integers(0, 9), st.integers(0, 9))
segments = st.integers(0, 4)


def matrices(rng: np.random.Generator, count: int, rows: int, cols: int, extra: int) -> tuple[np.ndarray, np.ndarray]:
    """Several matrices [count, rows, cols] of the full int16 range in one flat memory, `extra` elements beyond each row
    that must not matter, and where each begins, in any order."""
    size = rows * (cols + extra)
    flat = rng.integers(-(2**15), 2**15, (count + 1) * size).astype(np.int16)
    return flat, rng.permutation(count + 1)[:count].astype(np.int64) * size


def taken(flat: np.ndarray, offsets: np.ndarray, rows: int, cols: int, extra: int) -> np.ndarray:
    size = rows * (cols + extra)
    found = [flat[o : o + size].reshape(rows, cols + extra)[:, :cols].astype(np.int64) for o in offsets]
    return np.array(found, dtype=np.int64).reshape(len(offsets), rows, cols)


def wrapped(product: np.ndarray) -> np.ndarray:
    return product.astype(np.uint64).astype(np.uint32).view(np.int32)


@given(sizes, segments, st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_dot(size: tuple[int, ...], count: int, c_extra: int, seed: int) -> None:
    rows, cols, depth, a_extra, b_extra = size
    rng = np.random.default_rng(seed)
    (a, u), (b, v) = matrices(rng, count, rows, depth, a_extra), matrices(rng, count, cols, depth, b_extra)
    c = np.full((rows, cols + c_extra), 7, np.int32)
    simd.dot(a, depth + a_extra, b, depth + b_extra, u, v, c.reshape(-1), cols + c_extra, rows, cols, depth)
    x, y = taken(a, u, rows, depth, a_extra), taken(b, v, cols, depth, b_extra)
    np.testing.assert_array_equal(c[:, :cols], wrapped(np.einsum("srk,sck->rc", x, y)))
    assert (c[:, cols:] == 7).all()


@given(sizes, segments, st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_outer(size: tuple[int, ...], count: int, c_extra: int, seed: int) -> None:
    rows, cols, depth, a_extra, b_extra = size
    rng = np.random.default_rng(seed)
    (a, u), (b, v) = matrices(rng, count, rows, depth, a_extra), matrices(rng, count, depth, cols, b_extra)
    c = np.full((rows, cols + c_extra), 7, np.int32)
    simd.outer(a, depth + a_extra, b, cols + b_extra, u, v, c.reshape(-1), cols + c_extra, rows, cols, depth)
    x, y = taken(a, u, rows, depth, a_extra), taken(b, v, depth, cols, b_extra)
    np.testing.assert_array_equal(c[:, :cols], wrapped(np.einsum("srk,skc->rc", x, y)))
    assert (c[:, cols:] == 7).all()
