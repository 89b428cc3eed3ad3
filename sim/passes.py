"""One class an opcode: prepared when a program is loaded, called when the instruction comes."""

from __future__ import annotations

from insitu.arch.isa import Instruction, Opcode
from insitu.sim.draining import Loss
from insitu.sim.machine import Machine
from insitu.sim.pooling import Pool, Unpool
from insitu.sim.products import Backward, Forward
from insitu.sim.step import Load, Step, Store
from insitu.sim.updating import Update
from insitu.sim.vectors import Add, Depthwise, DepthwiseUpdate, Lookup, Multiply, Reduce

STEPS: dict[Opcode, type[Step]] = {
    Opcode.HALT: Step,
    Opcode.LOAD: Load,
    Opcode.STORE: Store,
    Opcode.FORWARD: Forward,
    Opcode.BACKWARD: Backward,
    Opcode.UPDATE: Update,
    Opcode.LOSS: Loss,
    Opcode.POOL: Pool,
    Opcode.UNPOOL: Unpool,
    Opcode.DW_FORWARD: Depthwise,
    Opcode.DW_BACKWARD: Depthwise,
    Opcode.DW_UPDATE: DepthwiseUpdate,
    Opcode.ADD: Add,
    Opcode.MULTIPLY: Multiply,
    Opcode.REDUCE: Reduce,
    Opcode.LOOKUP: Lookup,
}


def prepare(machine: Machine, instruction: Instruction) -> Step:
    """Bind an instruction to a machine."""
    return STEPS[instruction.opcode](machine, instruction)
