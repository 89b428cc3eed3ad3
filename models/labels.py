"""Class numbers as target distributions."""

import numpy as np
from numpy.typing import NDArray

from insitu.models.errors import InvalidInputError


def one_hot(y: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """1 at the label, 0 elsewhere, float32 [n, classes].

    Raises:
        InvalidInputError: labels that are no integers in [0, classes), or not one-dimensional.
    """
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise InvalidInputError(f"labels are {y.dtype} {list(y.shape)}; expected integers [n]")
    if len(y) and (y.min() < 0 or y.max() >= classes):
        raise InvalidInputError(f"labels span {y.min()}..{y.max()}; allowed 0..{classes - 1}")
    p = np.zeros((len(y), classes), np.float32)
    p[np.arange(len(y)), y] = 1
    return p


def smooth(y: NDArray[np.int64], classes: int, eps: float) -> NDArray[np.float32]:
    """(1 - eps) one_hot + eps / classes, float32 [n, classes] (Szegedy et al. 2016, section 7).

    Raises:
        InvalidInputError: eps outside [0, 1], or labels as for `one_hot`.
    """
    if not 0 <= eps <= 1:
        raise InvalidInputError(f"eps {eps}; allowed are numbers in [0, 1]")
    return one_hot(y, classes) * np.float32(1 - eps) + np.float32(eps / classes)
