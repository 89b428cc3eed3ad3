"""Where elements lie: rows and columns stream without a bank conflict, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace

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


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Matrix, int]:
    """The weights of a kernel: groups of columns, and mostly a last one that is no wider."""
    n = draw(st.sampled_from(SIDES))
    rows, cols, groups = draw(st.integers(1, 12)), draw(st.integers(1, 40)), draw(st.integers(1, 9))
    tail = draw(st.sampled_from([0, 1, 1, cols]))
    words = groups * -(-cols // n) + -(-tail // n)
    values = {"rows": rows, "cols": cols, "groups": groups, "tail": tail}
    base, pitch = draw(st.integers(0, 50)), words + draw(st.integers(0, 3))
    return Matrix(memory=Memory.WGT, base=base, pitch=pitch, **values), n


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


@given(grouped())
def test_groups_begin_at_words(case: tuple[Matrix, int]) -> None:
    """Within each group columns lie as those of a matrix do, from its own first word."""
    matrix, n = case
    address, bank = matrix.locate(n)
    assert address.shape == bank.shape == (matrix.rows, matrix.width)
    widths = [matrix.cols] * matrix.groups + [matrix.tail] * (matrix.tail > 0)
    assert matrix.width == sum(widths)
    for r in range(matrix.rows):
        column, word = 0, matrix.base + r * matrix.pitch
        for width in widths:
            for c in range(width):
                assert (address[r, column + c], bank[r, column + c]) == (word + c // n, (r + c) % n)
            column += width
            word += -(-width // n)
        assert word == matrix.base + r * matrix.pitch + matrix.row_words(n)


@given(grouped())
def test_a_matrix_of_one_group_is_one_without(case: tuple[Matrix, int]) -> None:
    matrix, n = case
    plain = Matrix(memory=matrix.memory, base=matrix.base, rows=matrix.rows, cols=matrix.cols, pitch=matrix.pitch)
    one = replace(plain, groups=1, tail=0)
    assert [a.tolist() for a in one.locate(n)] == [a.tolist() for a in plain.locate(n)]
    # The first group of a row lies where the plain matrix would.
    for whole, first in zip(matrix.locate(n), plain.locate(n), strict=True):
        assert np.array_equal(whole[:, : matrix.cols], first)


@given(st.one_of(placed(), grouped()), st.integers(0, 2**32 - 1))
def test_what_is_written_is_read_and_the_rest_is_left(case: tuple[Matrix, int], seed: int) -> None:
    matrix, n = case
    rng = np.random.default_rng(seed)
    end = matrix.base + matrix.words(n)
    before = rng.integers(-128, 128, (end + 2, n))
    values = rng.integers(1000, 2000, (matrix.rows, matrix.width))
    image = before.copy()
    matrix.write(image, values)
    assert np.array_equal(matrix.read(image), values)
    # No two elements share a place: exactly rows x width places changed, all of them inside the matrix's words.
    changed = image != before
    assert changed.sum() == values.size
    assert not changed[: matrix.base].any()
    assert not changed[end:].any()


@given(st.one_of(placed(), grouped()))
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


def test_grouped_weights_by_hand() -> None:
    """Two taps of three columns and a bias, in a row that begins in bank 1: each begins there again."""
    matrix = Matrix(memory=Memory.WGT, base=0, rows=2, cols=3, pitch=4, groups=2, tail=1)
    image = np.full((8, 4), -1)
    matrix.write(image, np.arange(14).reshape(2, 7))
    assert image[:3].tolist() == [[0, 1, 2, -1], [3, 4, 5, -1], [6, -1, -1, -1]]
    assert image[4:7].tolist() == [[-1, 7, 8, 9], [-1, 10, 11, 12], [-1, 13, -1, -1]]
    assert (image[[3, 7]] == -1).all()


@pytest.mark.parametrize(("cols", "n", "expected"), [(1, 4, 1), (4, 4, 1), (5, 4, 2), (32, 8, 4), (33, 8, 5)])
def test_blocks(cols: int, n: int, expected: int) -> None:
    assert blocks(cols, n) == expected


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        ({"rows": 0}, "0 x 3"),
        ({"cols": -1}, "2 x -1"),
        ({"base": -5}, "base -5"),
        ({"pitch": -2}, "pitch -2"),
        ({"groups": 0}, "0 groups of 3 columns"),
        ({"tail": 4}, "a last one of 4"),
        ({"tail": -1}, "a last one of -1"),
    ],
)
def test_matrices_that_cannot_be(change: dict[str, int], bad: str) -> None:
    with pytest.raises(ArchError, match=bad):
        Matrix(**({"memory": Memory.ACT, "base": 0, "rows": 2, "cols": 3, "pitch": 1} | change))
