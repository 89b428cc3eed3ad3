"""The state an instruction works on: memories, scale registers, seed, flags; weights as they are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from insitu.arch import generator
from insitu.arch.isa import Instruction
from insitu.arch.layout import Matrix, Memory
from insitu.arch.numbers import SHIFT_MAX, SHIFT_MIN, bias_operand, clamp, range_exponent
from insitu.arch.params import SCALES, CoreParams
from insitu.sim import kernels
from insitu.sim.lanes import NO_STATES as _NO_STATES
from insitu.sim.memory import BankedMemory, Values
from insitu.sim.rows import constants


@dataclass
class Weights:
    """Masters as the read port delivers them: int16, the geometry of their matrix; `valid` until a master changes.

    by, limits: of the port's rounding and width, for sim/rows.py.
    """

    matrix: Matrix
    flat: Values
    rounding: int
    by: tuple[int, int, int, int]
    limits: tuple[int, int]
    valid: bool = False


class Machine:
    """Memories and registers of a core."""

    def __init__(self, core: CoreParams) -> None:
        self.core = core
        self.memories = {
            m: BankedMemory(core.depth(m), core.n, np.int32 if m is Memory.WGT else np.int16) for m in Memory
        }
        self.scales = [[0, 0] for _ in range(SCALES)]
        self.seed = 1
        self.accumulator_overflow = False
        self.saturated = 0
        self._weights: dict[tuple[int, int, int, int, int], Weights] = {}

    def view(self, matrix: Matrix) -> Values:
        """The matrix as a writable view [rows, cols]."""
        return self.memories[matrix.memory].view(matrix)

    def tail(self, matrix: Matrix) -> tuple[Values, int]:
        """(the flat memory from the matrix on, elements from one row to the next): what compiled loops take."""
        return self.memories[matrix.memory].tail(matrix), matrix.pitch * self.core.n

    def weights(self, instruction: Instruction, matrix: Matrix) -> Values:
        """What the read port delivers for a matrix of WGT: int16 view [rows, cols]."""
        flat, pitch = self.weights_tail(instruction, matrix)
        return np.lib.stride_tricks.as_strided(flat, (matrix.rows, matrix.cols), (pitch * flat.itemsize, flat.itemsize))

    def weights_tail(self, instruction: Instruction, matrix: Matrix) -> tuple[Values, int]:
        """The same as `tail` gives it."""
        rounding, shift, width = instruction.weight_rounding, instruction.weight_shift, instruction.weight_width
        key = (matrix.base, matrix.pitch, shift, width, int(rounding))
        weights = self._weights.get(key)
        pitch = matrix.pitch * self.core.n
        if weights is None or matrix.rows > weights.matrix.rows or matrix.cols > weights.matrix.cols:
            half = 1 << (width - 1)
            flat = np.zeros((matrix.rows - 1) * pitch + matrix.cols, np.int16)
            weights = Weights(matrix, flat, int(rounding), constants(rounding, shift), (-half, half - 1))
            self._weights[key] = weights
        if not weights.valid:
            place = weights.matrix
            masters, _ = self.tail(place)
            row = np.empty(place.cols, np.int32 if self.core.master_bits <= 30 else np.int64)
            kernels.reading(
                masters, weights.flat, pitch, place.rows, row, weights.rounding, _NO_STATES, weights.by, weights.limits
            )
            weights.valid = True
        return weights.flat, pitch

    def weights_of(self, matrix: Matrix) -> Weights | None:
        """The weights that were delivered of just this matrix, for a pass that rewrites all of it."""
        found = [w for w in self._weights.values() if w.matrix == matrix]
        return found[0] if len(found) == 1 else None

    def changed(self, matrix: Matrix | None = None, *, but: Weights | None = None) -> None:
        """A matrix was written (all memories, where None): weights are delivered anew, `but` those it kept right."""
        for weights in self._weights.values():
            if weights is not but and (matrix is None or weights.matrix.overlaps(matrix, self.core.n)):
                weights.valid = False

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
