"""POOL and UNPOOL, element by element."""

from __future__ import annotations

from typing import TYPE_CHECKING

from insitu.arch.isa import Instruction
from insitu.arch.layout import Memory
from tests.reference.windows import Meetings, area, meetings, operands

if TYPE_CHECKING:
    from tests.reference.machine import ReferenceMachine


def pool(machine: ReferenceMachine, i: Instruction) -> None:
    """The largest of each window."""
    grids, met = operands(i), meetings(i)
    a = machine.read(grids["a"])
    for q in range(area(i, "out")):
        for sample in range(i.rows):
            for c in range(i.cols):
                window = _window(met, q, area(i, "kernel"), [row[c] for row in a[sample :: i.rows]])
                largest = max(window.values(), default=-(2 ** (machine.core.word_bits(Memory.ACT) - 1)))
                machine.write(grids["d"], q * i.rows + sample, c, largest)


def unpool(machine: ReferenceMachine, i: Instruction) -> None:
    """Elements of A to the first maximum of their windows."""
    grids, met = operands(i), meetings(i)
    a, b = machine.read(grids["a"]), machine.read(grids["b"])
    for sample in range(i.rows):
        for c in range(i.cols):
            values = [row[c] for row in b[sample :: i.rows]]
            out = [0] * area(i, "map")
            for q in range(area(i, "out")):
                window = _window(met, q, area(i, "kernel"), values)
                if window:
                    # The first of them: `max` keeps the earlier of equals, and the window is in the order of taps.
                    p = max(window, key=lambda pixel, values=values: values[pixel])
                    if not i.mask or values[p] > 0:
                        out[p] = a[q * i.rows + sample][c]
            for p, value in enumerate(out):
                machine.write(grids["d"], p * i.rows + sample, c, value)


def _window(met: Meetings, q: int, taps: int, values: list[int]) -> dict[int, int]:
    """Map pixel -> its value, for those that output pixel q meets, in the order of taps."""
    return {met[q, t]: values[met[q, t]] for t in range(taps) if (q, t) in met}
