"""Windows as the products see them: for every block of sums, where its terms begin in A and in B."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insitu.arch.isa import Instruction, Opcode

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Blocks of sums: an output pixel (FORWARD), a map pixel (BACKWARD), or a tap (UPDATE). Block i's terms are
    segments first[i] to first[i + 1], each of the pass's `depth`.

    a, b: what a segment takes: int64 [segments], pixels in ACT and ERR, taps in WGT.
    """

    first: Offsets
    a: Offsets
    b: Offsets

    @classmethod
    def of(cls, instruction: Instruction) -> Segments:
        """The segments of a FORWARD, BACKWARD or UPDATE, in the order of docs/arithmetic.md."""
        w = instruction.window
        if instruction.opcode is Opcode.FORWARD:
            met = w.reads
            block, tap = np.nonzero(met >= 0)
            a, b = met[block, tap], tap
        elif instruction.opcode is Opcode.BACKWARD:
            met = w.writes
            block, tap = np.nonzero(met >= 0)
            a, b = met[block, tap], tap
        else:
            met = w.reads.T
            block, pixel = np.nonzero(met >= 0)
            a, b = pixel, met[block, pixel]
        first = np.searchsorted(block, np.arange(len(met) + 1)).astype(np.int64)
        return cls(first=first, a=a.astype(np.int64), b=b.astype(np.int64))
