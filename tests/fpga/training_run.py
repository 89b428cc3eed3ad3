"""A training step as judges that are not ours run it: what to write and send, and what the emulator says must come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insitu.arch.isa import Opcode
from insitu.arch.params import CoreParams
from insitu.arch.program import Program
from insitu.host.compiler.compile import Compiled
from insitu.host.device.protocol import lane_dtype
from insitu.sim.emulator import Emulator
from tests.beats import to_beats

#: In this order: the masters go in, a batch is trained on, the masters come back.
ENTRIES = ("load_weights", "train", "store_weights")


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """program: its `scales` first, then ENTRIES. sent, expected: beats of all of them, lanes [count, n]. cycles: of all
    of them, streams never waiting."""

    program: Program
    sent: npt.NDArray[np.signedinteger]
    expected: npt.NDArray[np.signedinteger]
    cycles: int

    @property
    def core(self) -> CoreParams:
        return self.program.core


def training_run(compiled: Compiled, x: npt.NDArray[np.float32], targets: npt.NDArray[np.float32]) -> TrainingRun:
    """A step on a batch of samples."""
    program, n = compiled.program, compiled.program.core.n
    names = {tensor.matrix: name for name, tensor in program.tensors.items()}
    loads = [names[i.d] for i in program.entry("load_weights") if i.opcode is Opcode.LOAD]
    queued = [compiled.masters[name] for name in loads]
    queued += [program.initial_format("sample").quantise(x.reshape(len(x), -1))]
    queued += [program.initial_format("target").quantise(targets)]
    beats = np.concatenate([to_beats(values, n) for values in queued])
    emulator = Emulator(program.core)
    emulator.load_program(program.words)
    for register, exponent in zip(emulator.scales, program.scales, strict=False):
        register[:] = [exponent, exponent]
    emulator.stream_in.put(beats)
    for entry in ENTRIES:
        emulator.start(program.entries[entry])
        emulator.advance()
        assert emulator.done, entry
    dtype = lane_dtype(program.core)
    return TrainingRun(
        program=program,
        sent=beats.astype(dtype),
        expected=emulator.stream_out.take(emulator.stream_out.pending).astype(dtype),
        cycles=emulator.counters.cycles,
    )
