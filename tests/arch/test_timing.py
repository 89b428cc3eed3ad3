"""Cycle costs against a cycle-by-cycle walk of the overlap between steps and drains."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from insitu.arch import timing
from insitu.arch.isa import Instruction, Opcode
from insitu.arch.numbers import Rounding
from insitu.arch.params import ARRAY_SIZES
from insitu.arch.timing import Cost, cost
from tests.reference.strategies import PASSES

sides = st.sampled_from(ARRAY_SIZES)
lengths = st.integers(1, 70)
MATMULS = tuple(p for p in PASSES if p is not Opcode.LOSS)


def tiles(rows: int, cols: int, n: int) -> list[int]:
    """Valid rows of each tile, in order."""
    return [min(n, rows - top) for _ in range(0, cols, n) for top in range(0, rows, n)]


def walk(drains: list[int], steps: int) -> tuple[int, int]:
    """(cycles, cycles without a step) from the first step to the last drained row; copying to the drain is free."""
    cycles = idle = 0
    issued = draining = 0
    waiting = list(drains)
    while waiting or draining:
        cycles += 1
        # The last step of a tile is taken only when the drain registers can receive its sums.
        if waiting and (issued < steps - 1 or draining <= 1):
            issued += 1
        elif waiting:
            idle += 1
        if draining:
            draining -= 1
        if issued == steps:
            assert draining == 0
            draining, issued = waiting.pop(0), 0
    return cycles, idle


def matmul(opcode: Opcode, rows: int, cols: int, depth: int, **more: int) -> Instruction:
    widths = {"width": 8} | ({"master_width": 16} if opcode is Opcode.UPDATE else {"weight_width": 8})
    return Instruction(opcode=opcode, rows=rows, cols=cols, depth=depth, **widths, **more)


def fixed(n: int, draws: bool) -> int:
    return timing.FETCH + timing.SETUP + n + (2 * n + timing.MIX_STAGES if draws else 0)


@given(
    st.sampled_from(MATMULS), lengths, lengths, lengths, sides, st.sampled_from([Rounding.FLOOR, Rounding.STOCHASTIC])
)
def test_a_pass_overlaps_drains_with_steps(
    opcode: Opcode, rows: int, cols: int, depth: int, n: int, rounding: Rounding
) -> None:
    got = cost(matmul(opcode, rows, cols, depth, rounding=rounding), n)
    drains = tiles(rows, cols, n)
    cycles, idle = walk(drains, depth)
    assert got.cycles == fixed(n, rounding is Rounding.STOCHASTIC) + timing.pipeline(opcode) + cycles
    assert got.issue == len(drains) * depth
    assert got.wait == idle
    assert got.macs == rows * cols * depth
    assert got.macs <= got.issue * n * n


@given(st.sampled_from(MATMULS), lengths, lengths, lengths, sides)
def test_a_pass_is_the_documented_sum(opcode: Opcode, rows: int, cols: int, depth: int, n: int) -> None:
    drains = tiles(rows, cols, n)
    total = fixed(n, False) + depth + sum(max(depth, d) for d in drains[:-1]) + timing.pipeline(opcode) + drains[-1]
    assert cost(matmul(opcode, rows, cols, depth), n).cycles == total


@given(st.sampled_from([Opcode.LOAD, Opcode.STORE]), lengths, lengths, sides)
def test_a_move_takes_a_cycle_a_beat(opcode: Opcode, rows: int, cols: int, n: int) -> None:
    got = cost(Instruction(opcode=opcode, rows=rows, cols=cols), n)
    beats = sum(1 for _ in range(rows) for _ in range(0, cols, n))
    assert got.stream == beats
    tail = timing.LOAD_TAIL if opcode is Opcode.LOAD else timing.STORE_HEAD
    assert got.cycles == fixed(n, False) + beats + tail
    assert got.macs == got.issue == got.wait == got.vector == 0


@given(lengths, lengths, sides)
def test_loss_goes_block_by_block(rows: int, cols: int, n: int) -> None:
    got = cost(Instruction(opcode=Opcode.LOSS, rows=rows, cols=cols, width=8), n)
    vector = 0
    for _ in range(rows):
        vector += timing.LOSS_ROW
        for _ in range(0, cols, n):
            vector += timing.LOSS_READS + timing.LOSS_DIVIDE
    assert got.vector == vector
    assert got.cycles == fixed(n, False) + vector + timing.LOSS_TAIL + timing.DRAIN_TO_MEMORY
    assert got.macs == 0


@given(sides)
def test_halt_is_a_fetch(n: int) -> None:
    assert cost(Instruction(opcode=Opcode.HALT), n) == Cost(cycles=timing.FETCH)


@given(st.sampled_from(MATMULS), lengths, lengths, lengths, sides)
def test_overhead_is_what_no_tile_explains(opcode: Opcode, rows: int, cols: int, depth: int, n: int) -> None:
    got = cost(matmul(opcode, rows, cols, depth), n)
    assert got.overhead == fixed(n, False) + timing.pipeline(opcode) + tiles(rows, cols, n)[-1]


def test_drawing_costs_its_seeding_once() -> None:
    plain = matmul(Opcode.UPDATE, 9, 9, 3)
    for field in ("rounding", "update_rounding"):
        drawing = matmul(Opcode.UPDATE, 9, 9, 3, **{field: Rounding.STOCHASTIC})
        assert cost(drawing, 8).cycles - cost(plain, 8).cycles == timing.seeding(drawing, 8) > 0
    assert timing.seeding(plain, 8) == 0
