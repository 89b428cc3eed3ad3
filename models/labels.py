"""Label policies: which target distribution each sample is trained towards."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from insitu.models.errors import InvalidInputError
from insitu.models.teachers import soft_labels


class Targets(NamedTuple):
    """Target distributions of some samples.

    Attributes:
        p: float32 [n, classes], rows sum to 1.
        keep: bool [n]; False for samples the policy has no opinion on, which are then not trained on.
    """

    p: NDArray[np.float32]
    keep: NDArray[np.bool_]


Policy: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.int64] | None], Targets]
"""Called with images float32 [n, 1, H, W] and their labels int64 [n], or None where nobody knows them."""


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


def true_labels(classes: int, eps: float = 0.0) -> Policy:
    """The labels that came with the samples, smoothed by `eps`; calling the policy without labels is an error."""

    def policy(x: NDArray[np.float32], y: NDArray[np.int64] | None = None) -> Targets:
        if y is None or len(y) != len(x):
            raise InvalidInputError(f"{'no' if y is None else len(y)} labels for {len(x)} images; expected one each")
        return _all(smooth(y, classes, eps))

    return policy


def teacher_soft(teacher: nn.Module, temperature: float = 1.0) -> Policy:
    """The teacher's softmax(logits / temperature); labels are not looked at."""

    def policy(x: NDArray[np.float32], y: NDArray[np.int64] | None = None) -> Targets:
        return _all(soft_labels(teacher, x, temperature))

    return policy


def pseudo(model: nn.Module, threshold: float = 0.0) -> Policy:
    """One-hot of the model's own answer, kept where its probability reaches `threshold` (Lee 2013; Sohn et al. 2020).

    The model is asked anew at every call, so a student under training can label for itself.

    Raises:
        InvalidInputError: a threshold outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise InvalidInputError(f"threshold {threshold}; allowed are probabilities in [0, 1]")

    def policy(x: NDArray[np.float32], y: NDArray[np.int64] | None = None) -> Targets:
        p = soft_labels(model, x, 1.0)
        return Targets(one_hot(p.argmax(axis=1), p.shape[1]), p.max(axis=1) >= threshold)

    return policy


def _all(p: NDArray[np.float32]) -> Targets:
    return Targets(p, np.ones(len(p), np.bool_))
