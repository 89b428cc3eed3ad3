"""IDX files, the format MNIST and its successors come in, gzipped or plain.

Layout (Y. LeCun, the MNIST page): two zero bytes, one byte of element type, one byte with the number of dimensions,
one big-endian uint32 a dimension, then the elements, big-endian, last dimension fastest.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from insitu.models.errors import FormatError, MissingDataError

DTYPES: dict[int, str] = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Element types by the third byte of the magic number."""

GZIP_MAGIC = b"\x1f\x8b"


def open_content(path: Path) -> IO[bytes]:
    """Open a file for reading its uncompressed bytes.

    The first two bytes decide, not the name: a browser that unpacks on the fly keeps the `.gz`.

    Raises:
        MissingDataError: no such file.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP_MAGIC
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise MissingDataError(f"no IDX file at {path}; give the path of a plain or gzipped IDX file") from error
    return cast(IO[bytes], gzip.open(path, "rb")) if packed else path.open("rb")


def header(path: str | Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The element type (big-endian) and the dimensions, without reading the elements.

    Raises:
        MissingDataError: no such file.
        FormatError: the file does not begin like an IDX file.
    """
    path = Path(path)
    try:
        with open_content(path) as stream:
            return _read_header(stream, path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FormatError(f"{path}: gzip data is truncated or damaged ({error})") from error


def read(path: str | Path) -> NDArray[Any]:
    """Read a whole IDX file into an array of the file's shape, in the machine's own byte order.

    Raises:
        MissingDataError: no such file.
        FormatError: wrong magic number, damaged gzip stream, or fewer or more bytes than the dimensions ask for.
    """
    path = Path(path)
    try:
        with open_content(path) as stream:
            dtype, shape = _read_header(stream, path)
            payload = stream.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FormatError(f"{path}: gzip data is truncated or damaged ({error})") from error
    expected = math.prod(shape) * dtype.itemsize
    if len(payload) != expected:
        kind = "truncated" if len(payload) < expected else "too long"
        dims = " x ".join(map(str, shape))
        raise FormatError(f"{path}: {kind}, {len(payload)} bytes of elements where {dims} {dtype.name} take {expected}")
    return np.frombuffer(payload, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read_header(stream: IO[bytes], path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES or magic[3] == 0:
        known = ", ".join(f"{code:02x}" for code in DTYPES)
        raise FormatError(
            f"{path}: magic {magic.hex(' ') or 'nothing'} is not IDX; expected 00 00, one of {known}, dimensions >= 1"
        )
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise FormatError(f"{path}: truncated inside the header, {len(sizes)} of {4 * magic[3]} bytes of dimensions")
    return np.dtype(DTYPES[magic[2]]), tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
