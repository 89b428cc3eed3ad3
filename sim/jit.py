"""numba's compiler, with types that a checker understands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba as nb

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile on first call for each set of argument types; kept on disk, so the next process only loads it."""
    return cast(F, nb.njit(function, nogil=True, cache=True))


def callee(function: F) -> F:
    """A plain function, such as a rule of arch/, made callable from kernels."""
    return cast(F, nb.njit(function, nogil=True))
