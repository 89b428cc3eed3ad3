"""The reference against itself: the two ways the contract tells of the random bits, and against arch/'s arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from insitu.arch import generator, loss
from insitu.arch import numbers as arch_numbers
from insitu.arch.isa import USED, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.numbers import Overflow, Rounding
from insitu.arch.params import CoreParams
from tests.reference import numbers
from tests.reference.compare import expect_equal
from tests.reference.drawing import Case, on_any_core
from tests.reference.machine import ReferenceMachine
from tests.reference.strategies import PASSES, convolution_sequences, moves, pass_instructions, train_sequences
from tests.reference.vector_strategies import (
    VECTOR_PASSES,
    depthwise_sequences,
    on_vector_cores,
    vector_instructions,
    vector_sequences,
)
from tests.reference.windows import operands

TINY = CoreParams(n=4, act_depth=16, err_depth=16, wgt_depth=16)
#: Vector passes that narrow what they write.
DRAINED = tuple(o for o in VECTOR_PASSES if o is not Opcode.LOOKUP)


def run(case: Case) -> ReferenceMachine:
    machine = ReferenceMachine.start(case)
    machine.run([i.encode() for i in case.instructions], case.stream_in)
    return machine


@settings(max_examples=200)
@given(st.one_of(on_any_core(pass_instructions, opcodes=PASSES), on_vector_cores(vector_instructions, opcodes=DRAINED)))
def test_steps_of_an_element_follow_the_closed_form(case: Case) -> None:
    (i,), n = case.instructions, case.core.n
    machine = ReferenceMachine.start(case)
    d = operands(i)["d"]
    # (words before it, lane) of every column.
    columns = [(sum(-(-count // n) for count in d.groups[:g]) + c // n, c % n)
               for g, count in enumerate(d.groups) for c in range(count)]  # fmt: skip
    seen = set()
    for r, c, r0, r1 in machine._drain(i):
        seen.add((r, c))
        word, lane = columns[c]
        steps = word * d.rows + r + 1
        if i.opcode is Opcode.LOSS:
            steps = r * -(-i.cols // n) + c // n + 1
        for stream, got in enumerate((r0, r1)):
            state = numbers.lane_seed(case.seed, lane, stream)
            for _ in range(steps if i.draws else 0):
                state = numbers.xorshift(state)
            assert got == state
    assert len(seen) == d.rows * sum(d.groups)


@settings(max_examples=160)
@given(st.one_of(on_any_core(pass_instructions), on_vector_cores(vector_instructions)))
def test_a_pass_writes_inside_d_and_inside_its_width(case: Case) -> None:
    (i,) = case.instructions
    machine = run(case)
    for memory, before in case.memories.items():
        after = np.array(machine.memory[memory])
        changed = after != before
        if memory is i.d.memory or (memory is Memory.VEL and i.momentum_width):
            changed[i.d.locate(case.core.n)] = False
        assert not changed.any()
    widths = {i.d.memory: i.master_width or i.width or case.core.word_bits(i.d.memory), Memory.VEL: i.momentum_width}
    for memory, width in widths.items():
        if width and not (memory is Memory.WGT and i.hold):
            written, half = i.d.read(machine.state().memories[memory]), 1 << (width - 1)
            assert written.min() >= -half
            assert written.max() < half
    assert machine.instructions == 1


@pytest.mark.parametrize(
    "strategy", [train_sequences, convolution_sequences, moves, vector_sequences, depthwise_sequences]
)
def test_programs_replay_from_their_seed(strategy: Callable[..., st.SearchStrategy[Case]]) -> None:
    @settings(max_examples=60)
    @given(on_any_core(strategy))
    def replay(case: Case) -> None:
        first, second = run(case), run(case)
        expect_equal(case.core, None, first.state(), second.state())
        assert first.instructions == len(case.instructions)
        stores = [i.a for i in case.instructions if i.opcode is Opcode.STORE]
        assert len(first.stream_out) == sum(a.rows * a.row_words(case.core.n) for a in stores)

    replay()


@settings(max_examples=60)
@given(on_any_core(moves), st.sampled_from(Memory))
def test_what_is_loaded_is_stored(case: Case, memory: Memory) -> None:
    """The beats that go in come out, fitted to the memory's words and zero beyond the last column."""
    assume(memory is not Memory.TAB and memory in case.core.memories)
    load = replace(case.instructions[0], memory=memory, d_base=0)
    depth = "wgt_depth" if memory is Memory.VEL else f"{memory.name.lower()}_depth"
    core = replace(case.core, **{depth: load.d.words(case.core.n)})
    moved = {name: getattr(load, name) for name in USED[Opcode.STORE] if name in USED[Opcode.LOAD]}
    store = Instruction(opcode=Opcode.STORE, **moved, a_pitch=load.d_pitch)
    machine = ReferenceMachine(core)
    out = machine.run([load.encode(), store.encode()], case.stream_in)
    words = operands(load)["d"].words(core.n) * load.d.rows
    for sent, columns, beat in zip(case.stream_in.tolist(), words, out, strict=False):
        fitted = [numbers.fitted(lane, core.word_bits(memory), Overflow.WRAP) for lane in sent[: len(columns)]]
        assert beat == fitted + [0] * (core.n - len(columns))
    assert len(out) == len(words)


