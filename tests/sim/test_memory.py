"""Banked memories: however matrices are laid over each other, the image is the one the device would have."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.arch.layout import Matrix, Memory, blocks
from insitu.sim.memory import BankedMemory, Place, Table

DEPTH = 24


@st.composite
def matrices(draw: st.DrawFn, n: int) -> Matrix:
    """Any matrix whose rows lie apart and that fits DEPTH words."""
    words = draw(st.integers(1, 4))
    pitch = draw(st.integers(words, words + 3))
    rows = draw(st.integers(1, 1 + (DEPTH - words) // pitch))
    cols = draw(st.integers((words - 1) * n + 1, words * n))
    base = draw(st.integers(0, DEPTH - (rows - 1) * pitch - words))
    return Matrix(memory=Memory.ACT, base=base, rows=rows, cols=cols, pitch=pitch)


def values(seed: int, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(-(1 << 15), 1 << 15, shape)


@settings(max_examples=300)
@given(st.data(), st.sampled_from([4, 8, 16]), st.sampled_from([np.int16, np.int32]))
def test_image_and_views_agree_with_the_layout(data: st.DataObject, n: int, dtype: type) -> None:
    memory, image = BankedMemory(DEPTH, n, dtype), np.zeros((DEPTH, n), np.int64)
    known = [data.draw(matrices(n)) for _ in range(3)]
    for step in range(data.draw(st.integers(1, 8))):
        what = data.draw(st.sampled_from(["write", "write", "read", "fill"]))
        matrix = data.draw(st.sampled_from(known))
        if what == "write":
            new = values(step, (matrix.rows, matrix.cols))
            memory.view(matrix)[:] = new
            matrix.write(image, new)
        elif what == "fill":
            image = values(step, (DEPTH, n))
            memory.image = image
            image = image.copy()
        np.testing.assert_array_equal(memory.view(matrix), matrix.read(image))
        np.testing.assert_array_equal(memory.image, image)


@settings(max_examples=100)
@given(st.data(), st.sampled_from([4, 8]))
def test_a_place_stays_right_whatever_is_laid_over_it(data: st.DataObject, n: int) -> None:
    memory, matrix, over = BankedMemory(DEPTH, n, np.int32), data.draw(matrices(n)), data.draw(matrices(n))
    memory.image = values(1, (DEPTH, n))
    place, other = Place(memory, matrix), Place(memory, over)
    for _ in range(2):
        assert other.view.shape == (over.rows, over.cols)  # lays it over the first
        flat = place.flat
        expected = matrix.read(memory.image)
        np.testing.assert_array_equal(place.view, expected)
        for r in range(matrix.rows):
            np.testing.assert_array_equal(flat[r * place.pitch : r * place.pitch + matrix.cols], expected[r])


@settings(max_examples=100)
@given(st.data(), st.sampled_from([4, 8]))
def test_a_table_is_what_the_banks_hold(data: st.DataObject, n: int) -> None:
    memory, over = BankedMemory(DEPTH, n, np.int16), data.draw(matrices(n))
    memory.image = values(1, (DEPTH, n))
    words = data.draw(st.sampled_from([1, 2, 4, 8]))
    base = words * data.draw(st.integers(0, DEPTH // words - 1))
    table, place = Table(memory, base, words), Place(memory, over)
    for step in range(3):
        place.view[:] = values(step, (over.rows, over.cols))
        expected = memory.image[base : base + words]
        np.testing.assert_array_equal(table.flat.reshape(words, n), expected)


@pytest.mark.parametrize("n", [4, 8])
def test_padding_lanes_keep_what_they_held(n: int) -> None:
    memory, image = BankedMemory(DEPTH, n, np.int32), values(2, (DEPTH, n))
    memory.image = image
    matrix = Matrix(memory=Memory.WGT, base=3, rows=5, cols=n + 1, pitch=blocks(n + 1, n))
    memory.view(matrix)[:] = 7
    touched = np.zeros((DEPTH, n), np.bool_)
    touched[matrix.locate(n)] = True
    assert (memory.image[touched] == 7).all()
    np.testing.assert_array_equal(memory.image[~touched], image[~touched])


def test_image_is_a_copy() -> None:
    memory = BankedMemory(DEPTH, 4, np.int32)
    memory.image[:] = 1
    assert not memory.image.any()
