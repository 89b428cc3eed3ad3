"""Memory planning: one matrix after another where there is room, else over those no longer needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from insitu.arch.isa import FIELDS
from insitu.arch.layout import Matrix, Memory
from insitu.arch.params import DEPTH_MAX, CoreParams
from insitu.host.errors import CompileError

#: What the instruction's fields can say.
ROWS_MAX, PITCH_MAX = FIELDS["rows"].maximum, FIELDS["d_pitch"].maximum


class MemoryTooSmall(CompileError):
    """A tensor does not fit; `remedy` of another size of batch may be added to it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A matrix that wants a place.

    rows: those of one pixel. cols: those of one group. life: the first and the last moment of a training step at which
    it holds something, None for always.
    """

    name: str
    memory: Memory
    rows: int
    cols: int
    pixels: int = 1
    groups: int = 1
    tail: int = 0
    life: tuple[int, int] | None = None

    def at(self, base: int, n: int) -> Matrix:
        """The matrix at a base. Raises CompileError where no instruction could name its size."""
        shape = {"rows": self._rows, "cols": self.cols, "groups": self.groups, "tail": self.tail}
        pitch = Matrix(memory=self.memory, base=base, pitch=0, **shape).row_words(n)
        if self.rows > ROWS_MAX or self.cols + self.tail > ROWS_MAX or pitch > PITCH_MAX:
            raise CompileError(
                f"{self.name}: {self._rows} x {self._width} is more than an instruction can name "
                f"({ROWS_MAX} rows and columns, {PITCH_MAX} words a row)"
            )
        return Matrix(memory=self.memory, base=base, pitch=pitch, **shape)

    def meets(self, other: Request) -> bool:
        """Whether both hold something at the same time."""
        if self.life is None or other.life is None:
            return True
        return self.life[0] <= other.life[1] and other.life[0] <= self.life[1]

    @property
    def _rows(self) -> int:
        return self.pixels * self.rows

    @property
    def _width(self) -> int:
        return self.groups * self.cols + self.tail

    def __str__(self) -> str:
        return f"{self.name} {self._rows}x{self._width}"


def place(requests: Sequence[Request], core: CoreParams) -> dict[str, Matrix]:
    """Places by name. Where a memory holds all its matrices at once they lie one after another: what a step made then
    stays to be looked at. Raises MemoryTooSmall that names every memory too small, what it would take, and what lies in
    it; CompileError for a matrix that no instruction could name."""
    places: dict[str, Matrix] = {}
    problems = []
    for memory in core.memories:
        wanted = [r for r in requests if r.memory is memory]
        depth = core.depth(memory)
        found = _in_a_row(wanted, core.n)
        if _top(found, core.n) > depth:
            found = min(found, _reused(wanted, core.n), key=lambda places: _top(places, core.n))
        words = _top(found, core.n)
        if words > depth:
            fits = f"{memory.name.lower()}_depth={words}" if words <= DEPTH_MAX else "a larger array (n)"
            problems.append(
                f"{memory.name} holds {depth} words of {core.n} elements, {words} are needed "
                f"({', '.join(map(str, wanted))}): give it {fits}"
            )
        places |= found
    if problems:
        raise MemoryTooSmall("; ".join(problems))
    return {r.name: places[r.name] for r in requests}


def _top(places: dict[str, Matrix], n: int) -> int:
    """Words up to the end of the last."""
    return max((m.end(n) for m in places.values()), default=0)


def _in_a_row(requests: Sequence[Request], n: int) -> dict[str, Matrix]:
    places: dict[str, Matrix] = {}
    base = 0
    for request in requests:
        places[request.name] = request.at(base, n)
        base = places[request.name].end(n)
    return places


def _reused(requests: Sequence[Request], n: int) -> dict[str, Matrix]:
    """The largest first, each at the lowest base where it lies over nothing that is needed while it is."""
    places: dict[str, Matrix] = {}
    taken: list[tuple[Request, Matrix]] = []
    for request in sorted(requests, key=lambda r: -r.at(0, n).words(n)):
        others = sorted((m for r, m in taken if r.meets(request)), key=lambda m: m.base)
        matrix = request.at(0, n)
        for other in others:
            if matrix.overlaps(other, n):
                matrix = request.at(other.end(n), n)
        places[request.name] = matrix
        taken.append((request, matrix))
    return places
