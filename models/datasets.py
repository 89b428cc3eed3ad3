"""Data sets by name: one built in, the others from folders of four IDX files."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import platformdirs
from numpy.typing import NDArray

from insitu.models import idx
from insitu.models.errors import FormatError, InvalidInputError, MissingDataError, ModelsError

ENVIRONMENT = "INSITU_DATA"
"""The environment variable that names the data folder."""

FETCHABLE = ("mnist", "fashion-mnist")
"""Names that `insitu.models.fetch` can download."""

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
"""The four files of a data set's folder, each plain or with `.gz`."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images and labels, split into train and test.

    Attributes:
        name: what it was loaded as.
        x_train, x_test: float32 [n, 1, H, W], values in [0, 1].
        y_train, y_test: int64 [n], values in [0, classes).
        classes: number of classes, at least 2.

    Raises:
        InvalidInputError: an array of another shape or dtype, or a label outside the classes.
    """

    name: str
    x_train: NDArray[np.float32] = field(repr=False)
    y_train: NDArray[np.int64] = field(repr=False)
    x_test: NDArray[np.float32] = field(repr=False)
    y_test: NDArray[np.int64] = field(repr=False)
    classes: int

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise InvalidInputError(f"{self.name}: {self.classes} classes; a data set has at least 2")
        for part, x, y in (("train", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            if x.dtype != np.float32 or x.ndim != 4 or x.shape[1] != 1 or x.shape[1:] != self.x_train.shape[1:]:
                raise InvalidInputError(
                    f"{self.name}: x_{part} is {x.dtype} {list(x.shape)}; expected float32 [n, 1, H, W], "
                    "H and W alike in train and test"
                )
            if y.dtype != np.int64 or y.shape != x.shape[:1] or len(y) == 0:
                raise InvalidInputError(
                    f"{self.name}: y_{part} is {y.dtype} {list(y.shape)}; expected int64 [{len(x)}], at least one"
                )
            if y.min() < 0 or y.max() >= self.classes:
                raise InvalidInputError(
                    f"{self.name}: y_{part} spans {y.min()}..{y.max()}; allowed 0..{self.classes - 1}"
                )

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """The shape of one image, (1, H, W)."""
        _, channels, height, width = self.x_train.shape
        return channels, height, width


class Entry(NamedTuple):
    """One line of `available`: `where` is None when the data is not there, `problem` says what is wrong with it."""

    name: str
    where: str | None
    shape: tuple[int, int, int] | None
    counts: tuple[int, int] | None
    problem: str = ""


def data_root(root: str | Path | None = None) -> Path:
    """The data folder: the argument, else the environment's INSITU_DATA, else the user's data folder for `insitu`."""
    chosen = root if root is not None else os.environ.get(ENVIRONMENT) or platformdirs.user_data_dir("insitu")
    return Path(chosen).expanduser()


def folder_of(name: str, root: str | Path | None = None) -> Path:
    """Where the four files of `name` belong: `<root>/<name>`, or `<root>` itself when that is its own name.

    Raises:
        InvalidInputError: the name could not be a plain folder name.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInputError(f"data set name {name!r}; allowed are letters, digits, '.', '_' and '-'")
    base = data_root(root)
    nested = base / name
    return base if base.name == name and not nested.is_dir() else nested


