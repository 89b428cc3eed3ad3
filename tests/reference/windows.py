"""Windows, places and tiles as docs/arithmetic.md tells them, worked out from an instruction's fields in plain Python.

arch/ says the same with arrays; nothing of it is used here, so that an error made there is not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory

#: (output pixel, tap) -> the map pixel they meet; a pair that meets nothing is not there.
Meetings = dict[tuple[int, int], int]
#: (steps, valid rows, valid columns) of a tile.
Tile = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A matrix in a memory. groups: how many columns each group of columns has; one group where there are no taps."""

    memory: Memory
    base: int
    pitch: int
    rows: int
    groups: tuple[int, ...]

    def words(self, n: int) -> list[list[int]]:
        """The columns in each word of a row, numbered through all groups; lane l holds the l-th of its word."""
        out, column = [], 0
        for count in self.groups:
            for first in range(0, count, n):
                out.append([column + c for c in range(first, min(first + n, count))])
            column += count
        return out

    def place(self, r: int, column: int, n: int) -> tuple[int, int]:
        """(address, bank) of an element, its column numbered through all groups."""
        # Only the last group may be narrower than the others, so the first tells where every group begins.
        group, c = divmod(column, self.groups[0])
        return self.base + r * self.pitch + group * -(-self.groups[0] // n) + c // n, (r + c) % n


def extent(i: Instruction, axis: str) -> int:
    """Pixels or taps along "map_height" and the like."""
    return getattr(i, axis) or 1


def area(i: Instruction, what: str) -> int:
    """Pixels of the "map" or "out", taps of the "kernel"."""
    return extent(i, f"{what}_height") * extent(i, f"{what}_width")


def meetings(i: Instruction) -> Meetings:
    """Where output pixels meet map pixels."""
    height, width = extent(i, "map_height"), extent(i, "map_width")
    step_y = step_x = 1 + i.stride
    if i.opcode in (Opcode.POOL, Opcode.UNPOOL):
        step_y, step_x = extent(i, "kernel_height"), extent(i, "kernel_width")
    found = {}
    for q in range(area(i, "out")):
        y, x = divmod(q, extent(i, "out_width"))
        for t in range(area(i, "kernel")):
            down, across = divmod(t, extent(i, "kernel_width"))
            py, px = y * step_y + down - i.pad_height, x * step_x + across - i.pad_width
            if 0 <= py < height and 0 <= px < width:
                found[q, t] = py * width + px
    return found


def operands(i: Instruction) -> dict[str, Grid]:
    """The matrices an instruction touches."""
    pixels, given, taps = area(i, "map"), area(i, "out"), area(i, "kernel")
    act, err, wgt = Memory.ACT, Memory.ERR, Memory.WGT

    def weights(cols: int, bias: int) -> tuple[int, ...]:
        return (cols + bias,) if taps == 1 else (cols,) * taps + (1,) * bias

    shapes: dict[str, tuple[Memory, int, tuple[int, ...]]] = {}
    match i.opcode:
        case Opcode.LOAD:
            shapes["d"] = i.memory, pixels * i.rows, weights(i.cols - i.bias, i.bias)
        case Opcode.STORE:
            shapes["a"] = i.memory, pixels * i.rows, weights(i.cols - i.bias, i.bias)
        case Opcode.FORWARD:
            shapes["a"] = act, pixels * i.rows, (i.depth - i.bias,)
            shapes["b"] = wgt, i.cols, weights(i.depth - i.bias, i.bias)
            shapes["d"] = act, given * i.rows, (i.cols,)
        case Opcode.BACKWARD:
            shapes["a"] = err, given * i.rows, (i.depth,)
            shapes["b"] = wgt, i.depth, weights(i.cols, 0)
            shapes["d"] = err, pixels * i.rows, (i.cols,)
        case Opcode.UPDATE:
            shapes["a"] = err, given * i.depth, (i.rows,)
            shapes["b"] = act, pixels * i.depth, (i.cols - i.bias,)
            shapes["d"] = wgt, i.rows, weights(i.cols - i.bias, i.bias)
        case Opcode.LOSS:
            shapes["a"] = act, i.rows, (i.cols,)
            shapes["b"] = shapes["d"] = err, i.rows, (i.cols,)
        case Opcode.POOL:
            shapes["a"] = act, pixels * i.rows, (i.cols,)
            shapes["d"] = act, given * i.rows, (i.cols,)
        case Opcode.UNPOOL:
            shapes["a"] = err, given * i.rows, (i.cols,)
            shapes["b"] = act, pixels * i.rows, (i.cols,)
            shapes["d"] = err, pixels * i.rows, (i.cols,)
        case Opcode.DW_FORWARD:
            shapes["a"] = act, pixels * i.rows, (i.cols,)
            shapes["b"] = wgt, taps + i.bias, (i.cols,)
            shapes["d"] = act, given * i.rows, (i.cols,)
        case Opcode.DW_BACKWARD:
            shapes["a"] = err, given * i.rows, (i.cols,)
            shapes["b"] = wgt, taps, (i.cols,)
            shapes["d"] = err, pixels * i.rows, (i.cols,)
        case Opcode.DW_UPDATE:
            shapes["a"] = err, given * i.rows, (i.cols,)
            shapes["b"] = act, pixels * i.rows, (i.cols,)
            shapes["d"] = wgt, taps + i.bias, (i.cols,)
        case Opcode.ADD:
            shapes["a"] = shapes["b"] = shapes["d"] = i.memory, pixels * i.rows, (i.cols,)
        case Opcode.MULTIPLY:
            shapes["a"] = shapes["d"] = i.memory, pixels * i.rows, (i.cols,)
            shapes["b"] = act, i.rows if i.broadcast else pixels * i.rows, (i.cols,)
        case Opcode.REDUCE:
            shapes["a"] = err, pixels * i.rows, (i.cols,)
            shapes["b"] = act, pixels * i.rows, (i.cols,)
            shapes["d"] = err, i.rows, (i.cols,)
        case Opcode.LOOKUP:
            shapes["a"] = shapes["d"] = act, pixels * i.rows, (i.cols,)
    if i.constant:
        del shapes["b"]
    if i.mask and i.opcode is not Opcode.UNPOOL:
        shapes["m"] = act, *shapes["d"][1:]
    return {
        name: Grid(
            memory=memory, base=getattr(i, f"{name}_base"), pitch=getattr(i, f"{name}_pitch"), rows=rows, groups=groups
        )
        for name, (memory, rows, groups) in shapes.items()
    }


def tiles(i: Instruction, n: int) -> Iterator[Tile]:
    """The tiles of a FORWARD, BACKWARD or UPDATE in the order in which the array takes them."""
    met = meetings(i)
    taps = area(i, "kernel")
    if i.opcode is Opcode.UPDATE:
        groups = [(sum(1 for _, t in met if t == tap) * i.depth, i.cols) for tap in range(taps)]
        if taps > 1 and i.bias:
            groups = [(steps, i.cols - 1) for steps, _ in groups]
            groups.append((area(i, "out") * i.depth, 1))
        for steps, cols in groups:
            for wide in parts(cols, n):
                for high in parts(i.rows, n):
                    yield max(1, steps), high, wide
        return
    forward = i.opcode is Opcode.FORWARD
    bias = i.bias if forward else 0
    for wide in parts(i.cols, n):
        for pixel in range(area(i, "out" if forward else "map")):
            terms = sum(1 for (q, _), p in met.items() if (q if forward else p) == pixel)
            if bias and taps == 1:
                terms = 1  # the bias is one of the tap's columns: all of them are taken
            for high in parts(i.rows, n):
                yield max(1, terms * (i.depth - bias) + bias), high, wide


def parts(count: int, n: int) -> list[int]:
    """`count` in parts of N, the last one what is left."""
    return [min(n, count - first) for first in range(0, count, n)]
