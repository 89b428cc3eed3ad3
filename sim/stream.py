"""Streams of beats between host and core: `n` lanes a beat, first in, first out."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

#: Beats [count, n] of any integer dtype that holds a lane.
Beats = npt.NDArray[np.signedinteger[Any]]


class BeatStream:
    """A queue of beats, each [n]."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._chunks: deque[Beats] = deque()
        self.pending = 0  #: beats waiting

    def put(self, beats: npt.NDArray[np.integer[Any]]) -> None:
        """Append beats [count, n]; the caller may change its array afterwards."""
        chunk: npt.NDArray[Any] = np.array(beats, copy=True, order="C")
        if chunk.ndim != 2 or chunk.shape[1] != self.n:
            raise ValueError(f"beats of shape {chunk.shape}: expected [count, {self.n}]")
        if chunk.shape[0]:
            self._chunks.append(chunk)
            self.pending += chunk.shape[0]

    def take(self, count: int) -> Beats:
        """Remove the first `count` beats: [count, n]. The caller has seen that `pending` is enough."""
        parts: list[Beats] = []
        self.pending -= count
        while count:
            chunk = self._chunks.popleft()
            if chunk.shape[0] > count:
                self._chunks.appendleft(chunk[count:])
                chunk = chunk[:count]
            parts.append(chunk)
            count -= chunk.shape[0]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def clear(self) -> None:
        """Drop everything waiting."""
        self._chunks.clear()
        self.pending = 0
