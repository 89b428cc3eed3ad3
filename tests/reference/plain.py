"""The reference on operands given as PyTorch's tensors or as rows, on a core so wide that nothing is rounded."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from insitu.arch.isa import Instruction
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from tests.reference.machine import ReferenceMachine
from tests.reference.windows import Grid, operands

# Wide enough that nothing here is rounded, wraps or saturates.
CORE = CoreParams(
    n=4,
    **dict.fromkeys(("weight_bits", "activation_bits", "error_bits", "gradient_bits"), 16),
    master_bits=32,
    accumulator_bits=48,
    **dict.fromkeys(("act_depth", "err_depth", "wgt_depth"), 400),
)
WEIGHT = {"width": 16, "weight_width": 16}
UPDATE = {"width": 16, "master_width": 32, "lr_mul": 1}


def put(machine: ReferenceMachine, m: Grid, rows: list[list[int]]) -> None:
    assert (len(rows), len(rows[0])) == (m.rows, sum(m.groups))
    for r, row in enumerate(rows):
        for c, value in enumerate(row):
            machine.write(m, r, c, value)


def run(i: Instruction, **given: list[list[int]]) -> tuple[ReferenceMachine, list[list[int]]]:
    """The machine after an instruction on operands given by name; D."""
    machine = ReferenceMachine(CORE)
    grids = operands(i)
    for name, rows in given.items():
        put(machine, grids[name], rows)
    machine.execute(i.encode())
    assert not machine.accumulator_overflow
    assert machine.saturated == 0
    return machine, machine.read(grids["d"])


def placed(values: dict[str, Any]) -> Instruction:
    """An instruction whose operands follow one another in each memory."""
    top = dict.fromkeys(Memory, 0)
    places: dict[str, int] = {}
    for name, m in operands(Instruction(**values)).items():
        pitch = len(m.words(CORE.n))
        places |= {f"{name}_base": top[m.memory], f"{name}_pitch": pitch}
        top[m.memory] += m.rows * pitch
    return Instruction(**values, **places)


def feature_map(x: torch.Tensor) -> list[list[int]]:
    """[batch, channels, height, width] -> rows of pixels, samples."""
    return x.detach().permute(2, 3, 0, 1).reshape(-1, x.shape[1]).to(torch.int64).tolist()


def kernel(w: torch.Tensor) -> list[list[int]]:
    """[outputs, inputs, height, width] -> a row for each output, groups of inputs."""
    return w.detach().permute(0, 2, 3, 1).flatten(1).to(torch.int64).tolist()


def tensor(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randint(-4, 5, shape, generator=generator).double().requires_grad_()


sides = st.tuples(st.integers(1, 5), st.integers(1, 5))
kernels = st.tuples(st.integers(1, 3), st.integers(1, 3))
counts = st.integers(1, 3)
generators = st.integers(0, 2**32 - 1).map(lambda seed: torch.Generator().manual_seed(seed))
