"""Tables of activations and of their slopes, made for the exponents that a program starts from, and their places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from insitu.arch.isa import TABLE_BITS
from insitu.arch.layout import Matrix, Memory
from insitu.arch.numbers import FixedFormat
from insitu.arch.params import CoreParams
from insitu.host.compiler.graph import Table
from insitu.host.errors import CompileError

Words = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A table in TAB. name: of the tensor that holds it. drop: bits of an element below those that choose a word."""

    name: str
    words: Words
    base: int
    drop: int

    @property
    def fields(self) -> Mapping[str, int]:
        """As an instruction names it."""
        bits = len(self.words).bit_length() - 1
        return {"table_base": self.base, "table_bits": bits, "table_drop": self.drop}

    def matrix(self, n: int) -> Matrix:
        """What LOAD writes: N equal columns, so that each bank has all of it."""
        return Matrix(memory=Memory.TAB, base=self.base, rows=len(self.words), cols=n, pitch=1)


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """What a node looks up: formats of what it reads, gives, and of its slopes."""

    node: Table
    x: FixedFormat
    y: FixedFormat
    slope: FixedFormat


def slope_format(node: Table, x: FixedFormat, width: int) -> FixedFormat:
    """The finest format that holds a function's slopes wherever x reaches."""
    return FixedFormat.covering(float(np.abs(_slopes(node, _inputs(x, _most(x)))).max()), width=width)


def placed(lookups: list[Lookup], core: CoreParams) -> dict[tuple[str, str], Placed]:
    """Tables by (node, "table" or "slope"), as finely as they fit. Those with the same words are one. Raises
    CompileError where the coarsest do not fit."""
    finest = max((_most(lookup.x) for lookup in lookups), default=0)
    for bits in range(finest, TABLE_BITS[0] - 1, -1):
        found = _placed(lookups, bits)
        words = max((t.base + len(t.words) for t in found.values()), default=0)
        if words <= core.tab_depth:
            return found
    if not lookups:
        return {}
    raise CompileError(
        f"{len(lookups)} activations are looked up: their coarsest tables take {words} words, "
        f"TAB holds {core.tab_depth}: give it tab_depth={words}"
    )


def _placed(lookups: list[Lookup], bits: int) -> dict[tuple[str, str], Placed]:
    found: dict[tuple[str, str], Placed] = {}
    same: dict[Words, Placed] = {}
    base = 0
    # The largest first: each then begins at a multiple of its size.
    for lookup in sorted(lookups, key=lambda at: -_most(at.x)):
        node, used = lookup.node, min(bits, _most(lookup.x))
        x = _inputs(lookup.x, used)
        with torch.no_grad():
            values = node.function(torch.from_numpy(x.copy())).numpy()
        for what, fmt, real in (("table", lookup.y, values), ("slope", lookup.slope, _slopes(node, x))):
            words = tuple(fmt.quantise(real).tolist())
            if words not in same:
                name = f"{node.name}.{what}"
                same[words] = Placed(name=name, words=words, base=base, drop=lookup.x.width - used)
                base += len(words)
            table = same[words]
            found[node.name, what] = Placed(name=table.name, words=words, base=table.base, drop=lookup.x.width - used)
    return found


def _most(x: FixedFormat) -> int:
    """Bits of an element that can choose a word."""
    return min(x.width, TABLE_BITS[1])


def _inputs(x: FixedFormat, bits: int) -> npt.NDArray[np.float64]:
    """What each word of a table of 2**bits stands for: the middle of the numbers that choose it."""
    each = 1 << (x.width - bits)
    first = np.arange(-(1 << (bits - 1)), 1 << (bits - 1)) * each
    return np.ldexp(first + (each - 1) / 2, x.exponent)


def _slopes(node: Table, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A function's derivative, by torch."""
    at = torch.from_numpy(x.copy()).requires_grad_(True)
    with torch.enable_grad():
        (found,) = torch.autograd.grad(node.function(at.clone()).sum(), at)
    return np.asarray(found.numpy(), dtype=np.float64)
