"""Wrong labels, put in on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from insitu.models.curricula.pool import Labels
from insitu.models.errors import InvalidInputError

Kind = Literal["none", "symmetric", "asymmetric"]


@dataclass(frozen=True)
class Noise:
    """How labels go wrong: each with probability `share`.

    symmetric: to any other class alike. asymmetric: to the next class, the last one's to the first (pair flipping, Han
    et al. 2018).

    Raises:
        InvalidInputError: no such kind, or a share outside [0, 1].
    """

    kind: Kind = "none"
    share: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) or not 0 <= self.share <= 1:
            raise InvalidInputError(
                f"noise {self.kind}:{self.share:g}; write none, symmetric:SHARE or asymmetric:SHARE, SHARE in [0, 1]"
            )

    @classmethod
    def parse(cls, text: str) -> Noise:
        """Noise of its text, such as `symmetric:0.5`; `none` is no noise."""
        kind, colon, share = text.partition(":")
        try:
            if bool(colon) is (kind != "none"):
                return cls(kind, float(share) if colon else 0.0)  # type: ignore[arg-type]  # checked there
        except ValueError as error:
            if isinstance(error, InvalidInputError):
                raise
        raise InvalidInputError(f"noise {text!r}; write none, symmetric:SHARE or asymmetric:SHARE, SHARE in [0, 1]")

    def apply(self, y: Labels, classes: int, rng: np.random.Generator) -> Labels:
        """Labels int64 [n] with some of them wrong; `y` stays as it is. As many draws whatever the share is: of two
        shares, the smaller one's wrong labels are among the larger one's."""
        wrong = rng.random(len(y)) < self.share
        steps = rng.integers(1, classes, len(y)) if self.kind == "symmetric" else np.ones(len(y), np.int64)
        return np.where(wrong & (self.kind != "none"), (y + steps) % classes, y)
