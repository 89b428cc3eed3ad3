"""How a sample's arrays become the bytes of a row, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .batch import FeedbackBatch
from .errors import FeedbackError

TeacherEncoding = Literal["float16", "uint8"]
LogitsEncoding = Literal["int8", "int16"]


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Layout of one sample's payload; the same for every sample of a store, all numbers little-endian.

    - data: `prod(shape)` bytes, C order.
    - teacher, ``float16``: 2 bytes a class, each probability to 11 bits.
      ``uint8``: 1 byte a class, q = round(255 p / max p); read back as q / sum(q).
    - logits: ``int8`` or ``int16``.
    """

    shape: tuple[int, ...]
    classes: int
    teacher: TeacherEncoding = "float16"
    logits: LogitsEncoding = "int8"

    def __post_init__(self) -> None:
        if not self.shape or any(side < 1 for side in self.shape):
            raise FeedbackError(f"shape is {self.shape}; allowed: one or more sides, each >= 1")
        if self.classes < 2:
            raise FeedbackError(f"classes is {self.classes}; allowed: >= 2")
        if self.teacher not in get_args(TeacherEncoding):
            raise FeedbackError(f"teacher_encoding is {self.teacher!r}; allowed: {get_args(TeacherEncoding)}")
        if self.logits not in get_args(LogitsEncoding):
            raise FeedbackError(f"logits_encoding is {self.logits!r}; allowed: {get_args(LogitsEncoding)}")

    @property
    def data_bytes(self) -> int:
        """Bytes of one sample's raw data."""
        return math.prod(self.shape)

    @property
    def sample_bytes(self) -> int:
        """Payload bytes of one sample (data, teacher, logits): what the byte budget counts."""
        return self.data_bytes + self.classes * (self._teacher_dtype.itemsize + self._logits_dtype.itemsize)

    @property
    def _teacher_dtype(self) -> np.dtype[Any]:
        return np.dtype("<f2" if self.teacher == "float16" else np.uint8)

    @property
    def _logits_dtype(self) -> np.dtype[Any]:
        return np.dtype("<i2" if self.logits == "int16" else np.int8)

    def check(self, batch: FeedbackBatch) -> None:
        """Raise `FeedbackError` if `batch` does not fit this layout."""
        if batch.shape != self.shape or batch.classes != self.classes:
            raise FeedbackError(
                f"batch of shape {batch.shape} and {batch.classes} classes; "
                f"allowed in this store: shape {self.shape} and {self.classes} classes"
            )
        if batch.student_logits.dtype.itemsize > self._logits_dtype.itemsize:
            raise FeedbackError(f"student_logits of {batch.student_logits.dtype}; allowed in this store: {self.logits}")

    def pack_data(self, x: NDArray[np.uint8]) -> list[bytes]:
        """uint8 [n, *shape] as n byte strings."""
        return _rows(x.reshape(len(x), self.data_bytes))

    def pack_teacher(self, teacher: NDArray[np.float32]) -> list[bytes]:
        """float32 [n, classes] as n byte strings."""
        if self.teacher == "float16":
            return _rows(teacher.astype(self._teacher_dtype))
        peak = teacher.max(axis=1, keepdims=True, initial=0)
        return _rows(np.rint(255 * (teacher / peak)).astype(np.uint8))

    def pack_logits(self, logits: NDArray[Any]) -> list[bytes]:
        """int8 or int16 [n, classes] as n byte strings."""
        return _rows(logits.astype(self._logits_dtype))

    def unpack_data(self, rows: Sequence[bytes]) -> NDArray[np.uint8]:
        """n byte strings as uint8 [n, *shape]."""
        return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), *self.shape)

    def unpack_teacher(self, rows: Sequence[bytes]) -> NDArray[np.float32]:
        """n byte strings as float32 [n, classes]."""
        raw = np.frombuffer(b"".join(rows), self._teacher_dtype).reshape(len(rows), self.classes)
        values = raw.astype(np.float32)
        return values if self.teacher == "float16" else values / values.sum(axis=1, keepdims=True)

    def unpack_logits(self, rows: Sequence[bytes]) -> NDArray[Any]:
        """n byte strings as int8 or int16 [n, classes]."""
        raw = np.frombuffer(b"".join(rows), self._logits_dtype).reshape(len(rows), self.classes)
        return raw.astype(np.dtype(self.logits))


def _rows(array: NDArray[Any]) -> list[bytes]:
    raw, step = np.ascontiguousarray(array).tobytes(), array.itemsize * array.shape[1]
    return [raw[k * step : (k + 1) * step] for k in range(len(array))]
