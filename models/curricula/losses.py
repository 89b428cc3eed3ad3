"""Losses whose gradient is not softmax(z) - target: the host works out dL/dz, the device does the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from insitu.models.curricula.context import Batch, Context
from insitu.models.curricula.labels import Distributions, HostLoss
from insitu.models.curricula.numbers import softmax
from insitu.models.curricula.pool import Logits, Pool
from insitu.models.curricula.samples import labelled
from insitu.models.errors import InvalidInputError
from insitu.models.labels import one_hot


@dataclass(frozen=True)
class Function:
    """A loss as a function of (logits [b, classes], the batch)."""

    of: Callable[[Logits, Batch], Distributions]
    rate: float = 1.0

    def gradient(self, batch: Batch, logits: Logits) -> Distributions:
        return self.of(logits, batch)


@dataclass(frozen=True)
class Distilled:
    """(1 - share) CE(label) + share T^2 KL(softmax(z_teacher / T) || softmax(z / T)) (Hinton et al. 2015, section 2).

    T: `temperature`. share: 1 where there are no labels.
    """

    share: float = 0.7
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 < self.temperature < np.inf:
            raise InvalidInputError(
                f"share {self.share}, temperature {self.temperature}; allowed are numbers in [0, 1], and above 0"
            )

    def begin(self, pool: Pool, context: Context) -> HostLoss:
        if self.share < 1:
            labelled(pool, f"a share of {1 - self.share:g} of the labels")
        taught = softmax(context.teacher(pool.x), self.temperature)
        true = one_hot(np.maximum(pool.y, 0), pool.classes)
        hard, soft = np.float32(1 - self.share), np.float32(self.share * self.temperature)

        def gradient(z: Logits, batch: Batch) -> Distributions:
            told = softmax(z, self.temperature) - taught[batch.rows]
            return hard * (softmax(z) - true[batch.rows]) + soft * told

        return Function(gradient)


@dataclass(frozen=True)
class LogitAdjusted:
    """CE of z + tau log prior, the prior that of the pool's labels (Menon et al. 2021, equation 10): the student's own
    logits end up as if classes came alike."""

    tau: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.tau < np.inf:
            raise InvalidInputError(f"tau {self.tau}; allowed are numbers from 0 up")

    def begin(self, pool: Pool, context: Context) -> HostLoss:
        labelled(pool, "logits adjusted by the labels")
        prior = np.maximum(pool.counts(), 1) / len(pool)
        shift = (self.tau * np.log(prior)).astype(np.float32)
        true = one_hot(pool.y, pool.classes)
        return Function(lambda z, batch: softmax(z + shift) - true[batch.rows])


@dataclass(frozen=True)
class GeneralisedCrossEntropy:
    """(1 - p_y ** q) / q (Zhang and Sabuncu 2018, equation 6): between CE, q = 0, and the mean absolute error, 1."""

    q: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.q <= 1:
            raise InvalidInputError(f"q {self.q}; allowed are numbers in (0, 1]")

    def begin(self, pool: Pool, context: Context) -> HostLoss:
        labelled(pool, "generalised cross-entropy")
        true = one_hot(pool.y, pool.classes)

        def gradient(z: Logits, batch: Batch) -> Distributions:
            p, wanted = softmax(z), true[batch.rows]
            weight = np.sum(p * wanted, axis=1, keepdims=True) ** np.float32(self.q)
            return weight * (p - wanted)

        return Function(gradient)


@dataclass(frozen=True)
class SymmetricCrossEntropy:
    """alpha CE + beta RCE, RCE = - sum p log onehot with log 0 = `floor` (Wang et al. 2019, equation 7)."""

    alpha: float = 0.1
    beta: float = 1.0
    floor: float = -4.0

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta) < 0 or self.floor >= 0:
            raise InvalidInputError(
                f"alpha {self.alpha}, beta {self.beta}, floor {self.floor}; allowed are 0 and above, and below 0"
            )

    def begin(self, pool: Pool, context: Context) -> HostLoss:
        labelled(pool, "symmetric cross-entropy")
        true = one_hot(pool.y, pool.classes)
        alpha, beta = np.float32(self.alpha), np.float32(-self.beta * self.floor)

        def gradient(z: Logits, batch: Batch) -> Distributions:
            p, wanted = softmax(z), true[batch.rows]
            # RCE = -floor (1 - p_y), and d(1 - p_y)/dz = p_y (p - onehot).
            at: NDArray[np.float32] = np.sum(p * wanted, axis=1, keepdims=True)
            return (alpha + beta * at) * (p - wanted)

        return Function(gradient)
