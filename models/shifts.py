"""Scene shifts: what changes between the laboratory and the place where the device hangs.

A scene is systematic: a camera mounted askew turns every image by the same angle. Each kind therefore has one strength
a severity step for all images, and a small jitter an image; noise alone is new in every pixel. Lengths are shares of
the image's side, so the same scene means the same on 8 x 8 and on 28 x 28.

| kind      | a severity step                                                  | jitter an image             |
| --------- | ---------------------------------------------------------------- | --------------------------- |
| rotate    | 15 degrees anticlockwise                                         | uniform +-3 degrees         |
| translate | 3 % of the side to the right and down, filled with 0             | uniform +-2 % of the side   |
| blur      | 3 % of the side as the Gaussian's   standard deviation           | uniform +-10 % of that      |
| contrast  | 18 % less contrast about the image's mean                        | uniform +-2 %               |
| noise     | 0.1 as the standard deviation of Gaussian noise                  | every pixel its own         |
| occlude   | a square of 12 % of the side, at grey 0.5, over the centre       | its place, +-5 % a side     |
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from kornia.enhance import adjust_contrast_with_mean_subtraction
from kornia.geometry.transform import rotate, translate
from numpy.typing import NDArray
from torch.nn.functional import pad

from insitu.models import draws
from insitu.models.errors import InvalidInputError

Images: TypeAlias = NDArray[np.float32]
SEVERITIES = range(1, 6)
CHUNK = 4096
"""Images transformed at a time; bounds memory, does not enter the result."""


@dataclass(frozen=True)
class Step:
    """One kind of shift at one severity.

    Raises:
        InvalidInputError: an unknown kind, or a severity outside 1..5.
    """

    kind: str
    severity: int

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise InvalidInputError(f"shift {self.kind!r}; allowed are {', '.join(_KINDS)}")
        if self.severity not in SEVERITIES:
            raise InvalidInputError(f"severity {self.severity!r} of {self.kind}; allowed are the integers 1..5")

    def __str__(self) -> str:
        return f"{self.kind}:{self.severity}"


@dataclass(frozen=True)
class Shift:
    """A scene: steps applied in their order; no step at all is the laboratory itself, written `none`.

    `str(shift)` is what `Shift.parse` reads.
    """

    steps: tuple[Step, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Shift":
        """Read `kind:severity`, several joined by `+` (`rotate:3+noise:2`), or `none`.

        Raises:
            InvalidInputError: anything else.
        """
        if text.strip() == "none":
            return cls()
        steps = []
        for part in text.split("+"):
            kind, colon, severity = part.strip().partition(":")
            if not colon or not severity.isascii() or not severity.isdigit():
                raise InvalidInputError(
                    f"shift {text!r}: {part!r} is not kind:severity; write e.g. rotate:3 or rotate:3+noise:2, or none"
                )
            steps.append(Step(kind, int(severity)))
        return cls(tuple(steps))

    def __str__(self) -> str:
        return "+".join(map(str, self.steps)) or "none"

    def at(self, severity: int) -> "Shift":
        """The same kinds in the same order, every one at this severity."""
        return Shift(tuple(replace(step, severity=severity) for step in self.steps))

    def apply(self, x: Images, seed: int | NDArray[np.int64]) -> Images:
        """Images as the scene shows them.

        An image's jitter depends on its own seed alone, so however a set is cut, the same images come out, to the bit;
        what torch's and numpy's global generators hold is no matter.

        Args:
            x: float32 [n, 1, H, W], values in [0, 1]; left as it is.
            seed: at least 0; int64 [n], a seed an image, or one integer that with an image's place in `x` makes its
                seed.

        Returns:
            float32 [n, 1, H, W], values in [0, 1], never sharing memory with `x`.

        Raises:
            InvalidInputError: another shape, dtype or range, or a negative seed.
        """
        if x.dtype != np.float32 or x.ndim != 4 or x.shape[1] != 1:
            raise InvalidInputError(f"images are {x.dtype} {list(x.shape)}; expected float32 [n, 1, H, W]")
        # Written so that NaN fails too.
        if x.size and not (x.min() >= 0 and x.max() <= 1):
            raise InvalidInputError(f"images span {x.min()}..{x.max()}; allowed 0..1")
        seeds = _seeds(seed, len(x))
        out = x.copy()
        if not out.size:
            return out
        for place, step in enumerate(self.steps):
            keys = draws.keys(place, seeds, "step of a shift")
            for i in range(0, len(out), CHUNK):
                part = slice(i, i + CHUNK)
                images = torch.from_numpy(out[part])
                jitter = torch.from_numpy(_jitter(step.kind, out[part], keys[part]))
                with torch.inference_mode():
                    images[:] = _KINDS[step.kind](images, jitter, step.severity).clamp(0, 1)
        return out


def _seeds(seed: int | NDArray[np.int64], n: int) -> NDArray[np.uint64]:
    """A seed an image, [n]."""
    given = np.asarray(seed)
    if given.dtype.kind not in "iu" or given.shape not in ((), (n,)):
        raise InvalidInputError(f"seed of {given.dtype} {list(given.shape)}; allowed are an integer or integers [{n}]")
    if given.size and given.min() < 0:
        raise InvalidInputError(f"seed {given.min()}; allowed are integers from 0 up")
    return given.astype(np.uint64) if given.ndim else draws.keys(int(given), np.arange(n), "image")


def _jitter(kind: str, x: Images, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    """All randomness of a step: a normal number a pixel for noise, two in [-1, 1) an image for the others."""
    if kind == "noise":
        return draws.normal(keys, x[0].size).reshape(x.shape)
    return 2 * draws.uniform(keys, 2) - 1


def _rotate(x: torch.Tensor, draw: torch.Tensor, severity: int) -> torch.Tensor:
    return rotate(x, 15.0 * severity + 3.0 * draw[:, 0])


def _translate(x: torch.Tensor, draw: torch.Tensor, severity: int) -> torch.Tensor:
    height, width = x.shape[-2:]
    return translate(x, (0.03 * severity + 0.02 * draw) * torch.tensor([width, height], dtype=x.dtype))


def _blur(x: torch.Tensor, draw: torch.Tensor, severity: int) -> torch.Tensor:
    side = min(x.shape[-2:])
    nominal = 0.03 * severity * side
    sigma = nominal * (1 + 0.1 * draw[:, :1].double().numpy())
    # Three standard deviations to each side; reflection at the border allows at most side - 1.
    reach = min(int(np.ceil(3.3 * nominal)), side - 1)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = torch.from_numpy((bell / bell.sum(1, keepdims=True)).astype(np.float32))
    for axis in (2, 3):
        # Added tap by tap: a convolution of torch's rounds otherwise when an image comes in other company.
        wide = pad(x, (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0), mode="reflect")
        x = sum(
            (weights[:, k, None, None, None] * wide.narrow(axis, k, x.shape[axis]) for k in range(2 * reach + 1)),
            torch.zeros_like(x),
        )
    return x


def _contrast(x: torch.Tensor, draw: torch.Tensor, severity: int) -> torch.Tensor:
    return adjust_contrast_with_mean_subtraction(x, 1 - 0.18 * severity + 0.02 * draw[:, 0])


def _noise(x: torch.Tensor, draw: torch.Tensor, severity: int) -> torch.Tensor:
    return x + 0.1 * severity * draw


def _occlude(x: torch.Tensor, draw: torch.Tensor, severity: int) -> torch.Tensor:
    height, width = x.shape[-2:]
    rows = _covered(height, draw[:, 0], severity)[:, None, :, None]
    columns = _covered(width, draw[:, 1], severity)[:, None, None, :]
    return x + rows * columns * (0.5 - x)


def _covered(size: int, draw: torch.Tensor, severity: int) -> torch.Tensor:
    """Share of each pixel of a side that the square covers, [n, size]; fractions let 8 pixels show 5 severities."""
    low = size * (0.5 + 0.05 * draw - 0.06 * severity)[:, None]
    pixel = torch.arange(size)
    return (torch.minimum(pixel + 1, low + 0.12 * severity * size) - torch.maximum(pixel, low)).clamp(0, 1)


_KINDS: dict[str, Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]] = {
    "rotate": _rotate,
    "translate": _translate,
    "blur": _blur,
    "contrast": _contrast,
    "noise": _noise,
    "occlude": _occlude,
}

KINDS = tuple(_KINDS)
"""The kinds of shift, in the order of the table above."""
