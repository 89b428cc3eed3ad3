"""The passes of one channel a lane, element by element: what each sum is of, and tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory
from tests.reference.windows import area, meetings, operands

if TYPE_CHECKING:
    from tests.reference.machine import ReferenceMachine, Rows

#: The factors of one term.
Term = tuple[int, int]


def accumulators(machine: ReferenceMachine, i: Instruction) -> Rows:
    """Accumulators before ReLU or mask, one for each element of D."""
    terms = _TERMS[i.opcode](machine, i)
    d = operands(i)["d"]
    out = []
    for r in range(d.rows):
        row = []
        for c in range(i.cols):
            found = terms(r, c)
            row.append(machine.dot([x for x, _ in found], [y for _, y in found]))
        out.append(row)
    return out


def look_up(machine: ReferenceMachine, i: Instruction) -> None:
    """LOOKUP."""
    grids = operands(i)
    for r, row in enumerate(machine.read(grids["a"])):
        for c, x in enumerate(row):
            machine.write(grids["d"], r, c, table(machine, i, x, c))


def table(machine: ReferenceMachine, i: Instruction, x: int, c: int) -> int:
    """table(x) of an element of column c."""
    size = 2**i.table_bits
    # Python's floor division is the arithmetic shift, its remainder the modulus.
    word = (x // 2**i.table_drop + size // 2) % size
    return machine.memory[Memory.TAB][i.table_base + word][c % machine.core.n]


def alignment(ea: int, eb: int) -> tuple[int, int, int]:
    """(fa, fb, source) of operands of exponents ea and eb."""
    if 0 <= ea - eb <= 14:
        return 2 ** (ea - eb), 1, eb
    if 0 < eb - ea <= 14:
        return 1, 2 ** (eb - ea), ea
    return (1, 0, ea) if ea > eb else (0, 1, eb)


#: The terms of the sum of D[r, c], in order.
_Terms = Callable[[int, int], list[Term]]


def _weights(machine: ReferenceMachine, i: Instruction) -> Rows:
    """B of a depthwise pass, as it is delivered."""
    return [[i.constant] * i.cols] * area(i, "kernel") if i.constant else machine.weights(i)


def _dw_forward(machine: ReferenceMachine, i: Instruction) -> _Terms:
    a, b, met, taps = machine.read(operands(i)["a"]), _weights(machine, i), meetings(i), area(i, "kernel")

    def terms(r: int, c: int) -> list[Term]:
        q, sample = divmod(r, i.rows)
        found = [(a[met[q, t] * i.rows + sample][c], b[t][c]) for t in range(taps) if (q, t) in met]
        return found + ([(machine.bias(i), b[taps][c])] if i.bias else [])

    return terms


def _dw_backward(machine: ReferenceMachine, i: Instruction) -> _Terms:
    a, b, taps = machine.read(operands(i)["a"]), _weights(machine, i), area(i, "kernel")
    meeting = {(p, t): q for (q, t), p in meetings(i).items()}

    def terms(r: int, c: int) -> list[Term]:
        p, sample = divmod(r, i.rows)
        return [(a[meeting[p, t] * i.rows + sample][c], b[t][c]) for t in range(taps) if (p, t) in meeting]

    return terms


def _dw_update(machine: ReferenceMachine, i: Instruction) -> _Terms:
    grids, met = operands(i), meetings(i)
    a, b = machine.read(grids["a"]), machine.read(grids["b"])
    given, samples, operand = range(area(i, "out")), range(i.rows), machine.bias(i)

    def terms(t: int, c: int) -> list[Term]:
        if t == area(i, "kernel"):
            return [(a[q * i.rows + s][c], operand) for q in given for s in samples]
        pairs = [(q, met[q, t]) for q in given if (q, t) in met]
        return [(a[q * i.rows + s][c], b[p * i.rows + s][c]) for q, p in pairs for s in samples]

    return terms


def _add(machine: ReferenceMachine, i: Instruction) -> _Terms:
    grids = operands(i)
    a, b = machine.read(grids["a"]), machine.read(grids["b"])
    fa, fb, _ = alignment(machine.scale[i.sa][0], machine.scale[i.sb][0])
    return lambda r, c: [(a[r][c], fa), (b[r][c], fb)]


def _multiply(machine: ReferenceMachine, i: Instruction) -> _Terms:
    grids = operands(i)
    a, b = machine.read(grids["a"]), machine.read(grids["b"])

    def terms(r: int, c: int) -> list[Term]:
        y = b[r % i.rows if i.broadcast else r][c]
        return [(a[r][c], table(machine, i, y, c) if i.table_bits else y)]

    return terms


def _reduce(machine: ReferenceMachine, i: Instruction) -> _Terms:
    grids = operands(i)
    a, b = machine.read(grids["a"]), machine.read(grids["b"])
    return lambda r, c: [(a[p * i.rows + r][c], b[p * i.rows + r][c]) for p in range(area(i, "map"))]


_TERMS: dict[Opcode, Callable[[ReferenceMachine, Instruction], _Terms]] = {
    Opcode.DW_FORWARD: _dw_forward,
    Opcode.DW_BACKWARD: _dw_backward,
    Opcode.DW_UPDATE: _dw_update,
    Opcode.ADD: _add,
    Opcode.MULTIPLY: _multiply,
    Opcode.REDUCE: _reduce,
}
