"""Tiny IDX files and image sets for the tests of this folder, handed out as fixtures."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from insitu.models.datasets import FILES, Dataset

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def _idx_bytes(array: NDArray[Any]) -> bytes:
    """An array as an IDX file's content, written from the format's description and not with the reader's code."""
    head = struct.pack(">BBBB", 0, 0, CODES[array.dtype.str[1:]], array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def _idx_arrays(train: int = 12, test: int = 5, side: int = 6, classes: int = 3) -> list[NDArray[np.uint8]]:
    """The four arrays of a small data set, in the order of `FILES`."""
    rng = np.random.default_rng(7)
    return [
        part
        for n in (train, test)
        for part in (
            rng.integers(0, 256, (n, side, side), np.uint8),
            np.arange(n, dtype=np.uint8) % classes,
        )
    ]


def _write_folder(folder: Path, packed: bool = True, arrays: list[NDArray[np.uint8]] | None = None) -> None:
    """Write the four files of a data set."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in zip(FILES, arrays or _idx_arrays(), strict=True):
        content = _idx_bytes(array)
        (folder / (f"{stem}.gz" if packed else stem)).write_bytes(gzip.compress(content) if packed else content)


def _blobs(n: int = 200, classes: int = 3, side: int = 8) -> Dataset:
    """A set that is easy to learn: each class lights another row, on weak noise."""
    rng = np.random.default_rng(3)

    def part(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        y = np.arange(count) % classes
        x = rng.uniform(0, 0.3, (count, 1, side, side))
        x[np.arange(count), 0, 1 + 2 * y] = 0.9
        return x.astype(np.float32), y.astype(np.int64)

    (x_train, y_train), (x_test, y_test) = part(n), part(n // 2)
    return Dataset(name="blobs", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, classes=classes)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small networks only lose time to more threads, and several workers share the cores."""
    torch.set_num_threads(1)


@pytest.fixture
def idx_bytes() -> Callable[[NDArray[Any]], bytes]:
    return _idx_bytes


@pytest.fixture
def idx_arrays() -> Callable[..., list[NDArray[np.uint8]]]:
    return _idx_arrays


@pytest.fixture
def write_folder() -> Callable[..., None]:
    return _write_folder


@pytest.fixture(scope="session")
def blobs() -> Dataset:
    return _blobs()
