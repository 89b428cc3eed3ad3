"""Cycle costs against a cycle-by-cycle walk of the overlap between steps and drains."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import assume, given
from hypothesis import strategies as st

from insitu.arch import timing
from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.numbers import Rounding
from insitu.arch.params import ARRAY_SIZES
from insitu.arch.timing import Cost, cost
from tests.reference.drawing import Case
from tests.reference.strategies import PASSES
from tests.reference.vector_strategies import VECTOR_PASSES, on_vector_cores, vector_instructions
from tests.reference.windows import Tile, area, meetings, operands, parts
from tests.reference.windows import tiles as plain_tiles

sides = st.sampled_from(ARRAY_SIZES)
lengths = st.integers(1, 70)
MATMULS = tuple(p for p in PASSES if p is not Opcode.LOSS)


def drains(rows: int, cols: int, n: int) -> list[int]:
    """Valid rows of each tile of a plain pass, in order."""
    return [min(n, rows - top) for _ in range(0, cols, n) for top in range(0, rows, n)]


def walk(tiles: Sequence[Tile]) -> tuple[int, int]:
    """(cycles, cycles without a step) from the first step to the last drained row; copying to the drain is free."""
    cycles = idle = 0
    issued = draining = 0
    waiting = list(tiles)
    while waiting or draining:
        cycles += 1
        # The last step of a tile is taken only when the drain registers can receive its sums.
        if waiting and (issued < waiting[0][0] - 1 or draining <= 1):
            issued += 1
        elif waiting:
            idle += 1
        if draining:
            draining -= 1
        if waiting and issued == waiting[0][0]:
            assert draining == 0
            draining, issued = waiting.pop(0)[1], 0
    return cycles, idle


def handed_over(tiles: Sequence[Tile]) -> int:
    """Cycles of the same, told by hand-overs: a tile's is when its steps are done and the drain before it is over."""
    done = over = 0
    for steps, rows, _ in tiles:
        done = max(done + steps, over)
        over = done + rows
    return over


def matmul(opcode: Opcode, rows: int, cols: int, depth: int, **more: int) -> Instruction:
    widths = {"width": 8} | ({"master_width": 16} if opcode is Opcode.UPDATE else {"weight_width": 8})
    return Instruction(opcode=opcode, rows=rows, cols=cols, depth=depth, **widths, **more)


@st.composite
def windows(draw: st.DrawFn, *opcodes: Opcode) -> tuple[Instruction, int]:
    """A pass over any window of small extents, and an array's side."""
    opcode, n = draw(st.sampled_from(opcodes)), draw(sides)
    rows, cols, depth = (draw(st.integers(2, 2 * n + 3)) for _ in range(3))
    values = {f"{name}_{axis}": draw(st.integers(0, 5)) for name in ("map", "out") for axis in ("height", "width")}
    values |= {f"kernel_{axis}": draw(st.integers(0, 3)) for axis in ("height", "width")}
    if opcode not in MATMULS:
        return Instruction(opcode=opcode, rows=rows, cols=cols, **values), n
    values |= {"stride": draw(st.integers(0, 1))}
    values |= {f"pad_{axis}": draw(st.integers(0, 3)) for axis in ("height", "width")}
    if opcode is not Opcode.BACKWARD:
        values["bias"] = draw(st.integers(0, 1))
    return matmul(opcode, rows, cols, depth, **values), n


def fixed(n: int, draws: bool) -> int:
    return timing.FETCH + timing.setup(n) + (2 * n + timing.MIX_STAGES if draws else 0)


@given(
    st.sampled_from(MATMULS), lengths, lengths, lengths, sides, st.sampled_from([Rounding.FLOOR, Rounding.STOCHASTIC])
)
def test_a_pass_overlaps_drains_with_steps(
    opcode: Opcode, rows: int, cols: int, depth: int, n: int, rounding: Rounding
) -> None:
    got = cost(matmul(opcode, rows, cols, depth, rounding=rounding), n)
    tiles = [(depth, high, n) for high in drains(rows, cols, n)]
    cycles, idle = walk(tiles)
    assert (
        got.cycles
        == fixed(n, rounding is Rounding.STOCHASTIC) + timing.pipeline(matmul(opcode, rows, cols, depth)) + cycles
    )
    assert got.issue == len(tiles) * depth
    assert got.wait == idle
    assert got.macs == rows * cols * depth
    assert got.macs <= got.issue * n * n


