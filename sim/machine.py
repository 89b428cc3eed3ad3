"""The state an instruction works on: memories, scale registers, seed, flags; weights as they are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from insitu.arch import generator
from insitu.arch.isa import Instruction
from insitu.arch.layout import Matrix, Memory
from insitu.arch.numbers import SHIFT_MAX, SHIFT_MIN, bias_operand, clamp, range_exponent
from insitu.arch.params import CoreParams
from insitu.arch.registers import REGISTERS
from insitu.sim import moves
from insitu.sim.drains import Fit
from insitu.sim.memory import BankedMemory, Place, Table, Values
from insitu.sim.rows import constants
from insitu.sim.rules import Rules


class Weights:
    """Masters as the read port delivers them: int16, laid out as the masters are, as far as the largest matrix asked
    for. One for each place, width, shift and rounding, mostly, shared by all passes that read it.

    version: raised whenever they changed.
    """

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        half = 1 << (instruction.weight_width - 1)
        by = constants(instruction.weight_rounding, instruction.weight_shift)
        self.fit: Fit = (by, (-half, half - 1), 0)
        self.version = 0
        self._machine = machine
        self._place(instruction.b)

    @property
    def matrix(self) -> Matrix:
        return self._masters.matrix

    def cover(self, matrix: Matrix) -> bool:
        """Deliver at least this matrix, which begins at the same place; not, and false, where neither holds the other:
        together they could reach beyond the memory, or lie row over row."""
        words, own = matrix.row_words(self._machine.core.n), self.matrix.row_words(self._machine.core.n)
        holds = matrix.rows <= self.matrix.rows and words <= own
        if not holds and not (matrix.rows >= self.matrix.rows and words >= own):
            return False
        wider = matrix if (words, matrix.width) > (own, self.matrix.width) else self.matrix
        rows = max(matrix.rows, self.matrix.rows)
        if (wider, rows) != (self.matrix, self.matrix.rows):
            self._place(replace(wider, rows=rows))
        return True

    def _place(self, matrix: Matrix) -> None:
        n = self._machine.core.n
        self._masters = self._machine.place(matrix)
        words = matrix.row_words(n) * n
        self._row = np.empty(words, np.int32 if self._machine.core.master_bits <= 30 else np.int64)
        #: What was last delivered: a pass that rewrites all masters may bring it up to date itself, and then `renew`.
        self.kept: Values = np.zeros((matrix.rows - 1) * self._masters.pitch + words, np.int16)
        self.expire()
        self._machine.placed()

    def expire(self) -> None:
        """A master changed."""
        self._valid = False
        self.version += 1

    def renew(self) -> None:
        """All masters changed, and `kept` with them."""
        self._valid = True
        self.version += 1

    @property
    def flat(self) -> Values:
        """The weights as they are now, `pitch` elements a row."""
        if not self._valid:
            moves.reading(self._masters.flat, self.kept, self.pitch, self.matrix.rows, self._row, self.fit)
            self._valid = True
        return self.kept

    @property
    def pitch(self) -> int:
        """Elements from one row to the next."""
        return self._masters.pitch

    def read(self, matrix: Matrix) -> Values:
        """The weights of a matrix that is covered: a copy [rows, width]."""
        return self.flat[np.arange(matrix.rows)[:, None] * self.pitch + self._machine.place(matrix).columns]


class Machine:
    """Memories and registers of a core, the rules its passes follow, and the threads they may have."""

    def __init__(self, core: CoreParams, rules: Rules | None = None, threads: int = 1) -> None:
        self.core = core
        self.threads = threads
        self.rules = rules or Rules()
        self.memories = {
            m: BankedMemory(core.depth(m), core.n, np.int32 if m is Memory.WGT else np.int16) for m in core.memories
        }
        self.scales = [[0, 0] for _ in range(core.scales)]
        self.seed = REGISTERS["SEED"].reset
        self.accumulator_overflow = False
        self.saturated = 0
        self._weights: dict[tuple[int, int, int, int, int], list[Weights]] = {}
        self._readers: dict[Matrix, tuple[Weights | None, list[Weights]]] = {}

    def view(self, matrix: Matrix) -> Values:
        """The matrix as a writable view [rows, cols], for this once."""
        return self.memories[matrix.memory].view(matrix)

    def place(self, matrix: Matrix) -> Place:
        """The matrix's place, to be kept."""
        return Place(self.memories[matrix.memory], matrix)

    def table(self, instruction: Instruction) -> Table:
        """The words of TAB that an instruction looks up, to be kept."""
        return Table(self.memories[Memory.TAB], instruction.table_base, 1 << instruction.table_bits)

    def weights(self, instruction: Instruction) -> Weights:
        """What the read port delivers of an instruction's B, to be kept."""
        b = instruction.b
        width, shift, rounding = instruction.weight_width, instruction.weight_shift, int(instruction.weight_rounding)
        key = (b.base, b.pitch, width, shift, rounding)
        shared = self._weights.setdefault(key, [])
        for found in shared:
            if found.cover(b):
                return found
        shared.append(Weights(self, instruction))
        return shared[-1]

    def readers(self, matrix: Matrix) -> tuple[Weights | None, list[Weights]]:
        """Of the weights delivered from where a matrix of WGT lies: the only ones of just this matrix, which a pass
        that rewrites all of it may keep right itself, and all others."""
        if matrix not in self._readers:
            delivered = [w for shared in self._weights.values() for w in shared]
            exact = [w for w in delivered if w.matrix == matrix]
            mine = exact[0] if len(exact) == 1 else None
            met = [w for w in delivered if w is not mine and w.matrix.overlaps(matrix, self.core.n)]
            self._readers[matrix] = mine, met
        return self._readers[matrix]

    def placed(self) -> None:
        """The place of some weights was set."""
        self._readers.clear()

    def changed(self) -> None:
        """All memories were written: weights are delivered anew."""
        for shared in self._weights.values():
            for weights in shared:
                weights.expire()

    def shift(self, scale: int, source: int) -> int:
        """The clamped shift from an accumulator's exponent to a scale register's."""
        return clamp(self.scales[scale][0] - source, SHIFT_MIN, SHIFT_MAX)

    def bias_operand(self, instruction: Instruction, scale: int) -> int:
        """The integer that stands for 2**bias_exponent beside activations of a scale register's exponent."""
        return bias_operand(instruction.bias_exponent, self.scales[scale][0], self.core.activation_bits)

    def commit(self, instruction: Instruction) -> None:
        """A tracked instruction begins: the exponent measured in its last run comes into use."""
        if instruction.track:
            scale = self.scales[instruction.sd]
            scale[0] = scale[1]

    def measured(self, instruction: Instruction, source: int, seen: int) -> None:
        """A tracked instruction ends: `seen` is the OR of its accumulators' magnitudes."""
        if instruction.track:
            scale = self.scales[instruction.sd]
            bits = int(seen).bit_length()
            scale[1] = range_exponent(source, bits, instruction.width) if bits else scale[0]

    def draw(self, instruction: Instruction) -> int:
        """The seed an instruction's generators start from; SEED steps where it draws."""
        seed = self.seed
        if instruction.draws:
            self.seed = generator.xorshift(seed)
        return seed
