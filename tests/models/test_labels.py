import numpy as np
import pytest

from insitu.models.errors import InvalidInputError
from insitu.models.labels import one_hot, smooth

Y = np.array([2, 0, 1], np.int64)


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
