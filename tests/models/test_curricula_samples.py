"""Pools, noise, and which samples come in which order."""

from __future__ import annotations

import numpy as np
import pytest

from insitu.models.curricula.context import Answering, Context
from insitu.models.curricula.noise import Noise
from insitu.models.curricula.pool import UNKNOWN, Images, Labels, Pool, skewed
from insitu.models.curricula.samples import ClassBalanced, Rotations, TopK, Uniform
from insitu.models.errors import InvalidInputError

CLASSES = 4


def pool(y: list[int] | Labels, side: int = 2) -> Pool:
    """Samples whose first pixel is their place."""
    labels = np.array(y, np.int64)
    x = np.random.default_rng(0).random((len(labels), 1, side, side), dtype=np.float32)
    x[:, 0, 0, 0] = np.arange(len(labels))
    return Pool(x=x, y=labels, classes=CLASSES)


def context(of: Pool, batch: int = 3, teacher: Answering = lambda x: x[:, 0, 0], seed: int = 0) -> Context:
    return Context(pool=of, batch=batch, seed=(seed,), teacher=teacher, student=lambda x: -teacher(x))


def test_pools_refuse_what_does_not_belong_together() -> None:
    x = np.zeros((2, 1, 2, 2), np.float32)
    with pytest.raises(InvalidInputError, match=r"labels \[3\]"):
        Pool(x=x, y=np.zeros(3, np.int64), classes=2)
    with pytest.raises(InvalidInputError, match="0..5; allowed are 0..3"):
        Pool(x=x, y=np.array([0, 5]), classes=4)
    assert pool([0, 2, 2, UNKNOWN]).counts().tolist() == [1, 0, 2, 0]


def test_skew_thins_classes_out_by_a_constant_factor() -> None:
    y = np.repeat(np.arange(CLASSES), 1000)
    rows = skewed(y, CLASSES, 8.0, np.random.default_rng(0))
    assert np.bincount(y[rows]).tolist() == [1000, 500, 250, 125]
    assert len(np.unique(rows)) == len(rows)
    with pytest.raises(InvalidInputError, match=r"skew 0\.5"):
        skewed(y, CLASSES, 0.5, np.random.default_rng(0))


def test_symmetric_noise_goes_to_every_other_class() -> None:
    y = np.repeat(np.arange(CLASSES), 2000)
    noisy = Noise.parse("symmetric:0.4").apply(y, CLASSES, np.random.default_rng(1))
    assert (noisy != y).mean() == pytest.approx(0.4, abs=0.02)
    moved = np.bincount((noisy - y) % CLASSES, minlength=CLASSES)[1:] / len(y)
    np.testing.assert_allclose(moved, 0.4 / 3, atol=0.02)


def test_asymmetric_noise_goes_to_the_next_class() -> None:
    y = np.repeat(np.arange(CLASSES), 2000)
    few, many = (Noise("asymmetric", share).apply(y, CLASSES, np.random.default_rng(1)) for share in (0.2, 0.4))
    assert set(((many - y) % CLASSES).tolist()) == {0, 1}
    assert set(np.flatnonzero(few != y)) < set(np.flatnonzero(many != y))
    assert (Noise().apply(y, CLASSES, np.random.default_rng(1)) == y).all()


@pytest.mark.parametrize("text", ["symmetric", "symmetric:1.5", "loud:0.2", "none:0.1", "symmetric:half"])
def test_noise_that_is_none(text: str) -> None:
    with pytest.raises(InvalidInputError, match="write none, symmetric:SHARE or asymmetric:SHARE"):
        Noise.parse(text)


def test_uniform_takes_each_sample_once_a_pass_in_another_order() -> None:
    given = context(pool([0] * 10))
    policy = Uniform()
    passes = [list(policy.batches(given.pool, given, number)) for number in (0, 1, 0)]
    assert [len(rows) for rows in passes[0]] == [3, 3, 3, 1]
    assert len(passes[0]) == policy.steps(given.pool, 3)
    orders = [np.concatenate(batches).tolist() for batches in passes]
    assert sorted(orders[0]) == list(range(10))
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]


def test_class_balanced_draws_rare_classes_as_often() -> None:
    given = context(pool([0] * 900 + [1] * 90 + [3] * 10), batch=50)
    drawn = np.concatenate(list(ClassBalanced().batches(given.pool, given, 0)))
    assert len(drawn) == 1000
    np.testing.assert_allclose(
        np.bincount(given.pool.y[drawn], minlength=4) / 1000, [1 / 3, 1 / 3, 0, 1 / 3], atol=0.05
    )


def test_top_k_takes_the_likeliest_of_each_class_and_calls_them_so() -> None:
    logits = np.log(
        np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.45, 0.05], [0.1, 0.8, 0.1], [0.4, 0.35, 0.25]], np.float32)
    )

    def teacher(x: Images) -> Images:
        return logits[x[:, 0, 0, 0].astype(int)]

    given = context(pool([UNKNOWN] * 5), teacher=teacher)

    def chosen(policy: TopK) -> list[tuple[int, int]]:
        found = policy.pool(given)
        return list(zip(found.x[:, 0, 0, 0].astype(int).tolist(), found.y.tolist(), strict=True))

    assert chosen(TopK(k=2, p=1)) == [(0, 0), (1, 0), (3, 1)]
    assert chosen(TopK(k=2, p=2)) == [(0, 0), (1, 0), (3, 1), (2, 1)]
    assert chosen(TopK(k=1, p=3)) == [(0, 0), (3, 1), (4, 2)]
    assert chosen(TopK(k=2, p=1, balanced=True)) == [(0, 0), (1, 0), (3, 1), (3, 1)]
    # The student here thinks the contrary.
    assert chosen(TopK(k=1, p=1, of="student")) != chosen(TopK(k=1, p=1))
    with pytest.raises(InvalidInputError, match="of 'nobody'"):
        TopK(of="nobody")  # type: ignore[arg-type]


def test_rotations_come_four_together_with_their_turn() -> None:
    given = context(pool([0, 1, 2], side=3), batch=9)
    policy = Rotations()
    turned = policy.pool(given)
    assert turned.classes == 4
    assert len(turned) == 12
    batches = list(policy.batches(turned, given, 0))
    assert [len(rows) for rows in batches] == [8, 4]
    assert len(batches) == policy.steps(turned, 9)
    for rows in batches:
        for image in rows.reshape(-1, 4):
            upright = turned.x[image[0]]
            for turn, row in enumerate(image):
                assert turned.y[row] == turn
                np.testing.assert_array_equal(turned.x[row], np.rot90(upright, turn, axes=(1, 2)))
    np.testing.assert_array_equal(turned.x[::4], given.pool.x)


def test_rotations_refuse() -> None:
    given = context(pool([0, 1]))
    with pytest.raises(InvalidInputError, match="mini-batches of 3"):
        Rotations().steps(given.pool, 3)
    oblong = Pool(x=np.zeros((2, 1, 2, 3), np.float32), y=np.zeros(2, np.int64), classes=2)
    with pytest.raises(InvalidInputError, match="2 x 3"):
        Rotations().pool(context(oblong))