def find_file(folder: Path, stem: str) -> Path | None:
    """The plain or gzipped file of that stem in `folder`, the plain one first, or None."""
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def load(name: str, root: str | Path | None = None) -> Dataset:
    """Load a data set.

    `digits` is scikit-learn's (8 x 8, 16 grey levels, 1,797 images), split 80/20 within each class, the same split
    every time. Any other name is a folder of four IDX files (see `folder_of`), bytes divided by 255.

    Raises:
        InvalidInputError: a name that is no folder name.
        MissingDataError: a file is not there; says where it was looked for and how to get it.
        FormatError: a file is damaged, or images and labels do not belong together.
    """
    if name == "digits":
        return _load_digits()
    folder = folder_of(name, root)
    paths = _paths(name, folder)
    x_train, y_train = _images(paths[0]), _labels(paths[1])
    x_test, y_test = _images(paths[2]), _labels(paths[3])
    for images, labels, where in ((x_train, y_train, paths[1]), (x_test, y_test, paths[3])):
        if len(images) != len(labels) or len(labels) == 0:
            raise FormatError(f"{where}: {len(labels)} labels for {len(images)} images; expected one each")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise FormatError(
            f"{paths[2]}: images of {x_test.shape[2]} x {x_test.shape[3]}; "
            f"those in {paths[0].name} are {x_train.shape[2]} x {x_train.shape[3]}"
        )
    classes = max(2, int(max(y_train.max(), y_test.max())) + 1)
    return Dataset(name=name, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, classes=classes)


def available(root: str | Path | None = None) -> list[Entry]:
    """What `load` could load: `digits`, the fetchable names whether there or not, then other folders that have data.

    Only headers are read. `shape` is (1, H, W) and `counts` (train, test); both None where there is nothing to read.
    """
    digits = _load_digits()
    entries = [Entry("digits", "scikit-learn", digits.in_shape, (len(digits.y_train), len(digits.y_test)))]
    base = data_root(root)
    names = list(FETCHABLE)
    if base.is_dir():
        folders = sorted(path for path in base.iterdir() if path.is_dir() and find_file(path, FILES[0]))
        names += [path.name for path in folders if path.name not in {*FETCHABLE, "digits"}]
        if find_file(base, FILES[0]) and base.name not in names:
            names.append(base.name)
    return entries + [_entry(name, root) for name in names if _NAME.fullmatch(name)]


def _entry(name: str, root: str | Path | None) -> Entry:
    folder = folder_of(name, root)
    if not any(find_file(folder, stem) for stem in FILES):
        return Entry(name, None, None, None)
    try:
        train, _, test, _ = (idx.header(path)[1] for path in _paths(name, folder))
        if len(train) != 3 or len(test) != 3:
            raise FormatError(f"{folder}: images of {len(train)} and {len(test)} dimensions; expected 3")
    except ModelsError as error:
        return Entry(name, str(folder), None, None, str(error))
    return Entry(name, str(folder), (1, train[1], train[2]), (train[0], test[0]))


def _paths(name: str, folder: Path) -> list[Path]:
    found = [find_file(folder, stem) for stem in FILES]
    missing = [stem for stem, path in zip(FILES, found, strict=True) if path is None]
    if missing:
        what = "no data" if len(missing) == len(FILES) else f"{', '.join(missing)} missing"
        remedy = f"run `insitu data fetch {name}` or " if name in FETCHABLE else ""
        raise MissingDataError(
            f"data set {name!r}: {what} in {folder}; {remedy}set {ENVIRONMENT} to a folder that holds "
            f"{name}/{FILES[0]}[.gz] and its three companions (always there: 'digits')"
        )
    return [path for path in found if path is not None]


def _images(path: Path) -> NDArray[np.float32]:
    raw = _bytes(path, 3)
    scaled: NDArray[np.float32] = raw[:, None].astype(np.float32)
    scaled /= np.float32(255)
    return scaled


def _labels(path: Path) -> NDArray[np.int64]:
    return _bytes(path, 1).astype(np.int64)


def _bytes(path: Path, dimensions: int) -> NDArray[Any]:
    raw = idx.read(path)
    if raw.dtype != np.uint8 or raw.ndim != dimensions:
        raise FormatError(f"{path}: {raw.dtype} of {raw.ndim} dimensions; expected uint8 of {dimensions}")
    return raw


def _load_digits() -> Dataset:
    # Imported here: scikit-learn takes a second to import and only this data set needs it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    x = (bunch.images[:, None] / 16).astype(np.float32)
    y = bunch.target.astype(np.int64)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, stratify=y, random_state=0)
    return Dataset(name="digits", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, classes=10)
