"""FORWARD, BACKWARD and UPDATE, element by element: what each sum is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from insitu.arch.isa import Instruction
from tests.reference.windows import area, meetings

if TYPE_CHECKING:
    from tests.reference.machine import ReferenceMachine, Rows


def forward(machine: ReferenceMachine, i: Instruction, a: Rows, b: Rows) -> Rows:
    """Row q * B + sample: the taps that q meets a pixel with, then the bias."""
    met, taps, channels, bias = meetings(i), area(i, "kernel"), i.depth - i.bias, [machine.bias(i)] * i.bias
    out = []
    for q in range(area(i, "out")):
        found = [(t, met[q, t]) for t in range(taps) if (q, t) in met]
        right = []
        for row in b:
            terms = [row[t * channels + k] for t, _ in found for k in range(channels)]
            right.append(terms + row[taps * channels :])
        for sample in range(i.rows):
            left = [x for _, p in found for x in a[p * i.rows + sample]] + bias
            out.append([machine.dot(left, right[c]) for c in range(i.cols)])
    return out


def backward(machine: ReferenceMachine, i: Instruction, a: Rows, b: Rows) -> Rows:
    """Row p * B + sample: the taps with which an output pixel meets p."""
    met, taps = meetings(i), area(i, "kernel")
    meeting = {(p, t): q for (q, t), p in met.items()}
    out = []
    for p in range(area(i, "map")):
        found = [(t, meeting[p, t]) for t in range(taps) if (p, t) in meeting]
        right = [[b[k][t * i.cols + c] for t, _ in found for k in range(i.depth)] for c in range(i.cols)]
        for sample in range(i.rows):
            left = [x for _, q in found for x in a[q * i.rows + sample]]
            out.append([machine.dot(left, right[c]) for c in range(i.cols)])
    return out


def update(machine: ReferenceMachine, i: Instruction, a: Rows, b: Rows) -> Rows:
    """Row r: the columns of each tap over the pixels that meet one with it, then the bias."""
    met, taps, given = meetings(i), area(i, "kernel"), range(area(i, "out"))
    samples, operand = range(i.depth), machine.bias(i)
    out: Rows = [[] for _ in range(i.rows)]

    def extend(pixels: list[int], right: Rows) -> None:
        for r, row in enumerate(out):
            left = [a[q * i.depth + sample][r] for q in pixels for sample in samples]
            row += [machine.dot(left, column) for column in right]

    for t in range(taps):
        pixels = [q for q in given if (q, t) in met]
        rows = [b[met[q, t] * i.depth + sample] for q in pixels for sample in samples]
        right = [[row[c] for row in rows] for c in range(i.cols - i.bias)]
        if i.bias and taps == 1:
            right.append([operand] * len(rows))
        extend(pixels, right)
    if i.bias and taps > 1:
        extend(list(given), [[operand] * (len(given) * i.depth)])
    return out
