"""The emulator against the reference in plain Python integers, bit for bit, over random cores and programs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from insitu.arch.isa import Instruction, Opcode, assemble
from insitu.arch.layout import Memory
from insitu.arch.params import SCALES, CoreParams
from insitu.arch.timing import cost
from insitu.sim import draining, products
from insitu.sim.emulator import Emulator
from insitu.sim.product import method
from tests.reference.compare import expect_equal
from tests.reference.drawing import Case, on_any_core
from tests.reference.machine import ReferenceMachine, State
from tests.reference.strategies import close_sums, convolution_sequences, moves, pass_instructions, train_sequences
from tests.reference.vector_strategies import (
    depthwise_sequences,
    on_vector_cores,
    vector_instructions,
    vector_sequences,
)

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]


def explore(cases: int) -> settings:
    return settings(max_examples=cases, suppress_health_check=CHECKS)


def emulator_of(case: Case, *, statistics: bool = False, threads: int = 1) -> Emulator:
    """An emulator in the case's start, its program loaded."""
    emulator = Emulator(case.core, statistics=statistics, threads=threads)
    for memory, image in case.memories.items():
        emulator.set_image(memory, image)
    emulator.scales[:] = [list(pair) for pair in case.scales]
    emulator.seed = case.seed
    emulator.stream_in.put(case.stream_in)
    emulator.load_program(assemble(case.instructions))
    return emulator


def state_of(emulator: Emulator) -> State:
    """The emulator's state as the reference shows its own; takes what is in the output stream."""
    return State(
        memories={m: emulator.image(m) for m in emulator.core.memories},
        scales=tuple((s[0], s[1]) for s in emulator.scales),
        seed=emulator.seed,
        accumulator_overflow=emulator.accumulator_overflow,
        saturated=emulator.saturated,
        macs=emulator.counters.macs,
        instructions=emulator.counters.instructions,
        stream_out=emulator.stream_out.take(emulator.stream_out.pending).tolist()
        if emulator.stream_out.pending
        else [],
    )


def compare(case: Case, *, statistics: bool = False, threads: int = 1) -> None:
    """Run the case on both, comparing everything after every instruction."""
    reference = ReferenceMachine.start(case)
    emulator = emulator_of(case, statistics=statistics, threads=threads)
    beats = iter(case.stream_in.tolist())
    emulator.start(0)
    for instruction, words in zip(case.instructions, assemble(case.instructions), strict=True):
        out = reference.execute(words.tolist(), beats)
        assert emulator.advance(1) == 1
        expected = replace(reference.state(), stream_out=out)
        expect_equal(case.core, instruction, expected, state_of(emulator))
    # No stream made the core wait: its cycles are those of the model.
    assert emulator.counters.cycles == sum(cost(i, case.core.n).cycles for i in case.instructions)


@pytest.mark.parametrize(
    ("strategy", "cases"),
    [
        (on_any_core(pass_instructions), 2400),
        (close_sums(), 800),
        (on_any_core(moves), 150),
        (on_any_core(train_sequences), 200),
        (on_any_core(convolution_sequences), 250),
        (on_vector_cores(vector_instructions), 900),
        (on_vector_cores(vector_sequences), 200),
        (on_vector_cores(depthwise_sequences), 200),
    ],
    ids=[
        "passes",
        "close sums",
        "moves",
        "perceptrons",
        "convolutions",
        "vector passes",
        "vector programs",
        "depthwise",
    ],
)
def test_equals_the_reference(strategy: SearchStrategy[Case], cases: int) -> None:
    distinct = set()

    @explore(cases)
    @given(strategy)
    def run(case: Case) -> None:
        distinct.add((repr(case), *(image.tobytes() for image in case.memories.values())))
        compare(case)

    run()
    # Some are alike: what was drawn for a layer that the memories have no room for, or for a window that another pass's
    # stands in for, changes nothing.
    assert len(distinct) > 0.7 * cases


@explore(100)
@given(
    st.one_of(
        on_any_core(train_sequences),
        on_any_core(convolution_sequences),
        on_vector_cores(vector_sequences),
        on_vector_cores(depthwise_sequences),
    )
)
def test_statistics_change_nothing(case: Case) -> None:
    compare(case, statistics=True)


