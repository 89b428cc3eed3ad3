"""How the host lays a sample into the rows and columns of a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.errors import require
from insitu.arch.isa import EXTENT_FIELDS, FIELDS
from insitu.arch.window import Window


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples [channels, map_height, map_width] in a tensor of B of them: its row `pixel * B + sample` holds what the
    window's output pixel meets, tap by tap, `channels` columns each, zero where a tap meets no pixel.

    A kernel of one tap lays a sample out as a feature map; a larger one unfolds it into patches. Samples without pixels
    are a map of one. Raises ArchError for a value outside its range.
    """

    channels: int
    window: Window = Window()

    def __post_init__(self) -> None:
        for name, value in {"channels": self.channels, **asdict(self.window)}.items():
            low = 0 if name.startswith("pad_") else 1
            high = FIELDS["map_height"].maximum if name in EXTENT_FIELDS else FIELDS["cols"].maximum
            require(
                isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
                f"samples of {name}={value!r}: allowed are {low} to {high}",
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a sample."""
        return self.channels, self.window.map_height, self.window.map_width

    @property
    def features(self) -> int:
        """Elements of a sample."""
        return self.channels * self.window.map_pixels

    @property
    def pixels(self) -> int:
        """Rows that a sample takes."""
        return self.window.out_pixels

    @property
    def cols(self) -> int:
        """Columns that a sample takes."""
        return self.window.taps * self.channels

    @cached_property
    def sources(self) -> npt.NDArray[np.int64]:
        """The feature of a flat sample that each element holds: int64 [pixels, cols], -1 for zero."""
        met = self.window.reads[:, :, None]
        channel = np.arange(self.channels, dtype=np.int64) * self.window.map_pixels
        return np.where(met >= 0, met + channel, -1).reshape(self.pixels, self.cols)

    def to_json(self) -> dict[str, int]:
        """A JSON-ready dictionary; `from_json` reads it back."""
        return {"channels": self.channels, **asdict(self.window)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Samples:
        """Samples of a `to_json` dictionary. Raises ArchError where a field is missing, unknown or out of range."""
        names = [f.name for f in fields(Window)]
        require(
            isinstance(data, Mapping) and set(data) == {"channels", *names},
            f"samples {data!r}: expected exactly channels, {', '.join(names)}",
        )
        return cls(channels=data["channels"], window=Window(**{name: data[name] for name in names}))
