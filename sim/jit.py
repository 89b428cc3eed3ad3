"""numba's compiler, with types that a checker understands and a cache that knows what it was compiled from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba as nb
from numba.core.caching import FunctionCache

import insitu.arch

F = TypeVar("F", bound=Callable[..., Any])


def sources_digest(*folders: Path) -> str:
    """A hash of every Python file in the folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


_SOURCES = sources_digest(Path(insitu.arch.__file__).parent, Path(__file__).parent)


class _Cache(FunctionCache):
    """numba's own cache looks at one file, but a kernel takes in functions of others: this one looks at all of them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        self._cache_file._source_stamp = (self._cache_file._source_stamp, _SOURCES)


def kernel(function: F, parallel: Any = False) -> F:
    """Compile on first call for each set of argument types; kept on disk, so the next process only loads it."""
    dispatcher: Any = nb.njit(function, nogil=True, parallel=parallel)
    dispatcher._cache = _Cache(function)
    return cast(F, dispatcher)


#: What of a kernel is spread over threads: its `prange` loops, and no array expression, for those are small.
_SPREAD: Any = dict.fromkeys(
    ("comprehension", "inplace_binop", "reduction", "setitem", "numpy", "stencil", "fusion"), False
) | {"prange": True}
prange: Any = nb.prange


def parallel_kernel(function: F) -> F:
    """As `kernel`, its `prange` loops spread over numba's threads."""
    return kernel(function, _SPREAD)


def callee(function: F) -> F:
    """A plain function, such as a rule of arch/, made callable from kernels."""
    return cast(F, nb.njit(function, nogil=True))
