"""What a student's nodes give, read out of a device as it answers: an entry of its own that stores them on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.isa import USED, Instruction, Opcode
from insitu.arch.program import Program
from insitu.host.device.driver import Driver
from insitu.host.device.packing import Integers
from insitu.host.errors import DeviceError

#: The entry's name.
PROBE = "probe"


def probing(program: Program, tensors: Sequence[str]) -> tuple[Program, list[str]]:
    """A program of the same tensors whose one entry answers a batch and stores activations as soon as they are written,
    for what comes later may lie over them; and the tensors' names in the order in which they come. Raises DeviceError
    for a tensor that no pass of the answer writes."""
    body: list[Instruction] = []
    order: list[str] = []
    for instruction in program.entry("infer"):
        if instruction.opcode in (Opcode.STORE, Opcode.HALT):
            continue
        body.append(instruction)
        if instruction.opcode is Opcode.LOAD:
            continue
        for name in tensors:
            tensor = program.tensors.get(name)
            if tensor is not None and name not in order and _writes(instruction, program, name):
                order.append(name)
                body.append(_stored(instruction))
    missing = [name for name in tensors if name not in order]
    if missing:
        raise DeviceError(f"no pass of the answer writes {missing[0]!r}")
    words = (*body, Instruction(opcode=Opcode.HALT))
    return replace(program, instructions=words, entries={PROBE: 0}), order


def activations(driver: Driver, x: npt.NDArray[np.float32], tensors: Sequence[str]) -> Iterator[dict[str, Integers]]:
    """What nodes give for samples x [n, ...], whole batches alone: by tensor, integers [batch * pixels, channels], its
    pixels outermost. The driver's program is back when all batches were taken, or the iterator is closed."""
    program = driver.program
    probe, order = probing(program, tensors)
    samples = driver.quantise("sample", x)
    driver.replace_program(probe)
    try:
        for first in range(0, len(samples) - program.batch + 1, program.batch):
            yield driver.run(PROBE, {"sample": samples[first : first + program.batch]}, order)
    finally:
        driver.replace_program(program)


def _writes(instruction: Instruction, program: Program, name: str) -> bool:
    """Whether a pass writes a tensor: at its place and, where it names one, in its scale register."""
    tensor, used = program.tensors[name], USED[instruction.opcode]
    return "d_base" in used and instruction.d == tensor.matrix and ("sd" not in used or instruction.sd == tensor.scale)


def _stored(instruction: Instruction) -> Instruction:
    """The STORE of what a pass writes."""
    d, window = instruction.d, instruction.window
    extents: dict[str, Any] = {"map_height": window.out_height, "map_width": window.out_width}
    return Instruction(
        opcode=Opcode.STORE,
        memory=d.memory,
        a_base=d.base,
        a_pitch=d.pitch,
        rows=instruction.rows,
        cols=instruction.cols,
        **(extents if window.out_pixels > 1 else {}),
    )
