"""Where elements lie: rows and columns stream without a bank conflict, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.arch.errors import ArchError
from insitu.arch.layout import Matrix, Memory, blocks

SIDES = (4, 8, 16, 32)


@st.composite
def placed(draw: st.DrawFn) -> tuple[Matrix, int]:
    n = draw(st.sampled_from(SIDES))
    rows, cols = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    pitch = blocks(cols, n) + draw(st.integers(0, 3))
    matrix = Matrix(memory=Memory.ACT, base=draw(st.integers(0, 50)), rows=rows, cols=cols, pitch=pitch)
    return matrix, n


@given(placed())
def test_any_run_of_a_row_or_a_column_hits_every_bank_once(case: tuple[Matrix, int]) -> None:
    matrix, n = case
    _, bank = matrix.locate(n)
    for lines in (bank, bank.T):
        for line in lines.tolist():
            for first in range(len(line)):
                run = line[first : first + n]
                assert len(set(run)) == len(run)


@given(placed())
def test_an_aligned_block_of_a_row_shares_one_word(case: tuple[Matrix, int]) -> None:
    matrix, n = case
    address, _ = matrix.locate(n)
    for r in range(matrix.rows):
        for c in range(matrix.cols):
            assert address[r, c] == matrix.base + r * matrix.pitch + c // n


@given(placed(), st.integers(0, 2**32 - 1))
def test_what_is_written_is_read_and_the_rest_is_left(case: tuple[Matrix, int], seed: int) -> None:
    matrix, n = case
    rng = np.random.default_rng(seed)
    end = matrix.base + matrix.words(n)
    before = rng.integers(-128, 128, (end + 2, n))
    values = rng.integers(1000, 2000, (matrix.rows, matrix.cols))
    image = before.copy()
    matrix.write(image, values)
    assert np.array_equal(matrix.read(image), values)
    # No two elements share a place: exactly rows x cols places changed, all of them inside the matrix's words.
    changed = image != before
    assert changed.sum() == values.size
    assert not changed[: matrix.base].any()
    assert not changed[end:].any()


@given(placed())
def test_words_end_at_the_last_element(case: tuple[Matrix, int]) -> None:
    matrix, n = case
    address, bank = matrix.locate(n)
    assert address.min() == matrix.base
    assert address.max() == matrix.base + matrix.words(n) - 1
    assert bank.min() >= 0
    assert bank.max() < n


def test_a_small_matrix_by_hand() -> None:
    image = np.full((4, 4), -1)
    Matrix(memory=Memory.ERR, base=1, rows=3, cols=3, pitch=1).write(image, np.arange(9).reshape(3, 3))
    assert image.tolist() == [[-1, -1, -1, -1], [0, 1, 2, -1], [-1, 3, 4, 5], [8, -1, 6, 7]]


@pytest.mark.parametrize(("cols", "n", "expected"), [(1, 4, 1), (4, 4, 1), (5, 4, 2), (32, 8, 4), (33, 8, 5)])
def test_blocks(cols: int, n: int, expected: int) -> None:
    assert blocks(cols, n) == expected


@pytest.mark.parametrize(
    ("change", "bad"),
    [({"rows": 0}, "0 x 3"), ({"cols": -1}, "2 x -1"), ({"base": -5}, "base -5"), ({"pitch": -2}, "pitch -2")],
)
def test_matrices_that_cannot_be(change: dict[str, int], bad: str) -> None:
    with pytest.raises(ArchError, match=bad):
        Matrix(**({"memory": Memory.ACT, "base": 0, "rows": 2, "cols": 3, "pitch": 1} | change))
