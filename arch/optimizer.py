"""The optimiser a program was compiled for: momentum, weight decay, and the parts a batch comes in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from insitu.arch.errors import ArchError, require


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """SGD: v = momentum * v + lr * (dL/dw + weight_decay * w), w -= v; with neither, w -= lr * dL/dw.

    PyTorch's but for where the rate stands: v is in units of an update, so a rate that changes leaves what was gathered
    at the old one as it is. micro_batches: parts, each of a program's batch, whose gradients make one step.
    Raises ArchError on a value out of range.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    micro_batches: int = 1

    def __post_init__(self) -> None:
        require(0 <= self.momentum < 1, f"momentum {self.momentum!r}: must be at least 0 and below 1")
        require(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            f"weight decay {self.weight_decay!r}: must be finite and not negative",
        )
        require(
            isinstance(self.micro_batches, int) and self.micro_batches >= 1,
            f"micro-batches {self.micro_batches!r}: must be at least 1",
        )

    @property
    def plain(self) -> bool:
        """Whether gradients alone move masters: no velocity is needed."""
        return self == Optimizer()

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Optimizer:
        """The optimiser of a `to_json` dictionary. Raises ArchError where a field is missing or unknown."""
        names = {f.name for f in fields(cls)}
        if not isinstance(data, Mapping) or set(data) != names:
            raise ArchError(f"not an optimiser: expected exactly the fields {', '.join(sorted(names))}")
        return cls(**data)
