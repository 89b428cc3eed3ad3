"""Memory planning: one matrix after another, and a clear answer where they do not fit."""

from __future__ import annotations

from insitu.arch.isa import FIELDS
from insitu.arch.layout import Matrix, Memory, blocks
from insitu.arch.params import DEPTH_MAX, CoreParams
from insitu.host.errors import CompileError

#: What the instruction's fields can say.
ROWS_MAX, PITCH_MAX = FIELDS["rows"].maximum, FIELDS["d_pitch"].maximum


class Planner:
    """Lays matrices one after another into a core's memories."""

    def __init__(self, core: CoreParams) -> None:
        self._core = core
        self._top = dict.fromkeys(Memory, 0)
        self._placed: dict[Memory, list[str]] = {m: [] for m in Memory}

    def place(self, name: str, memory: Memory, rows: int, cols: int) -> Matrix:
        """A matrix for tensor `name`. Raises CompileError where no instruction could name its size."""
        pitch = blocks(cols, self._core.n)
        if rows > ROWS_MAX or cols > ROWS_MAX or pitch > PITCH_MAX:
            raise CompileError(
                f"{name}: {rows} x {cols} is more than an instruction can name "
                f"({ROWS_MAX} rows and columns, {PITCH_MAX} words a row)"
            )
        matrix = Matrix(memory=memory, base=self._top[memory], rows=rows, cols=cols, pitch=pitch)
        self._top[memory] += matrix.words(self._core.n)
        self._placed[memory].append(f"{name} {rows}x{cols}")
        return matrix

    def finish(self) -> None:
        """Raise CompileError that names every memory too small, what it would take, and what lies in it."""
        problems = []
        for memory, words in self._top.items():
            depth = self._core.depth(memory)
            if words > depth:
                fits = f"{memory.name.lower()}_depth={words}" if words <= DEPTH_MAX else "a larger array (n)"
                problems.append(
                    f"{memory.name} holds {depth} words of {self._core.n} elements, {words} are needed "
                    f"({', '.join(self._placed[memory])}): give it {fits} or a smaller batch"
                )
        if problems:
            raise CompileError("; ".join(problems))
