"""Label policies whose gradient is the device's own, softmax(z) - target."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from insitu.models import labels
from insitu.models.curricula.context import Batch, Context, Who
from insitu.models.curricula.numbers import softmax
from insitu.models.curricula.pool import UNKNOWN, Logits, Pool
from insitu.models.curricula.samples import check_who, labelled
from insitu.models.errors import InvalidInputError

Distributions = NDArray[np.float32]
Weighting = Literal["none", "inverse", "effective"]


class Labeller(Protocol):
    """Labels for mini-batches of one stage."""

    @property
    def rate(self) -> float:
        """What the stage's learning rate is multiplied by, to make up for targets that had to be scaled down: the
        device's are at most 1."""
        ...

    def targets(self, batch: Batch) -> Distributions:
        """float32 [b, classes], 0 to 1; a row's sum is the weight of its sample, zeros train nothing."""
        ...


class LabelPolicy(Protocol):
    """Towards what a stage trains. What it cannot do with a pool it says as the stage begins."""

    def begin(self, pool: Pool, context: Context) -> Labeller | HostLoss:
        """Get ready for a stage that draws from `pool`. Raises InvalidInputError where its labels do not do."""
        ...


@runtime_checkable
class HostLoss(Protocol):
    """A loss of which the host works out dL/dz: the other entry of the same program."""

    @property
    def rate(self) -> float:
        """As of a `Labeller`."""
        ...

    def gradient(self, batch: Batch, logits: Logits) -> Distributions:
        """dL/dz of the loss summed over the mini-batch, float32 [b, classes]."""
        ...


@dataclass(frozen=True)
class Fixed:
    """Targets that are known as the stage begins: p [n, classes], one row a sample of the pool."""

    p: Distributions
    rate: float = 1.0

    def targets(self, batch: Batch) -> Distributions:
        return self.p[batch.rows]


@dataclass(frozen=True)
class Given:
    """The labels that came with the samples, smoothed by `eps`.

    weights: of classes, mean 1 over the pool: none; inverse, 1 / n; effective, (1 - beta) / (1 - beta ** n) (Cui et
    al. 2019, equation 4), n the labelled samples of the class.

    Raises:
        InvalidInputError: eps or beta outside [0, 1), or no such weights.
    """

    eps: float = 0.0
    weights: Weighting = "none"
    beta: float = 0.999

    def __post_init__(self) -> None:
        if not (0 <= self.eps < 1 and 0 <= self.beta < 1):
            raise InvalidInputError(f"eps {self.eps}, beta {self.beta}; allowed are numbers in [0, 1)")
        if self.weights not in get_args(Weighting):
            raise InvalidInputError(f"weights {self.weights!r}; allowed are {', '.join(get_args(Weighting))}")

    def begin(self, pool: Pool, context: Context) -> Labeller:
        labelled(pool, "given labels")
        targets = labels.smooth(pool.y, pool.classes, self.eps)
        weight = self._weights(pool)[pool.y]
        weight /= weight.mean()
        top = float(weight.max())
        return Fixed(targets * (weight / top)[:, None].astype(np.float32), rate=top)

    def _weights(self, pool: Pool) -> NDArray[np.float64]:
        n = np.maximum(pool.counts(), 1).astype(np.float64)
        if self.weights == "inverse":
            return 1 / n
        return (1 - self.beta) / (1 - self.beta**n) if self.weights == "effective" else np.ones(pool.classes)


@dataclass(frozen=True)
class Soft:
    """softmax(logits / temperature) of the teacher, or of the student as the stage begins; labels are not looked at.

    share: of the target that is the label itself; 0 where there are none.
    """

    of: Who = "teacher"
    temperature: float = 1.0
    share: float = 0.0

    def __post_init__(self) -> None:
        check_who(self.of)
        if not 0 < self.temperature < np.inf or not 0 <= self.share <= 1:
            raise InvalidInputError(
                f"temperature {self.temperature}, share {self.share}; allowed are numbers above 0, and in [0, 1]"
            )

    def begin(self, pool: Pool, context: Context) -> Labeller:
        if self.share:
            labelled(pool, f"a share of {self.share} of the labels")
        p = softmax(context.ask(self.of)(pool.x), self.temperature)
        if self.share:
            p = np.float32(1 - self.share) * p + np.float32(self.share) * labels.one_hot(pool.y, pool.classes)
        return Fixed(p)


@dataclass(frozen=True)
class Pseudo:
    """One-hot of an answer where its probability reaches `threshold`, nothing elsewhere (Lee 2013; Sohn et al. 2020).

    of: the teacher's, or the student's as the stage begins: its former self. Where a label came, it is used.
    """

    of: Who = "student"
    threshold: float = 0.0

    def __post_init__(self) -> None:
        check_who(self.of)
        if not 0 <= self.threshold <= 1:
            raise InvalidInputError(f"threshold {self.threshold}; allowed are probabilities in [0, 1]")

    def begin(self, pool: Pool, context: Context) -> Labeller:
        p = softmax(context.ask(self.of)(pool.x))
        known = pool.y != UNKNOWN
        y = np.where(known, pool.y, p.argmax(axis=1))
        sure = known | (p.max(axis=1) >= self.threshold)
        return Fixed(labels.one_hot(y, pool.classes) * sure[:, None].astype(np.float32))


@dataclass(frozen=True)
class Peers:
    """Mutual learning: CE + mean KL(peer || self) has the gradient 2 softmax(z) - onehot - mean of the peers' softmax
    (Zhang et al. 2018, equation 8, peers detached), so that the target is between the label and the peers' mean.

    share: of the peers' mean in the target; of a sample without a label all. rate keeps the loss's own scale: 1 / (1 -
    share), 2 where both count alike. temperature: of what peers send.
    """

    share: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or not 0 < self.temperature < np.inf:
            raise InvalidInputError(
                f"share {self.share}, temperature {self.temperature}; allowed are numbers in [0, 1), and above 0"
            )

    def begin(self, pool: Pool, context: Context) -> Labeller:
        return _Exchanged(self, pool.classes, 1 / (1 - self.share))


@dataclass(frozen=True)
class _Exchanged:
    policy: Peers
    classes: int
    rate: float = field(default=1.0)

    def targets(self, batch: Batch) -> Distributions:
        sent = batch.peers()
        if not sent:
            raise InvalidInputError("labels of peers for a student that learns alone; allowed: students = 2 and more")
        mean = np.mean([softmax(z, self.policy.temperature) for z in sent], axis=0, dtype=np.float32)
        known = batch.y != UNKNOWN
        share = np.where(known, self.policy.share, 1).astype(np.float32)[:, None]
        own = labels.one_hot(np.where(known, batch.y, 0), self.classes)
        return np.asarray(share * mean + (1 - share) * own, np.float32)
