"""The vector products against numpy, at every edge of their tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.sim import simd

pytestmark = pytest.mark.skipif(not simd.AVAILABLE, reason="this machine has no AVX-512 VNNI")

sizes = st.tuples(st.integers(1, 30), st.integers(1, 70), st.integers(1, 70), st.integers(0, 9), st.integers(0, 9))


def matrix(rng: np.random.Generator, rows: int, cols: int, extra: int) -> np.ndarray:
    """[rows, cols + extra] of the full int16 range; what lies beyond `cols` must not matter."""
    return rng.integers(-(2**15), 2**15, (rows, cols + extra)).astype(np.int16)


def wrapped(product: np.ndarray) -> np.ndarray:
    return product.astype(np.uint64).astype(np.uint32).view(np.int32)


@settings(deadline=None)
@given(sizes, st.integers(0, 2**32 - 1))
def test_dot(size: tuple[int, ...], seed: int) -> None:
    rows, cols, depth, a_extra, b_extra = size
    rng = np.random.default_rng(seed)
    a, b = matrix(rng, rows, depth, a_extra), matrix(rng, cols, depth, b_extra)
    c = np.zeros((rows, cols), np.int32)
    simd.dot(a.reshape(-1), depth + a_extra, b.reshape(-1), depth + b_extra, c.reshape(-1), rows, cols, depth)
    np.testing.assert_array_equal(c, wrapped(a[:, :depth].astype(np.int64) @ b[:, :depth].T.astype(np.int64)))


@settings(deadline=None)
@given(sizes, st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_outer(size: tuple[int, ...], c_extra: int, seed: int) -> None:
    rows, cols, depth, a_extra, b_extra = size
    rng = np.random.default_rng(seed)
    a, b = matrix(rng, rows, depth, a_extra), matrix(rng, depth, cols, b_extra)
    c = np.full((rows, cols + c_extra), 7, np.int32)
    strides = (depth + a_extra, cols + b_extra, cols + c_extra)
    simd.outer(a.reshape(-1), strides[0], b.reshape(-1), strides[1], c.reshape(-1), strides[2], rows, cols, depth)
    expected = wrapped(a[:, :depth].astype(np.int64) @ b[:, :cols].astype(np.int64))
    np.testing.assert_array_equal(c[:, :cols], expected)
    assert (c[:, cols:] == 7).all()
