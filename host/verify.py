"""Verification: a program on emulator and RTL, compared after every instruction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.declaration import Role
from insitu.arch.isa import Opcode
from insitu.arch.params import CoreParams
from insitu.arch.place import place
from insitu.arch.program import Program
from insitu.host.device.packing import Packing
from insitu.host.errors import DeviceError, TwoPasses
from insitu.sim.emulator import Emulator
from insitu.sim.rtl.engine import Engine
from insitu.sim.rtl.errors import EngineError
from insitu.sim.rtl.lockstep import Lockstep, Report

Integers = npt.NDArray[np.signedinteger[Any]]
#: Engines by name.
ENGINES = ("rtl", "pysim")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an entry: `values` of each tensor that its LOADs fill, integers [n, features] of samples, else
    [rows, columns]. first, last: of a training step's parts."""

    entry: str
    values: Mapping[str, Integers]
    first: bool = True
    last: bool = True


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was compared. steps: of training, in all their parts. mismatches: instructions after which something
    differed; the first of them is `first`. Cycles are summed over all instructions, without those in which the core
    waited for a stream."""

    steps: int
    instructions: int
    mismatches: int
    rtl_cycles: int
    model_cycles: int
    first: Report | None = None

    def to_json(self) -> dict[str, int]:
        names = ("steps", "instructions", "mismatches", "rtl_cycles", "model_cycles")
        return {name: getattr(self, name) for name in names}


def training(
    program: Program, masters: Mapping[str, Integers], x: npt.ArrayLike, targets: npt.ArrayLike, *, steps: int
) -> Iterator[Run]:
    """Load tables and masters, take `steps` training steps on successive batches of real samples and targets (from the
    start again where they end), infer once, read the masters back."""
    batch = program.batch
    samples = program.initial_format("sample").quantise(np.asarray(x).reshape(len(np.asarray(x)), -1))
    wanted = program.initial_format("target").quantise(targets)
    if program.tables:
        tables = {name: program.table(name) for name in program.tables}
        yield Run(entry="load_tables", values=tables)
    yield Run(entry="load_weights", values=masters)
    if not program.optimizer.plain:
        moving = {name: t.matrix for name, t in program.tensors.items() if t.role is Role.MOMENTUM}
        yield Run(entry="load_velocities", values={k: np.zeros((m.rows, m.width), np.int16) for k, m in moving.items()})
    parts = program.optimizer.micro_batches
    for part in range(steps * parts + 1):
        rows = np.arange(part * batch, (part + 1) * batch) % len(samples)
        at = part % parts
        if part < steps * parts:
            given = {"sample": samples[rows], "target": wanted[rows]}
            yield Run(entry="train", values=given, first=at == 0, last=at == parts - 1)
        else:
            yield Run(entry="infer", values={"sample": samples[rows]})
    yield Run(entry="store_weights", values={})
    if not program.optimizer.plain:
        yield Run(entry="store_velocities", values={})


def open_engine(core: CoreParams, name: str = "rtl", *, waves: str | Path | None = None) -> Engine:
    """An RTL engine by name: `rtl`, compiled, or `pysim`. Raises DeviceError for another name or a missing tool."""
    if name not in ENGINES:
        raise DeviceError(f"engine {name!r}: there are {', '.join(ENGINES)}")
    try:
        if name == "rtl":
            from insitu.sim.rtl.compiled import CompiledEngine

            return CompiledEngine(core, waves=waves)
        from insitu.sim.rtl.interpreted import InterpretedEngine

        return InterpretedEngine(core, waves=waves)
    except EngineError as error:
        raise DeviceError(str(error)) from error


def verify(
    program: Program,
    runs: Iterable[Run],
    engine: Engine,
    *,
    seed: int = 1,
    stalls: tuple[int, float] | None = None,
    progress: Callable[[Run, Report], None] | None = None,
) -> Verification:
    """Execute runs of a program on the emulator and on `engine`, one instruction at a time, and compare memories,
    registers, streams and cycles after each. After a difference the engine is given the emulator's state again.

    seed: of stochastic rounding. stalls: (seed, probability) makes streams and bus wait at random. progress: called
    after each instruction. Raises DeviceError where the core hangs, and for exact exponents, which no core finds.
    """
    if program.exact:
        raise TwoPasses
    emulator = Emulator(program.core)
    for index, exponent in enumerate(program.scales):
        emulator.scales[index][:] = [exponent, exponent]
    emulator.seed = seed
    engine.reset()
    names: dict[int, str] = {}
    for name, tensor in program.tensors.items():
        at = place(tensor.matrix.memory, tensor.matrix.base)
        names[at] = f"{names[at]} + {name}" if at in names else name
    engine.name_operands(names)
    stall_seed, wait = stalls or (1, 0.0)
    engine.stall(stall_seed, send=wait, receive=wait, bus=wait)
    steps = instructions = mismatches = rtl_cycles = model_cycles = 0
    first: Report | None = None
    try:
        lockstep = Lockstep(emulator, engine, stalls_expected=stalls is not None)
        there = program.words
        lockstep.load(there)
        for run in runs:
            steps += run.entry == "train" and run.last
            part = program.micro_step(first=run.first, last=run.last)
            if not np.array_equal(part.words, there):
                there = part.words
                lockstep.load(there)
            for report in _execute(part, run, lockstep):
                instructions += 1
                model_cycles += report.cycles[0]
                rtl_cycles += report.cycles[1]
                if report.count:
                    mismatches += 1
                    first = first or report
                    lockstep.align()
                if progress is not None:
                    progress(run, report)
    except EngineError as error:
        raise DeviceError(str(error)) from error
    return Verification(
        steps=steps,
        instructions=instructions,
        mismatches=mismatches,
        rtl_cycles=rtl_cycles,
        model_cycles=model_cycles,
        first=first,
    )


def _execute(program: Program, run: Run, lockstep: Lockstep) -> Iterator[Report]:
    start, n = program.entries[run.entry], program.core.n
    for index, instruction in enumerate(program.entry(run.entry), start):
        beats = None
        if instruction.opcode is Opcode.LOAD:
            # Of tensors that share a place, the one that values were given for.
            here = [name for name, tensor in program.tensors.items() if tensor.matrix == instruction.d]
            name = next((name for name in here if name in run.values), None)
            if name is None:
                raise DeviceError(f"{run.entry} loads {' or '.join(here)}: no values were given for it")
            packing = Packing(name, program.tensors[name], n)
            beats = packing.fill(np.zeros((packing.beats, n), dtype=np.int64), run.values[name])
        yield lockstep.step(index, beats)
