"""Teachers: larger networks that know the scene, trained at the vendor's, where labels are known."""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from insitu.arch.files import write_whole
from insitu.models.datasets import Dataset
from insitu.models.errors import FormatError, InvalidInputError, MissingDataError, one_line
from insitu.models.shifts import SEVERITIES, Shift
from insitu.models.training import logits, train

SHIFTED_IMAGES = 12_000
"""Most training images seen under one severity; keeps a large set's training within minutes."""

IMAGES_SEEN = 150_000
"""Aimed at over all epochs where their number is not given."""


class Teacher(nn.Module):
    """Three 3 x 3 convolutions, pooling after the first two, then two linear layers; float32 [b, 1, H, W] to logits.

    Args:
        in_shape: (1, H, W), H and W at least 4.
        classes: number of logits.
        width: channels of the first convolution; the others have two and four times as many.

    Raises:
        InvalidInputError: images smaller than 4 x 4.
    """

    def __init__(self, in_shape: tuple[int, int, int], classes: int, width: int = 16) -> None:
        super().__init__()
        channels, height, side = in_shape
        if min(height, side) < 4:
            raise InvalidInputError(f"teacher of {height} x {side} images; allowed from 4 x 4 up")
        self.in_shape, self.classes, self.width = in_shape, classes, width
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * width * (height // 4) * (side // 4), 128),
            nn.ReLU(),
            nn.Linear(128, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def train_teacher(dataset: Dataset, *shifts: Shift, seed: int, epochs: int | None = None) -> Teacher:
    """Train a teacher on clean images and, with scenes given, on images under each at every severity.

    Args:
        dataset: its training part is used alone.
        shifts: the scenes; of each all its kinds at severities 1 to 5 together, and the scene as it is.
        seed: of the initial weights, the jitter and the order of images.
        epochs: passes over clean and shifted images; by default as many as show about 150,000 images.
    """
    x, y = _lesson(dataset, shifts, seed)
    if epochs is None:
        epochs = max(2, round(IMAGES_SEEN / len(x)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        teacher = Teacher(dataset.in_shape, dataset.classes)
    train(teacher, x, y, epochs=epochs, batch=64, lr=2e-3, seed=seed, schedule="cosine", optimizer="adam")
    return teacher.eval()


def _lesson(dataset: Dataset, shifts: tuple[Shift, ...], seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Clean images, then a part of them again in each variant of each scene."""
    x, y = dataset.x_train, dataset.y_train
    shifted = [shift for shift in shifts if shift.steps]
    variants = dict.fromkeys(v for s in shifted for v in [*(s.at(severity) for severity in SEVERITIES), s])
    rng = np.random.default_rng(seed)
    xs, ys = [x], [y]
    for number, variant in enumerate(variants):
        pick = rng.permutation(len(x))[:SHIFTED_IMAGES]
        # Seeds beside the caller's own, so that a student tested with `seed` never meets the teacher's jitter.
        xs.append(variant.apply(x[pick], seed=1_000_003 * (seed + 1) + number))
        ys.append(y[pick])
    return np.concatenate(xs), np.concatenate(ys)


def soft_labels(teacher: nn.Module, x: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """softmax(logits / temperature), float32 [n, classes]; rows sum to 1 (Hinton et al. 2015, section 2).

    Raises:
        InvalidInputError: a temperature that is not a positive number.
    """
    if not 0 < temperature < float("inf"):
        raise InvalidInputError(f"temperature {temperature}; allowed are numbers above 0")
    return torch.softmax(torch.from_numpy(logits(teacher, x)) / temperature, dim=1).numpy()


_FORM = "form"


def save_teacher(path: str | Path, teacher: Teacher) -> None:
    """Write a teacher to one .npz, whole or not at all: an old file stays until the new one is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: value.numpy() for name, value in teacher.state_dict().items()}
    arrays[_FORM] = np.array([*teacher.in_shape, teacher.classes, teacher.width], dtype=np.int64)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getvalue())


def load_teacher(path: str | Path) -> Teacher:
    """Read what `save_teacher` wrote. Nothing is unpickled: a hostile file cannot run code.

    Raises:
        MissingDataError: no such file.
        FormatError: a file that is damaged or no teacher's.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(f"no teacher at {path}; save_teacher writes one")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        channels, height, width, classes, breadth = (int(v) for v in arrays.pop(_FORM))
        teacher = Teacher((channels, height, width), classes, breadth)
        teacher.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    except (RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise FormatError(f"{path} is not a teacher that save_teacher wrote ({one_line(error)})") from error
    return teacher.eval()
