"""The feedback detector: which of the student's answers are worth the teacher's time."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Kind = Literal["margin", "confidence", "all"]


class DetectorError(ValueError):
    """A detector's setting or the logits it is given are not allowed; the message quotes the bad value."""


class Reason(IntEnum):
    """Why a sample asks the teacher. The lower-case name is the `source` it is stored under."""

    NONE = 0
    USER = 1
    MARGIN = 2
    CONFIDENCE = 3
    ALL = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Detection:
    """What a detector says of `n` answers.

    - asks: bool [n], True where the teacher is to be asked.
    - reason: uint8 [n] of `Reason`; the user's flag goes before the detector's own.
    - score: float32 [n], what was held against the threshold (1 for ``all``).
    """

    asks: NDArray[np.bool_]
    reason: NDArray[np.uint8]
    score: NDArray[np.float32]

    @property
    def source(self) -> NDArray[np.str_]:
        """str [n]: the reason in lower case (``user``, ``margin``, ``confidence``, ``all``; ``none`` if not asked)."""
        names = np.array([reason.name.lower() for reason in Reason])
        return np.asarray(names[self.reason])


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Asks the teacher where the student is unsure.

    - ``margin``: the two largest softmax probabilities lie less than `threshold` apart.
    - ``confidence``: the largest softmax probability is less than `threshold`.
    - ``all``: every sample; takes no threshold.

    `threshold` is in (0, 1]. Neither rule can see a student that is sure and wrong: the user's flag is for that.
    """

    kind: Kind = "margin"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DetectorError(f"kind is {self.kind!r}; allowed: {get_args(Kind)}")
        if self.kind == "all" and self.threshold is not None:
            raise DetectorError(f"threshold is {self.threshold} for kind 'all'; allowed: None")
        if self.kind != "all" and (self.threshold is None or not 0 < self.threshold <= 1):
            raise DetectorError(f"threshold is {self.threshold} for kind {self.kind!r}; allowed: above 0, at most 1")

    def detect(self, logits: ArrayLike, flagged: NDArray[np.bool_] | None = None) -> Detection:
        """Judge logits given as real numbers (raw integers times 2**exponent), float [n, classes], classes >= 2.

        `flagged` (bool [n]) marks answers a user complained about: they ask whatever the score. Raises `DetectorError`
        on another shape or dtype, or a logit that is not finite.
        """
        z = np.asarray(logits)
        if z.ndim != 2 or z.shape[1] < 2 or z.dtype.kind != "f":
            raise DetectorError(f"logits is {z.dtype} {list(z.shape)}; allowed: float [n, classes], classes >= 2")
        if not np.isfinite(z).all():
            raise DetectorError(f"logits holds {z[~np.isfinite(z)][0]}; allowed: finite numbers")
        if flagged is None:
            flagged = np.zeros(len(z), np.bool_)
        if flagged.dtype != np.bool_ or flagged.shape != (len(z),):
            raise DetectorError(f"flagged is {flagged.dtype} {list(flagged.shape)}; allowed: bool [{len(z)}]")
        score = self._score(z.astype(np.float64))
        unsure = np.ones(len(z), np.bool_) if self.threshold is None else score < self.threshold
        reason = np.where(unsure, int(Reason[self.kind.upper()]), int(Reason.NONE)).astype(np.uint8)
        reason[flagged] = Reason.USER
        return Detection(asks=unsure | flagged, reason=reason, score=score.astype(np.float32))

    def _score(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.kind == "all":
            return np.ones(len(z))
        powers = np.exp(z - z.max(axis=1, keepdims=True))
        top = np.partition(powers / powers.sum(axis=1, keepdims=True), -2, axis=1)
        return np.asarray(top[:, -1] - top[:, -2] if self.kind == "margin" else top[:, -1])
