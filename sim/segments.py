"""Windows as the products see them: for every block of sums, where its terms begin in A and in B."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insitu.arch.isa import UPDATES, Instruction, Opcode

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Blocks of sums: an output pixel (FORWARD and all that is not named here), a map pixel (BACKWARD, DW_BACKWARD), or
    a tap (UPDATE, DW_UPDATE). Block i's terms are segments first[i] to first[i + 1], each of the pass's `depth`.

    a, b: what a segment takes: int64 [segments], pixels in ACT and ERR, taps in WGT.
    """

    first: Offsets
    a: Offsets
    b: Offsets

    @classmethod
    def of(cls, instruction: Instruction) -> Segments:
        """The segments of a pass that sums, in the order of docs/arithmetic.md."""
        w = instruction.window
        if instruction.opcode in UPDATES:
            met = w.reads.T
            block, pixel = np.nonzero(met >= 0)
            a, b = pixel, met[block, pixel]
        else:
            met = w.writes if instruction.opcode in (Opcode.BACKWARD, Opcode.DW_BACKWARD) else w.reads
            block, tap = np.nonzero(met >= 0)
            a, b = met[block, tap], tap
        first = np.searchsorted(block, np.arange(len(met) + 1)).astype(np.int64)
        return cls(first=first, a=a.astype(np.int64), b=b.astype(np.int64))
