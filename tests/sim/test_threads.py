"""Passes shared out among threads give the bits of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from insitu.arch.isa import Instruction, Opcode, assemble
from insitu.arch.layout import Memory
from insitu.arch.numbers import Rounding
from insitu.arch.params import CoreParams
from insitu.sim import lanes, threads
from insitu.sim.emulator import Emulator

CORE = CoreParams(n=8)
ROWS, COLS, DEPTH = 67, 53, 41
WEIGHT = {"weight_width": 8, "weight_shift": 8, "weight_rounding": Rounding.NEAREST}
COMMON: dict[str, Any] = {"width": 8, "track": 1, "rounding": Rounding.STOCHASTIC, "sa": 1, "sb": 2, "sd": 3}
PASSES = {
    "forward": Instruction(
        opcode=Opcode.FORWARD, rows=ROWS, cols=COLS, depth=DEPTH + 1, bias=1, relu=1, a_pitch=6, b_base=9, b_pitch=6,
        d_base=3000, d_pitch=7, **COMMON, **WEIGHT,
    ),
    "backward": Instruction(
        opcode=Opcode.BACKWARD, rows=ROWS, cols=COLS, depth=DEPTH, mask=1, a_pitch=6, b_base=9, b_pitch=7,
        d_base=2000, d_pitch=7, m_base=100, m_pitch=7, **COMMON, **WEIGHT,
    ),
    "update": Instruction(
        opcode=Opcode.UPDATE, rows=ROWS, cols=COLS, depth=DEPTH, bias=1, a_pitch=9, b_pitch=7, d_base=9, d_pitch=7,
        master_width=16, update_rounding=Rounding.STOCHASTIC, lr_mul=200, lr_shift=9, sm=4, **COMMON,
    ),
}  # fmt: skip


def state(names: tuple[str, ...], parts: int) -> tuple[object, ...]:
    """Everything the passes leave behind, with all work in `parts` parts."""
    emulator = Emulator(CORE)
    rng = np.random.default_rng(3)
    for memory in Memory:
        half = 1 << (CORE.word_bits(memory) - 1)
        emulator.set_image(memory, rng.integers(-half, half, (CORE.depth(memory), CORE.n)))
    for index, exponent in ((1, -4), (2, -6), (3, -3), (4, -9)):
        emulator.scales[index][:] = [exponent, exponent]
    emulator.load_program(assemble([*(PASSES[n] for n in names), Instruction(opcode=Opcode.HALT)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "parts", lambda work, least: parts)
        emulator.start(0)
        emulator.advance()
    assert emulator.done
    images = tuple(emulator.image(m).tobytes() for m in Memory)
    return *images, tuple(map(tuple, emulator.scales)), emulator.saturated, emulator.seed


@pytest.mark.parametrize("names", [("forward",), ("backward",), ("update",), ("forward", "update", "forward")])
@pytest.mark.parametrize("parts", [2, 3, 70])
def test_the_same_bits(names: tuple[str, ...], parts: int) -> None:
    assert state(names, parts) == state(names, 1)


def test_starts_are_steps() -> None:
    states = lanes.start(5, 0, rows=10, cols=9, n=4)
    begun = threads.starts(states, rows=10, parts=3)
    np.testing.assert_array_equal(begun[0], states)
    np.testing.assert_array_equal(begun[1], lanes.advanced(states, 4))
    np.testing.assert_array_equal(begun[2], lanes.advanced(states, 8))