@explore(250)
@given(on_any_core(pass_instructions))
def test_without_vector_code(case: Case) -> None:
    """The machines that lack the instructions take products in floating point, to the same bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "method", partial(method, vector=False))
        compare(case)


@explore(200)
@given(st.one_of(on_any_core(pass_instructions), on_vector_cores(vector_instructions)))
def test_blocks_of_few_rows(case: Case) -> None:
    """With room for fewer rows than are drawn they come in several blocks, as those of a large pass do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draining, "_BLOCK", 32)
        compare(case)


def test_weights_read_by_a_larger_and_a_smaller_pass() -> None:
    """Two passes over one place in WGT, the second with fewer rows of it: its bias is of its own rows alone."""
    core = CoreParams(n=4, act_depth=32, err_depth=16, wgt_depth=16)
    rng = np.random.default_rng(2)
    wide = Instruction(
        opcode=Opcode.FORWARD, bias=1, rows=3, cols=6, depth=4, width=8, weight_width=8, weight_shift=8,
        a_pitch=1, b_pitch=1, d_base=8, d_pitch=2, sd=1,
    )  # fmt: skip
    images = {m: rng.integers(-100, 100, (core.depth(m), core.n)) for m in core.memories}
    case = Case(
        core=core,
        instructions=(wide, replace(wide, cols=2)),
        memories=images,
        scales=((0, 0),) * SCALES,
        seed=1,
        stream_in=np.zeros((0, core.n), dtype=np.int64),
    )
    compare(case, statistics=True)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(
    ("long", "tall"),
    [
        # One row of three words, and three rows of one: at a pitch of one word they lie over one another.
        ({"cols": 1, "depth": 12, "b_pitch": 1}, {"cols": 3, "depth": 4, "b_pitch": 1}),
        # Two rows of two words, and eight of one, whose last is the memory's last word.
        ({"cols": 2, "depth": 8, "b_pitch": 2}, {"cols": 8, "depth": 4, "b_pitch": 2}),
    ],
)
def test_weights_read_as_matrices_of_which_neither_holds_the_other(
    long: dict[str, int], tall: dict[str, int], order: tuple[int, int]
) -> None:
    core = CoreParams(n=4, act_depth=32, err_depth=16, wgt_depth=16)
    rng = np.random.default_rng(3)
    passes = [
        Instruction(
            opcode=Opcode.FORWARD, rows=2, width=8, weight_width=8, weight_shift=8, sd=1,
            a_pitch=3, b_base=1, d_base=16, d_pitch=2, **extents,
        )
        for extents in (long, tall)
    ]  # fmt: skip
    case = Case(
        core=core,
        instructions=tuple(passes[k] for k in (*order, *order)),
        memories={m: rng.integers(-100, 100, (core.depth(m), core.n)) for m in core.memories},
        scales=((0, 0), (4, 4)) + ((0, 0),) * (SCALES - 2),
        seed=1,
        stream_in=np.zeros((0, core.n), dtype=np.int64),
    )
    compare(case)