@given(st.sampled_from(MATMULS), lengths, lengths, lengths, sides)
def test_a_pass_is_the_documented_sum(opcode: Opcode, rows: int, cols: int, depth: int, n: int) -> None:
    high = drains(rows, cols, n)
    total = (
        fixed(n, False)
        + depth
        + sum(max(depth, d) for d in high[:-1])
        + timing.pipeline(matmul(opcode, rows, cols, depth))
        + high[-1]
    )
    assert cost(matmul(opcode, rows, cols, depth), n).cycles == total


@given(windows(*MATMULS))
def test_tiles_of_a_window_are_those_of_a_plain_walk(case: tuple[Instruction, int]) -> None:
    i, n = case
    got = timing.tiles(i, n)
    assert list(zip(got.steps.tolist(), got.rows.tolist(), got.cols.tolist(), strict=True)) == list(plain_tiles(i, n))
    assert got.steps.min() >= 1
    # They cover D: every element of it is in one tile.
    assert (got.rows * got.cols).sum() == i.d.rows * i.d.width


@given(windows(*MATMULS))
def test_a_window_hands_over_when_steps_and_drain_are_done(case: tuple[Instruction, int]) -> None:
    i, n = case
    tiles = list(plain_tiles(i, n))
    cycles, idle = walk(tiles)
    assert cycles == handed_over(tiles)
    got = cost(i, n)
    assert got.cycles == fixed(n, False) + timing.pipeline(i) + cycles
    assert (got.issue, got.wait) == (sum(steps for steps, _, _ in tiles), idle)
    assert got.macs == sum(steps * rows * cols for steps, rows, cols in tiles) <= got.issue * n * n


@given(windows(Opcode.POOL, Opcode.UNPOOL))
def test_a_pool_takes_a_cycle_a_word(case: tuple[Instruction, int]) -> None:
    """POOL reads what its windows meet, or one word for nothing; UNPOOL reads a kernel's words and writes as many."""
    i, n = case
    met = [q for q, _ in meetings(i)]
    windows = [max(1, met.count(q)) for q in range(area(i, "out"))]
    if i.opcode is Opcode.UNPOOL:
        axes = ("height", "width")
        high, wide = (parts(getattr(i, f"map_{axis}") or 1, getattr(i, f"kernel_{axis}") or 1) for axis in axes)
        windows = [down * across for down in high for across in wide]
    words = [taps for _ in range(0, i.cols, n) for taps in windows for _ in range(i.rows)]
    vector = sum(words)
    if i.opcode is Opcode.UNPOOL:
        # The last word written is as many cycles after the last read as its kernel has words, less one.
        vector = handed_over([(taps, taps, 1) for taps in words]) - 1
    got = cost(i, n)
    assert got.vector == vector
    assert got.cycles == fixed(n, False) + got.vector + timing.POOL_TAIL
    assert got.macs == got.issue == got.wait == got.stream == 0


def read_words(i: Instruction, n: int) -> list[int]:
    """Cycles that a vector pass takes of each drained row: a word a cycle of each operand's read port, one at least."""
    met, d = meetings(i), operands(i)["d"]
    act_or_err = [m.memory for name, m in operands(i).items() if name in "ab" and m.memory is not Memory.WGT]
    # What two operands share a read port for comes one after the other.
    each = len(act_or_err) - len(set(act_or_err)) + 1
    rows = []
    for r in range(d.rows):
        pixel = r // i.rows
        if i.opcode is Opcode.DW_FORWARD:
            words = sum(1 for q, _ in met if q == pixel) + i.bias
        elif i.opcode is Opcode.DW_BACKWARD:
            words = sum(1 for p in met.values() if p == pixel)
        elif i.opcode is Opcode.DW_UPDATE:
            words = i.rows * (area(i, "out") if r == area(i, "kernel") else sum(1 for _, t in met if t == r))
        else:
            words = area(i, "map") if i.opcode is Opcode.REDUCE else 1
        # The mask's word has to wait where B comes from ACT too.
        rows.append(max(1, each * words + (i.mask and i.b.memory is Memory.ACT if "b" in i.matrices else 0)))
    return rows * len(range(0, i.cols, n))