@given(
    st.integers(-(2**47), 2**47 - 1),
    st.integers(-8, 47),
    st.integers(2, 32),
    st.sampled_from(Rounding),
    st.sampled_from(Overflow),
    st.integers(0, 2**32 - 1),
)
def test_narrowing_agrees_with_arch(x: int, s: int, width: int, rounding: Rounding, overflow: Overflow, r: int) -> None:
    mine = numbers.fitted(numbers.shifted(x, s, rounding, r), width, overflow)
    assert mine == arch_numbers.narrow(x, s, width, rounding, overflow, r)


@given(st.integers(0, 2**32 - 1), st.integers(0, 31), st.integers(0, 1))
def test_random_bits_agree_with_arch(seed: int, lane: int, stream: int) -> None:
    assert numbers.lane_seed(seed, lane, stream) == generator.lane_seed(seed, lane, stream)
    assert numbers.xorshift(seed) == generator.xorshift(seed)


@given(
    st.lists(st.tuples(st.integers(-(2**15), 2**15 - 1), st.integers(-(2**15), 2**15 - 1)), min_size=1, max_size=12),
    st.integers(-128, 127),
)
def test_loss_agrees_with_arch(row: list[tuple[int, int]], ez: int) -> None:
    z, t = [a for a, _ in row], [b for _, b in row]
    s = [loss.base2_logit(x, ez) for x in z]
    v = [loss.exp2(x - max(s)) for x in s]
    total = loss.weight(sum(t), 16)
    want = [loss.gradient(loss.probability(a, sum(v)), b, total) for a, b in zip(v, t, strict=True)]
    assert numbers.loss_row(z, t, ez, 16) == want


def test_a_product_worked_by_hand() -> None:
    """[[1, 2], [3, -4]] x [[5, 6], [7, 8]]^T with a bias of 2**1 / 2**-1 = 4, ReLU, then halved to even."""
    machine = ReferenceMachine(TINY)
    # Row 1 begins in bank 1.
    machine.memory[Memory.ACT][0] = [1, 2, 0, 0]
    machine.memory[Memory.ACT][1] = [0, 3, -4, 0]
    machine.memory[Memory.WGT][0] = [5, 6, 1, 0]
    machine.memory[Memory.WGT][1] = [0, 7, 8, -1]
    machine.scale[1], machine.scale[2], machine.scale[3] = (-1, 0), (0, 0), (-9, 0)
    machine.execute(
        Instruction(
            opcode=Opcode.FORWARD,
            bias=1,
            relu=1,
            track=1,
            rounding=Rounding.NEAREST,
            width=8,
            weight_width=8,
            a_pitch=1,
            b_pitch=1,
            d_base=4,
            d_pitch=2,
            rows=2,
            cols=2,
            depth=3,
            sa=1,
            sb=2,
            sd=3,
            bias_exponent=1,
        ).encode()
    )
    # 17 + 4, 23 - 4, 15 - 24 + 4, 21 - 32 - 4; next of register 3 was 0: one bit is dropped, ties to even.
    assert machine.memory[Memory.ACT][4][:2] == [10, 10]
    assert machine.memory[Memory.ACT][6][1:3] == [0, 0]
    assert machine.scale[3] == (0, -1)
    assert machine.macs == 12
    assert machine.seed == 1


def test_differences_are_named() -> None:
    i = Instruction(opcode=Opcode.LOSS, width=8, d_base=3, d_pitch=1, rows=2, cols=3, sd=5)
    expected = ReferenceMachine(TINY)
    expected.scale[5] = (-7, -7)
    got = copy.deepcopy(expected)
    expected.memory[Memory.ERR][4][2] = -2
    got.memory[Memory.ACT][1][0] = 1
    got.saturated = 3
    with pytest.raises(AssertionError) as error:
        expect_equal(TINY, i, expected.state(), got.state())
    text = str(error.value)
    assert str(i) in text
    assert "saturated: expected 0 (0x0), got 3 (0x3)" in text
    assert "ERR[0x4] bank 2, D[1,1]: expected -2 (0xfe, real -0.015625), got 0 (0x00, real 0)" in text
    assert "ACT[0x1] bank 0: expected 0 (0x00), got 1 (0x01)" in text
