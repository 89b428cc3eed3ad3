"""Words through the memories' ports, of passes small enough to count."""

from __future__ import annotations

import pytest

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.sim.traffic import of

N = 4
NARROW = {"width": 8, "weight_width": 8}


def test_a_product_reads_two_words_a_step_and_writes_its_rows() -> None:
    # 8 rows and 8 columns are four tiles of 5 steps; a row of 8 takes two words.
    forward = Instruction(opcode=Opcode.FORWARD, rows=8, cols=8, depth=5, a_pitch=2, b_pitch=2, d_pitch=2, **NARROW)  # type: ignore[arg-type]
    found = of([forward], N)
    assert found.reads == {Memory.ACT: 20, Memory.WGT: 20}
    assert found.writes == {Memory.ACT: 16}
    assert found.words == 56
    assert of([forward, forward], N).words == 112


def test_a_mask_is_read_beside_what_is_drained() -> None:
    given = {"rows": 4, "cols": 4, "depth": 3, "a_pitch": 1, "b_pitch": 1, "d_pitch": 1, **NARROW}
    plain = of([Instruction(opcode=Opcode.BACKWARD, **given)], N)  # type: ignore[arg-type]
    masked = of([Instruction(opcode=Opcode.BACKWARD, mask=1, m_pitch=1, **given)], N)  # type: ignore[arg-type]
    assert plain.reads == {Memory.ERR: 3, Memory.WGT: 3}
    assert masked.reads == {**plain.reads, Memory.ACT: 4}


@pytest.mark.parametrize("velocities", [0, 8])
def test_an_update_reads_what_it_writes(velocities: int) -> None:
    update = Instruction(
        opcode=Opcode.UPDATE,
        rows=4,
        cols=4,
        depth=7,
        a_pitch=1,
        b_pitch=1,
        d_pitch=1,
        width=8,
        master_width=16,
        momentum_width=velocities,
    )
    found = of([update], N)
    moving = {Memory.VEL: 4} if velocities else {}
    assert found.reads == {Memory.ERR: 7, Memory.ACT: 7, Memory.WGT: 4} | moving
    assert found.writes == {Memory.WGT: 4} | moving


def test_streams_are_a_word_a_beat() -> None:
    load = Instruction(opcode=Opcode.LOAD, memory=Memory.ERR, rows=3, cols=6, d_pitch=2)
    store = Instruction(opcode=Opcode.STORE, memory=Memory.WGT, rows=3, cols=6, a_pitch=2)
    found = of([load, store], N)
    assert found.writes == {Memory.ERR: 6}
    assert found.reads == {Memory.WGT: 6}