@given(on_vector_cores(vector_instructions, opcodes=VECTOR_PASSES))
def test_a_vector_pass_takes_a_cycle_a_term(case: Case) -> None:
    (i,), n = case.instructions, case.core.n
    got, words = cost(i, n), read_words(i, n)
    assert got.vector == sum(words)
    update = timing.UPDATE_TO_MEMORY + timing.MOMENTUM * (i.momentum_width > 0)
    to_memory = update if i.opcode is Opcode.DW_UPDATE else timing.DRAIN_TO_MEMORY
    tail = timing.LOOKUP_TAIL if i.opcode is Opcode.LOOKUP else timing.TERM_TO_DRAIN + to_memory
    assert got.cycles == fixed(n, i.draws) + got.vector + tail
    assert got.macs == got.issue == got.wait == got.stream == 0
    if i.opcode not in (Opcode.DW_UPDATE, Opcode.LOOKUP):
        assert timing.terms(i).tolist() == words[: i.d.rows]


def test_vector_costs_by_hand() -> None:
    """Three pixels, a kernel of two taps a pixel to the left: output pixels meet 1, 2, 2 and 1 pixels."""
    window = {"map_width": 3, "out_width": 4, "kernel_width": 2, "pad_width": 1}
    sizes = {"rows": 2, "cols": 5, "width": 8}
    forward = Instruction(opcode=Opcode.DW_FORWARD, bias=1, weight_width=8, **sizes, **window)  # type: ignore[arg-type]
    assert cost(forward, 4).vector == 2 * 2 * (2 + 3 + 3 + 2)
    update = Instruction(opcode=Opcode.DW_UPDATE, bias=1, master_width=16, **sizes, **window)  # type: ignore[arg-type]
    assert cost(update, 4).vector == 2 * 2 * (3 + 3 + 4)
    for opcode, memory, each in (
        (Opcode.ADD, Memory.ACT, 2),
        (Opcode.ADD, Memory.ERR, 2),
        (Opcode.MULTIPLY, Memory.ACT, 2),
        (Opcode.MULTIPLY, Memory.ERR, 1),
    ):
        both = Instruction(opcode=opcode, memory=memory, map_width=3, **sizes)  # type: ignore[arg-type]
        assert cost(both, 4).vector == 2 * 2 * 3 * each


@given(st.sampled_from([Opcode.LOAD, Opcode.STORE]), st.sampled_from(Memory), st.integers(0, 1), st.data())
def test_a_kernel_moves_group_by_group(opcode: Opcode, memory: Memory, bias: int, data: st.DataObject) -> None:
    axes = ("map_height", "map_width", "kernel_height", "kernel_width")
    assume((opcode, memory) != (Opcode.STORE, Memory.TAB))
    extents = {name: data.draw(st.integers(0, 3)) for name in axes}
    rows, cols, n = data.draw(lengths), data.draw(st.integers(1 + bias, 70)), data.draw(sides)
    got = cost(Instruction(opcode=opcode, memory=memory, rows=rows, cols=cols, bias=bias, **extents), n)
    pixels, taps = (math.prod(max(1, extents[f"{name}_{axis}"]) for axis in ("height", "width"))
                    for name in ("map", "kernel"))  # fmt: skip
    words = len(range(0, cols, n)) if taps == 1 else taps * len(range(0, cols - bias, n)) + bias
    assert got.stream == pixels * rows * words


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
    assert (
        got.overhead == fixed(n, False) + timing.pipeline(matmul(opcode, rows, cols, depth)) + drains(rows, cols, n)[-1]
    )


def test_drawing_costs_its_seeding_once() -> None:
    plain = matmul(Opcode.UPDATE, 9, 9, 3)
    for field in ("rounding", "update_rounding"):
        drawing = matmul(Opcode.UPDATE, 9, 9, 3, **{field: Rounding.STOCHASTIC})
        assert cost(drawing, 8).cycles - cost(plain, 8).cycles == timing.seeding(drawing, 8) > 0
    assert timing.seeding(plain, 8) == 0
