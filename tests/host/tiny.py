"""The smallest student that still has everything: two layers, biases, sizes that are no multiple of the array's."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from insitu.arch.declaration import Declaration
from insitu.arch.params import CoreParams
from insitu.host.compiler.compile import Compiled, compile_module
from insitu.models.students import mlp

CORE = CoreParams(n=4, act_depth=64, err_depth=32, wgt_depth=64, program_depth=64)
SHAPE, HIDDEN, CLASSES, BATCH = (1, 2, 5), 6, 3, 4

Real = npt.NDArray[np.float32]


def samples(n: int, seed: int = 0) -> tuple[Real, Real]:
    """Samples [n, *SHAPE] in [0, 1] and target distributions [n, CLASSES]: one-hot, the brightest of three pixels."""
    x = np.random.default_rng(seed).random((n, *SHAPE), dtype=np.float32)
    return x, np.eye(CLASSES, dtype=np.float32)[x.reshape(n, -1)[:, :CLASSES].argmax(axis=1)]


@cache
def compiled(formats: str = "w8a8e8g8", *, hidden: int = HIDDEN, learning_rate: float = 0.5) -> Compiled:
    """The student in a program for CORE."""
    x, targets = samples(64, seed=1)
    return compile_module(
        mlp([x[0].size, hidden, CLASSES], seed=3),
        core=CORE,
        declaration=Declaration.parse(formats),
        batch=BATCH,
        calibration=x,
        targets=targets,
        learning_rate=learning_rate,
    )
