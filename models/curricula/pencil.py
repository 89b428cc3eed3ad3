"""PENCIL: labels that are learned along with the student (Yi and Wu 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from insitu.models.curricula.context import Batch, Context
from insitu.models.curricula.labels import Distributions, HostLoss
from insitu.models.curricula.numbers import log, softmax
from insitu.models.curricula.pool import Logits, Pool
from insitu.models.curricula.samples import labelled
from insitu.models.errors import InvalidInputError
from insitu.models.labels import one_hot

SHARPNESS = 10.0
"""What one-hot labels are multiplied by to begin with, as logits of the label distribution (section 3.2)."""


@dataclass(frozen=True)
class Pencil:
    """The paper's second and third stage; its first is plain cross-entropy of the labels given.

    With f = softmax(z), the label distribution d = softmax(u), u from SHARPNESS onehot, c classes:
    L = mean [KL(f || d) / c - alpha sum onehot log d - beta / c sum f log f], and after each batch u -= rate dL/du.
    rate = 0 leaves labels as an earlier stage learned them: with alpha = beta = 0 the third stage.
    Learned labels are those of the pool: a later stage of the same run, of as many samples, goes on with them.

    Raises:
        InvalidInputError: a negative or infinite number.
    """

    rate: float = 0.0
    alpha: float = 0.1
    beta: float = 0.4

    def __post_init__(self) -> None:
        if not all(0 <= v < np.inf for v in (self.rate, self.alpha, self.beta)):
            raise InvalidInputError(
                f"rate {self.rate}, alpha {self.alpha}, beta {self.beta}; allowed are finite numbers from 0 up"
            )

    def begin(self, pool: Pool, context: Context) -> HostLoss:
        labelled(pool, "labels to be learned")
        true = one_hot(pool.y, pool.classes)
        learned = context.memory.setdefault("pencil", np.float32(SHARPNESS) * true)
        if len(learned) != len(pool):
            raise InvalidInputError(f"labels learned of {len(learned)} samples; this stage's pool has {len(pool)}")
        return _Learning(self, learned, true)


@dataclass
class _Learning:
    """policy, u [n, classes], changed in place, and onehot [n, classes]."""

    policy: Pencil
    u: NDArray[np.float32]
    true: NDArray[np.float32]
    rate: float = 1.0

    def gradient(self, batch: Batch, logits: Logits) -> Distributions:
        policy, classes = self.policy, np.float32(logits.shape[1])
        f, d = softmax(logits), softmax(self.u[batch.rows])
        g = f * _centred(log(f) - log(d), f) / classes
        if policy.beta:
            g -= np.float32(policy.beta) / classes * f * _centred(log(f), f)
        if policy.rate:
            moved = (d - f) / classes + np.float32(policy.alpha) * (d - self.true[batch.rows])
            np.subtract.at(self.u, batch.rows, np.float32(policy.rate / len(batch.rows)) * moved)
        return np.asarray(g, np.float32)


def _centred(values: NDArray[np.float32], f: NDArray[np.float32]) -> NDArray[np.float32]:
    """values less their mean under f: what softmax makes of d(sum f values)/df."""
    return values - np.sum(f * values, axis=1, keepdims=True)
