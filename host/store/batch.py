"""`FeedbackBatch`: teacher-labelled samples as a handful of parallel numpy arrays."""

from __future__ import annotations

import os
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import FeedbackError

KEY_BYTES = 16
SOURCE_CHARS = 32
NO_LABEL = -1

_LOGIT_DTYPES = (np.dtype(np.int8), np.dtype(np.int16))


def new_keys(n: int) -> NDArray[np.uint8]:
    """`n` fresh keys, uint8 [n, 16]. Keep a batch's keys for its retries: they are what makes one harmless.

    6 bytes of milliseconds, then 80 random bits, as UUID version 7 does: keys made together lie together in the
    database's index, so a commit writes few pages of it.
    """
    keys = np.frombuffer(bytearray(os.urandom(KEY_BYTES * n)), np.uint8).reshape(n, KEY_BYTES)
    keys[:, :6] = np.frombuffer(int(clock.time() * 1000).to_bytes(6, "big"), np.uint8)
    return keys


@dataclass(frozen=True, kw_only=True, eq=False)
class FeedbackBatch:
    """`n` samples, row i of every array belonging to sample i. Made with `FeedbackBatch.of`, which fills defaults.

    ============== ================== ===================================================================
    x              uint8 [n, *shape]  raw sample
    teacher        float32 [n, c]     teacher's distribution, rows sum to 1 (within 1 %)
    student_logits int8|int16 [n, c]  the student's answer as raw integers, value = q * 2**logits_exponent
    logits_exponent int64 [n]         see above; -126..126
    labels         int64 [n]          true class, -1 while none is known
    held_out       bool [n]           kept for the guard, never drawn for training
    source         str [n]            why it was stored (``margin``, ``user``, ...): 1..32 characters
    time           float64 [n]        seconds since 1970-01-01 UTC
    keys           uint8 [n, 16]      the client's key, which makes a repeated `append` harmless
    ids            int64 [n]          place in the store, -1 before it has one
    ============== ================== ===================================================================

    Raises `FeedbackError` on any other shape, dtype or range.
    """

    x: NDArray[np.uint8]
    teacher: NDArray[np.float32]
    student_logits: NDArray[Any]
    logits_exponent: NDArray[np.int64]
    labels: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    source: NDArray[np.str_]
    time: NDArray[np.float64]
    keys: NDArray[np.uint8]
    ids: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        x: ArrayLike,
        teacher: ArrayLike,
        student_logits: ArrayLike,
        *,
        labels: ArrayLike | None = None,
        source: str | Sequence[str] | NDArray[np.str_] = "user",
        time: ArrayLike | None = None,
        keys: NDArray[np.uint8] | None = None,
        held_out: ArrayLike = False,
        logits_exponent: ArrayLike = 0,
    ) -> Self:
        """A batch from its three main arrays; scalars spread over it, `time` defaults to now, `keys` to fresh ones.

        `x` and `student_logits` keep their dtype (uint8; int8 or int16): a silent cast would hide a scaling mistake.
        """
        x = np.asarray(x)
        n = x.shape[0] if x.ndim else 0
        return cls(
            x=x,
            teacher=np.asarray(teacher, np.float32),
            student_logits=np.asarray(student_logits),
            logits_exponent=_spread("logits_exponent", logits_exponent, np.int64, n),
            labels=_spread("labels", NO_LABEL if labels is None else labels, np.int64, n),
            held_out=_spread("held_out", held_out, np.bool_, n),
            source=_spread("source", source, np.str_, n),
            time=_spread("time", clock.time() if time is None else time, np.float64, n),
            keys=new_keys(n) if keys is None else keys,
            ids=np.full(n, -1, np.int64),
        )

    def __post_init__(self) -> None:
        if self.x.dtype != np.uint8 or self.x.ndim < 2:
            raise FeedbackError(f"x is {_shown(self.x)}; allowed: uint8 [n, *shape]")
        n = self.x.shape[0]
        if self.teacher.ndim != 2 or self.teacher.shape[0] != n or self.teacher.shape[1] < 2:
            raise FeedbackError(f"teacher is {_shown(self.teacher)}; allowed: float32 [{n}, classes], classes >= 2")
        if self.student_logits.dtype not in _LOGIT_DTYPES or self.student_logits.shape != self.teacher.shape:
            allowed = f"int8 or int16 {list(self.teacher.shape)}"
            raise FeedbackError(f"student_logits is {_shown(self.student_logits)}; allowed: {allowed}")
        if self.keys.dtype != np.uint8 or self.keys.shape != (n, KEY_BYTES):
            raise FeedbackError(f"keys is {_shown(self.keys)}; allowed: uint8 [{n}, {KEY_BYTES}]")
        for name in ("logits_exponent", "labels", "held_out", "source", "time", "ids"):
            if getattr(self, name).shape != (n,):
                raise FeedbackError(f"{name} is {_shown(getattr(self, name))}; allowed: one value a sample, [{n}]")
        self._check_values()

    def _check_values(self) -> None:
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(self.teacher.sum(axis=1, dtype=np.float64) - 1) <= 0.01) | (self.teacher < 0).any(axis=1)
        if wrong.any():
            row = int(wrong.argmax())
            total, least = float(self.teacher[row].sum()), float(self.teacher[row].min())
            raise FeedbackError(
                f"teacher row {row} sums to {total:.4g} with least entry {least:.4g}; "
                "allowed: probabilities >= 0 that sum to 1 within 0.01"
            )
        _check_range("labels", self.labels, NO_LABEL, self.classes - 1)
        _check_range("logits_exponent", self.logits_exponent, -126, 126)
        if not np.isfinite(self.time).all():
            raise FeedbackError("time holds a value that is not finite; allowed: seconds since 1970-01-01 UTC")
        lengths = np.char.str_len(self.source)
        if ((lengths < 1) | (lengths > SOURCE_CHARS)).any():
            bad = str(self.source[((lengths < 1) | (lengths > SOURCE_CHARS)).argmax()])
            raise FeedbackError(f"source {bad[:80]!r} has {len(bad)} characters; allowed: 1..{SOURCE_CHARS}")

    def __len__(self) -> int:
        return int(self.x.shape[0])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.teacher.shape[1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(int(side) for side in self.x.shape[1:])

    @property
    def target_class(self) -> NDArray[np.int64]:
        """int64 [n]: the true label where there is one, else the teacher's most likely class."""
        return np.where(self.labels >= 0, self.labels, self.teacher.argmax(axis=1))

    @property
    def margin(self) -> NDArray[np.float64]:
        """float64 [n]: the student's largest logit less its second largest, as a real number; large is sure."""
        top = np.partition(self.student_logits.astype(np.int64), -2, axis=1)
        return np.asarray(np.ldexp((top[:, -1] - top[:, -2]).astype(np.float64), self.logits_exponent))

    def select(self, rows: ArrayLike) -> FeedbackBatch:
        """The samples at `rows` (indices, repeats allowed, or a bool mask [n]), in that order."""
        picked = np.asarray(rows)
        if picked.dtype != np.bool_:
            picked = picked.astype(np.int64)
        return FeedbackBatch(**{field.name: getattr(self, field.name)[picked] for field in fields(self)})

    @staticmethod
    def concat(parts: Sequence[FeedbackBatch]) -> FeedbackBatch:
        """The samples of all `parts` in order; int8 and int16 logits together become int16."""
        if not parts:
            raise FeedbackError("0 batches to join; allowed: 1 or more")
        kinds = {(part.shape, part.classes) for part in parts}
        if len(kinds) > 1:
            raise FeedbackError(f"batches of (shape, classes) {sorted(kinds)} cannot be joined; allowed: all alike")
        names = [field.name for field in fields(FeedbackBatch)]
        return FeedbackBatch(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def integers(name: str, value: ArrayLike) -> NDArray[np.int64]:
    """Integers as int64. Raises `FeedbackError` for numbers of another kind: a silent cast would hide a mistake."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu" and array.size:
        raise FeedbackError(f"{name} is {_shown(array)}; allowed: integers")
    return array.astype(np.int64)


def _spread(name: str, value: Any, dtype: type[np.generic], n: int) -> NDArray[Any]:
    array = integers(name, value) if dtype is np.int64 else np.asarray(value)
    if array.ndim == 0:
        return np.full(n, array, dtype=np.dtype(f"U{max(1, len(str(array)))}") if dtype is np.str_ else dtype)
    return array.astype(dtype)


def _check_range(name: str, values: NDArray[np.int64], low: int, high: int) -> None:
    wrong = (values < low) | (values > high)
    if wrong.any():
        raise FeedbackError(f"{name} holds {int(values[wrong.argmax()])}; allowed: {low}..{high}")


def _shown(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"