def test_a_table_is_loaded_looked_up_and_shown() -> None:
    """x * x / 8 of words of five bits, by the bits above the lowest: columns of a lane look up what its bank has."""
    core = CoreParams(n=4, activation_bits=5, act_depth=16, tab_depth=64)
    emulator = Emulator(core)
    square = [(2 * x) ** 2 // 64 for x in range(-8, 8)]
    load = Instruction(opcode=Opcode.LOAD, memory=Memory.TAB, rows=16, cols=4, d_base=32, d_pitch=1)
    look = Instruction(
        opcode=Opcode.LOOKUP, rows=2, cols=6, table_base=32, table_bits=4, table_drop=1,
        a_pitch=2, d_base=8, d_pitch=2,
    )  # fmt: skip
    emulator.load_program(assemble([load, look, Instruction(opcode=Opcode.HALT)]))
    emulator.stream_in.put(np.repeat(np.array(square)[:, None], 4, axis=1))
    values = np.arange(-16, -4).reshape(2, 6)
    image = np.zeros((16, 4), dtype=np.int64)
    look.a.write(image, values)
    emulator.set_image(Memory.ACT, image)
    emulator.start(0)
    emulator.advance()
    assert emulator.image(Memory.TAB)[32:48].tolist() == [[y] * 4 for y in square]
    assert not emulator.image(Memory.TAB)[:32].any()
    assert look.d.read(emulator.image(Memory.ACT)).tolist() == [[square[(x >> 1) + 8] for x in row] for row in values]
    # The host may put other words into a bank: lane 2 then looks up another function.
    tables = emulator.image(Memory.TAB)
    tables[32:48, 2] = 7
    emulator.set_image(Memory.TAB, tables)
    emulator.start(1)
    emulator.advance()
    assert (look.d.read(emulator.image(Memory.ACT))[:, 2] == 7).all()
    assert look.d.read(emulator.image(Memory.ACT))[0, 1] == square[(-15 >> 1) + 8]


@pytest.mark.parametrize("width", [8, 6])
@pytest.mark.parametrize("bias", [0, 1])
def test_weights_are_read_anew_when_an_update_wrote_them(width: int, bias: int) -> None:
    """Whether the same or another matrix, of the same width or of several, is read from where they lie."""
    core = CoreParams(n=4, act_depth=64, err_depth=64, wgt_depth=16, tab_depth=1)
    rng = np.random.default_rng(5)
    places = {"a_pitch": 2, "b_pitch": 2, "d_pitch": 2}
    sizes = {"rows": 2, "cols": 6, "kernel_height": 3, "map_height": 3, "out_height": 3, "pad_height": 1}
    read = {"weight_width": 8, "weight_shift": 8, "sa": 1, "sb": 2, "sd": 3}
    forward = Instruction(
        opcode=Opcode.DW_FORWARD, **(places | sizes | read), width=8, bias=bias, bias_exponent=5, d_base=40
    )
    backward = Instruction(opcode=Opcode.DW_BACKWARD, **(places | sizes | read), width=8, d_base=40)
    update = Instruction(
        opcode=Opcode.DW_UPDATE, **(places | sizes), width=8, bias=1, bias_exponent=5, master_width=16,
        lr_mul=200, sa=4, sb=5, sd=6, sm=7,
    )  # fmt: skip
    reads = (forward, replace(forward, weight_width=width), backward)
    case = Case(
        core=core,
        instructions=(*reads, update, *reads, update, *reads),
        memories={m: rng.integers(-100, 100, (core.depth(m), core.n)) for m in core.memories},
        scales=((0, 0),) * 3 + ((8, 8),) * (SCALES - 3),
        seed=1,
        stream_in=np.zeros((0, core.n), dtype=np.int64),
    )
    compare(case)


@pytest.mark.parametrize("b_base", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("opcode", [Opcode.ADD, Opcode.MULTIPLY, Opcode.REDUCE])
@pytest.mark.parametrize("statistics", [False, True])
def test_operands_that_lie_over_one_another(opcode: Opcode, b_base: int, statistics: bool) -> None:
    """B some rows down where another operand begins: both are read as the banks hold them, each by its own rows."""
    core = CoreParams(n=4, act_depth=32, err_depth=32, wgt_depth=16)
    rng = np.random.default_rng(4)
    masked: dict[str, int] = {"mask": 1, "m_pitch": 1} if opcode is not Opcode.ADD else {}
    memory = {Opcode.ADD: Memory.ACT, Opcode.MULTIPLY: Memory.ERR, Opcode.REDUCE: Memory.ACT}[opcode]
    i = Instruction(
        opcode=opcode, memory=memory, rows=6, cols=3, width=8, sa=1, sb=2, sd=3,
        a_pitch=1, b_base=b_base, b_pitch=1, d_base=16, d_pitch=1, **masked,
    )  # fmt: skip
    case = Case(
        core=core,
        instructions=(i, i),
        memories={m: rng.integers(-100, 100, (core.depth(m), core.n)) for m in core.memories},
        scales=((0, 0),) * 3 + ((4, 4),) * (SCALES - 3),
        seed=1,
        stream_in=np.zeros((0, core.n), dtype=np.int64),
    )
    compare(case, statistics=statistics)
