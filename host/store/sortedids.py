"""An ascending list of integers that stays quick to change in the middle."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK = 512


class SortedIds:
    """Distinct integers in ascending order, held in chunks of about 512.

    Adding, removing and ranking cost a bisection and a short move; the order depends on nothing but the members, so
    a draw by position is the same after the store is closed and opened again.
    """

    def __init__(self) -> None:
        self._chunks: list[list[int]] = []
        self._last: list[int] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, member: int) -> None:
        """Put `member`, which is not in yet, in its place."""
        self._size += 1
        if not self._last or (member > self._last[-1] and len(self._chunks[-1]) >= _CHUNK):
            self._chunks.append([member])
            self._last.append(member)
            return
        k = min(bisect_left(self._last, member), len(self._last) - 1)
        chunk = self._chunks[k]
        insort(chunk, member)
        self._last[k] = chunk[-1]
        if len(chunk) > 2 * _CHUNK:
            self._chunks[k : k + 1] = [chunk[:_CHUNK], chunk[_CHUNK:]]
            self._last[k : k + 1] = [chunk[_CHUNK - 1], chunk[-1]]

    def remove(self, member: int) -> None:
        """Take `member` out; `KeyError` if it is not in."""
        k = bisect_left(self._last, member)
        chunk = self._chunks[k] if k < len(self._chunks) else []
        place = bisect_left(chunk, member)
        if place == len(chunk) or chunk[place] != member:
            raise KeyError(member)
        del chunk[place]
        self._size -= 1
        if not chunk:
            del self._chunks[k], self._last[k]
            return
        self._last[k] = chunk[-1]
        # Without merging, an old list thinned by evictions would end as one chunk a member.
        if len(chunk) < _CHUNK // 4 and k + 1 < len(self._chunks) and len(self._chunks[k + 1]) < _CHUNK:
            chunk += self._chunks.pop(k + 1)
            self._last[k : k + 2] = [chunk[-1]]

    def rank(self, member: int) -> int:
        """How many members are smaller than `member`."""
        k = bisect_left(self._last, member)
        before = sum(len(chunk) for chunk in self._chunks[:k])
        return before + (bisect_left(self._chunks[k], member) if k < len(self._chunks) else 0)

    def take(self, positions: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """The members at `positions` (each 0..len-1), int64 of the same length."""
        ends = np.cumsum([len(chunk) for chunk in self._chunks])
        which = np.searchsorted(ends, positions, side="right")
        pairs = zip(which.tolist(), np.asarray(positions).tolist(), strict=True)
        return np.array([self._chunks[k][p - int(ends[k])] for k, p in pairs], np.int64)
