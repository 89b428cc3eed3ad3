"""Download the data sets that are published as IDX files, whole or not at all."""

import gzip
import hashlib
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from insitu.models.datasets import FILES, find_file, folder_of
from insitu.models.errors import FetchError, InvalidInputError, one_line
from insitu.models.idx import open_content

Progress = Callable[[str, int, int], None]
"""Called with (file name, bytes so far, bytes in all or 0 where the server does not say)."""

TIMEOUT_SECONDS = 30
"""Longest silence of the server that is waited for."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a data set is published and what its files must hold.

    Attributes:
        url: the folder the four `<stem>.gz` files lie in, ending in a slash.
        sha256: of each file's **uncompressed** content, by stem. Mirrors and distributions pack the same bytes with
            different gzip settings; the content is what training sees.
    """

    url: str
    sha256: Mapping[str, str]


SOURCES: dict[str, Source] = {
    "mnist": Source(
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        sha256={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion-mnist": Source(
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        sha256={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    ),
}
"""The data sets known by hash."""


def fetch(
    name: str, root: str | Path | None = None, *, base_url: str | None = None, progress: Progress | None = None
) -> Path:
    """Download what is missing of a data set and return its folder, where `datasets.load` finds it.

    A file whose content is right is kept, packed or not; a wrong one is replaced, and only once its replacement is
    there and checked. Each file appears under its name in one step.

    Args:
        name: a key of `SOURCES`.
        root: the data folder; as for `datasets.data_root`.
        base_url: a mirror's folder instead of the published one.
        progress: called while bytes arrive.

    Raises:
        InvalidInputError: no such name in `SOURCES`.
        FetchError: the server cannot be reached, refuses, or sends other content than the known.
    """
    if name not in SOURCES:
        raise InvalidInputError(f"cannot fetch {name!r}; allowed are {', '.join(SOURCES)} ('digits' is built in)")
    source = SOURCES[name]
    folder = folder_of(name, root)
    url = (base_url or source.url).rstrip("/") + "/"
    existed = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stem in FILES:
            present = find_file(folder, stem)
            if present is None or _content_sha256(present) != source.sha256[stem]:
                _download(url, stem, folder, source.sha256[stem], progress)
                if present is not None and present.suffix != ".gz":
                    # A wrong plain file would shadow the right packed one.
                    present.unlink()
    except OSError as error:
        raise FetchError(f"cannot write {name!r} to {folder}: {one_line(error)}") from error
    finally:
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return folder


def _download(url: str, stem: str, folder: Path, expected: str, progress: Progress | None) -> None:
    """Bring one file beside its place, check it, move it there."""
    source = f"{url}{stem}.gz"
    meter = _Meter(f"{stem}.gz", progress) if progress else False
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        packed = Path(scratch) / "file"
        try:
            pooch.HTTPDownloader(progressbar=meter, chunk_size=1 << 16, timeout=TIMEOUT_SECONDS)(
                source, str(packed), None
            )
        except requests.RequestException as error:
            raise FetchError(f"cannot download {source}: {one_line(error)}") from error
        actual = _content_sha256(packed)
        if actual != expected:
            raise FetchError(
                f"{source}: content has sha256 {actual or '(not a whole gzip file)'}, expected {expected}; nothing kept"
            )
        packed.replace(folder / f"{stem}.gz")


def _content_sha256(path: Path) -> str | None:
    """The hash of the uncompressed content; None where it cannot be unpacked."""
    try:
        with open_content(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return None


class _Meter:
    """What pooch expects of a progress bar, turned into calls of ours."""

    def __init__(self, name: str, report: Progress) -> None:
        self.name, self.report = name, report
        self.total = self.done = 0

    def update(self, count: int) -> None:
        # pooch counts whole chunks, so the last one would overshoot.
        self.done = min(self.done + count, self.total) if self.total else self.done + count
        self.report(self.name, self.done, self.total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass
