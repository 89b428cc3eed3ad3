"""The rows of a large pass shared among threads: each takes some of D's rows, to the same bits as one that takes all.

The threads are numba's (its OpenMP or TBB layer): NUMBA_NUM_THREADS or `numba.set_num_threads` says how many. They wait
spinning, so that a pass of 50 microseconds is worth sharing; more of them than cores make every pass slow.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache

import numba as nb
import numpy as np
import numpy.typing as npt

from insitu.sim import lanes
from insitu.sim.drains import Shared

#: Multiply-accumulates that a thread is worth waking for.
GRAIN = 1 << 19
#: Rows are shared in multiples of this: the smallest tile of a product with more than one.
ROWS = 4
#: The layers that may be called from several Python threads at once.
_LAYERS = ("numba.np.ufunc.omppool", "numba.np.ufunc.tbbpool")


@cache
def _shareable() -> bool:
    """Whether numba has a layer that is safe to call from several Python threads."""
    for name in _LAYERS:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        return True
    return False


def available() -> int:
    """Threads a pass may have, as numba is set; 1 where none of its layers is safe."""
    return int(nb.get_num_threads()) if _shareable() else 1


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How the rows of a pass are shared.

    first: int64 [shares + 1], the first row of each, then the number of all. ahead: uint32 [shares, 32], the
    `lanes.jump` to each first row.
    """

    first: npt.NDArray[np.int64]
    ahead: lanes.States

    @classmethod
    def of(cls, rows: int, macs: int, threads: int) -> Shares:
        """At most one share a thread, and none too small to be worth one."""
        count = max(1, min(threads, macs // GRAIN, rows // ROWS))
        first = [rows * s // count // ROWS * ROWS for s in range(count)]
        return cls(first=np.array([*first, rows], np.int64), ahead=np.stack([lanes.jump(f) for f in first]))

    @property
    def count(self) -> int:
        return len(self.ahead)

    @property
    def bounds(self) -> Shared:
        """As compiled loops take them."""
        return self.first, self.ahead
