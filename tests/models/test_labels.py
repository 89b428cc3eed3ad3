import numpy as np
import pytest
import torch
from torch import nn

from insitu.models.errors import InvalidInputError
from insitu.models.labels import one_hot, pseudo, smooth, teacher_soft, true_labels

Y = np.array([2, 0, 1], np.int64)
# Four numbers that are their own logits, so that the expected probabilities can be worked by hand.
X = np.log(np.array([[6, 1, 1, 2], [1, 1, 1, 1], [1, 8, 1, 0.1]], np.float32)).reshape(3, 1, 2, 2)


def test_one_hot():
    p = one_hot(Y, 4)
    assert p.dtype == np.float32
    assert p.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert one_hot(Y[:0], 4).shape == (0, 4)


def test_smooth():
    p = smooth(Y, 4, 0.2)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p[0], [0.05, 0.05, 0.85, 0.05], atol=1e-7)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    assert np.array_equal(smooth(Y, 4, 0), one_hot(Y, 4))
    np.testing.assert_allclose(smooth(Y, 4, 1), 0.25)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (np.array([4]), "spans? 4..4; allowed 0..3"),
        (np.array([-1]), "-1"),
        (np.array([0.5]), "float64"),
        (np.array([[1]]), r"\[1, 1\]"),
    ],
)
def test_one_hot_refuses(y, says):
    with pytest.raises(InvalidInputError, match=says):
        one_hot(y, 4)


@pytest.mark.parametrize("eps", [-0.1, 1.1, float("nan")])
def test_smooth_refuses(eps):
    with pytest.raises(InvalidInputError, match="eps"):
        smooth(Y, 4, eps)


def test_true_labels():
    targets = true_labels(4, 0.2)(X, Y)
    np.testing.assert_array_equal(targets.p, smooth(Y, 4, 0.2))
    assert targets.keep.tolist() == [True] * 3
    with pytest.raises(InvalidInputError, match="no labels for 3"):
        true_labels(4)(X, None)
    with pytest.raises(InvalidInputError, match="2 labels for 3"):
        true_labels(4)(X, Y[:2])


def test_teacher_soft_needs_no_labels():
    targets = teacher_soft(nn.Flatten(), 1.0)(X, None)
    np.testing.assert_allclose(targets.p[0], [0.6, 0.1, 0.1, 0.2], atol=1e-6)
    assert targets.keep.all()
    warm = teacher_soft(nn.Flatten(), 2.0)(X, Y).p[0]
    roots = np.sqrt([6, 1, 1, 2])
    np.testing.assert_allclose(warm, roots / roots.sum(), atol=1e-6)


def test_pseudo_keeps_the_confident():
    targets = pseudo(nn.Flatten(), 0.7)(X, None)
    assert targets.p.dtype == np.float32
    assert targets.p[0].tolist() == [1, 0, 0, 0]
    assert targets.p[2].tolist() == [0, 1, 0, 0]
    assert targets.keep.tolist() == [False, False, True]
    assert pseudo(nn.Flatten())(X, None).keep.all()
    with pytest.raises(InvalidInputError, match="threshold 1.5"):
        pseudo(nn.Flatten(), 1.5)


def test_pseudo_asks_the_model_anew():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    policy = pseudo(model)
    nn.init.zeros_(model[1].weight)
    for favoured in (0, 1):
        with torch.no_grad():
            model[1].bias.copy_(torch.eye(2)[favoured])
        assert policy(X, None).p[:, favoured].tolist() == [1, 1, 1]
