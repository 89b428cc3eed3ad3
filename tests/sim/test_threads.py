"""Passes shared among threads: the same bits, whoever takes which rows."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.arch.isa import Instruction, Opcode, assemble
from insitu.arch.layout import Memory
from insitu.arch.numbers import Rounding
from insitu.arch.params import CoreParams
from insitu.sim import kernels, threads, updates
from insitu.sim.emulator import Emulator
from insitu.sim.threads import Shares
from tests.reference.drawing import Case, on_any_core
from tests.reference.strategies import convolution_sequences, pass_instructions, train_sequences
from tests.sim.test_emulator import compare, explore


def one_after_another(kernel: Callable[..., tuple[int, int]]) -> Callable[..., tuple[int, int]]:
    """What a thread for each share does, by this one: the loops over threads are slow to compile for every type."""

    def run(*arguments: Any) -> tuple[int, int]:
        found = [kernel(*arguments, s) for s in range(len(arguments[-1][1]))]
        return sum(f[0] for f in found), reduce(or_, (f[1] for f in found))

    return run


@explore(200)
@given(st.one_of(on_any_core(pass_instructions), on_any_core(train_sequences), on_any_core(convolution_sequences)))
def test_shares_are_of_the_same_bits(case: Case) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((kernels, "forward"), (kernels, "backward"), (updates, "update")):
            patch.setattr(module, f"{name}_shared", one_after_another(getattr(module, name)))
        patch.setattr(threads, "GRAIN", 1)
        patch.setattr(threads, "ROWS", 1)
        compare(case, threads=3)


@given(st.integers(1, 500), st.integers(0, 1 << 24), st.integers(1, 64))
def test_shares_hold_every_row_once(rows: int, macs: int, most: int) -> None:
    shares = Shares.of(rows, macs, most)
    assert shares.first[0] == 0
    assert shares.first[-1] == rows
    assert (np.diff(shares.first) > 0).all()
    assert shares.count <= most
    assert shares.count == 1 or shares.count * threads.GRAIN <= macs


def digest() -> str:
    """What the passes of a large layer leave in memory, on the threads that numba is set to use."""
    core = CoreParams(n=16)
    rng = np.random.default_rng(1)
    sizes = {"a_pitch": 16, "b_pitch": 16, "d_pitch": 16}
    forward = Instruction(
        opcode=Opcode.FORWARD, rows=96, cols=256, depth=256, width=8, weight_width=8, weight_shift=8, bias=0,
        rounding=Rounding.STOCHASTIC, sa=0, sb=1, sd=2, d_base=4096, **sizes,
    )  # fmt: skip
    update = Instruction(
        opcode=Opcode.UPDATE, rows=256, cols=256, depth=96, width=8, master_width=16, rounding=Rounding.STOCHASTIC,
        lr_mul=3, lr_shift=2, sa=0, sb=1, sd=3, sm=4, **sizes,
    )  # fmt: skip
    backward = Instruction(
        opcode=Opcode.BACKWARD, rows=96, cols=256, depth=256, width=8, weight_width=8, weight_shift=8,
        rounding=Rounding.STOCHASTIC, sa=0, sb=1, sd=2, d_base=2048, **sizes,
    )  # fmt: skip
    emulator = Emulator(core)
    for memory in (Memory.ACT, Memory.ERR, Memory.WGT):
        emulator.set_image(memory, rng.integers(-128, 128, (core.depth(memory), core.n)))
    for scale in (2, 3):
        emulator.scales[scale][:] = [8, 8]
    emulator.load_program(assemble([forward, backward, update, forward, Instruction(opcode=Opcode.HALT)]))
    emulator.start(0)
    emulator.advance()
    assert emulator.done
    images = (emulator.image(m).tobytes() for m in core.memories)
    return f"{threads.available()} {hashlib.sha256(b''.join(images)).hexdigest()} {emulator.saturated}"


def test_two_threads_give_the_bits_of_one() -> None:
    """In processes of their own: how many threads numba may have is said before it is loaded."""
    code = "from tests.sim.test_threads import digest; print(digest())"
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "NUMBA_NUM_THREADS": str(count)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for count in (1, 2)
    ]
    assert [f[0] for f in found] == ["1", "2"]
    assert found[0][1:] == found[1][1:]
