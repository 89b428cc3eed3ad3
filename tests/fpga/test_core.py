"""The core: random passes and training steps against the emulator, then control, errors, resets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.params import ARCH_VERSION, CoreParams
from insitu.arch.registers import IDENTITY, Error
from insitu.arch.timing import FETCH
from insitu.fpga.sequencer import QUIET
from tests.fpga.harness import Bench, check_case
from tests.reference.strategies import PASSES, Case, pass_instructions, train_sequences
from tests.reference.vector_strategies import vector_sequences

TINY = CoreParams(n=4, act_depth=40, err_depth=36, wgt_depth=33, tab_depth=20, program_depth=24)
WIDE = CoreParams(
    n=4,
    act_depth=24,
    err_depth=24,
    wgt_depth=24,
    tab_depth=16,
    program_depth=24,
    weight_bits=16,
    master_bits=32,
    activation_bits=16,
    error_bits=11,
    gradient_bits=16,
    accumulator_bits=48,
    target_bits=9,
)
NARROW = CoreParams(
    n=4,
    act_depth=24,
    err_depth=24,
    wgt_depth=24,
    tab_depth=16,
    program_depth=24,
    weight_bits=2,
    master_bits=3,
    activation_bits=3,
    error_bits=2,
    gradient_bits=4,
    accumulator_bits=8,
    target_bits=4,
)
LOAD = Instruction(opcode=Opcode.LOAD, memory=Memory.ACT, rows=3, cols=5, d_base=1, d_pitch=2)
STORE = Instruction(opcode=Opcode.STORE, memory=Memory.ACT, rows=3, cols=5, a_base=1, a_pitch=2)
UPDATE = Instruction(
    opcode=Opcode.UPDATE,
    rows=9,
    cols=10,
    depth=3,
    a_pitch=3,
    b_pitch=3,
    d_pitch=3,
    width=8,
    master_width=16,
    lr_mul=3,
)
HALT = Instruction(opcode=Opcode.HALT)


def few(count: int) -> Callable[[Any], Any]:
    """Few examples, the same every time, without shrinking: each takes a second."""

    def decorate(test: Any) -> Any:
        options = settings(
            max_examples=count,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        return seed(1)(options(test))

    return decorate


@pytest.mark.slow  # tests/sim/test_rtl_core.py has hundreds of each, on the compiled core
@pytest.mark.parametrize("opcode", [*PASSES, Opcode.POOL, Opcode.UNPOOL])
@few(4)
@given(data=st.data())
def test_a_pass_equals_the_emulator(opcode: Opcode, data: st.DataObject) -> None:
    core = data.draw(st.sampled_from([TINY, WIDE, NARROW]))
    check_case(data.draw(pass_instructions(core, opcodes=(opcode,), exact=False)))


@pytest.mark.slow
@few(4)
@given(data=st.data())
def test_vector_passes_equal_the_emulator(data: st.DataObject) -> None:
    check_case(data.draw(vector_sequences(data.draw(st.sampled_from([TINY, WIDE, NARROW])), exact=False)))


@pytest.mark.slow
@few(2)
@given(data=st.data())
def test_a_pass_on_eight_lanes_equals_the_emulator(data: st.DataObject) -> None:
    core = CoreParams(n=8, act_depth=20, err_depth=24, wgt_depth=30, program_depth=8)
    check_case(data.draw(pass_instructions(core, exact=False)))


@pytest.mark.parametrize("stalls", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
@few(1)
@given(data=st.data())
def test_a_training_step_equals_the_emulator(stalls: float, data: st.DataObject) -> None:
    check_case(data.draw(train_sequences(TINY, exact=False)), stalls=stalls, seed=3)


def moves() -> Case:
    """A LOAD and a STORE of the same matrix."""
    rng = np.random.default_rng(5)
    return Case(
        core=TINY,
        instructions=(LOAD, STORE, HALT),
        memories={m: np.zeros((TINY.depth(m), TINY.n), dtype=np.int64) for m in TINY.memories},
        scales=((0, 0),) * 64,
        seed=1,
        stream_in=rng.integers(-128, 128, (6, TINY.n)),
    )


@pytest.mark.parametrize("stalls", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
def test_streams_may_stall_on_both_sides(stalls: float) -> None:
    check_case(moves(), stalls=stalls, seed=1)


def test_a_program_runs_to_halt_and_marks_the_last_beat() -> None:
    bench = Bench(TINY)
    case = moves()

    async def script(bench: Bench, ctx: Any) -> None:
        assert await bench.read("ID") == IDENTITY
        assert await bench.read("VERSION") == ARCH_VERSION
        assert await bench.read("HASH_LO") | await bench.read("HASH_HI") << 32 == TINY.hash
        await bench.program(case.instructions, at=3)
        assert await bench.status("done") == 0
        bench.to_send += [bench.beat(beat) for beat in case.stream_in]
        await bench.write("ENTRY", 3)
        await bench.command("start")
        assert await bench.status("busy") == 1
        await bench.idle()
        assert await bench.status("done") == 1
        assert await bench.status("error") == Error.NONE
        assert await bench.status("pc") == 5
        assert await bench.read("INSTRUCTIONS") == 3
        assert await bench.read("ENTRY") == 3
        assert [last for _, last in bench.received] == [0, 0, 0, 0, 0, 1]
        await bench.command("clear")
        assert await bench.read("INSTRUCTIONS") == await bench.wide("CYCLES") == 0

    bench.run(script)


def test_a_halt_is_a_fetch() -> None:
    bench = Bench(TINY)

    async def script(bench: Bench, ctx: Any) -> None:
        await bench.program((HALT,))
        await bench.write("ENTRY", 0)
        await bench.command("start")
        await bench.idle()
        assert await bench.wide("CYCLES") == FETCH

    bench.run(script)


@pytest.mark.parametrize(("entry", "count"), [(24, 1), (23, 2), (0, 25), (2**32 - 1, 1), (1, 2**32 - 1)])
def test_a_program_must_fit(entry: int, count: int) -> None:
    bench = Bench(TINY)

    async def script(bench: Bench, ctx: Any) -> None:
        bench.to_send += [1]
        await bench.write("ENTRY", entry)
        await bench.write("COUNT", count)
        await bench.command("load_program")
        await bench.idle()
        assert await bench.status("error") == Error.ENTRY
        assert bench.to_send == [1]

    bench.run(script)


@pytest.mark.parametrize("entry", [24, 4095, 4096, 2**32 - 1])
def test_an_entry_outside_program_memory_is_refused(entry: int) -> None:
    bench = Bench(TINY)

    async def script(bench: Bench, ctx: Any) -> None:
        await bench.write("ENTRY", entry)
        await bench.command("start")
        await bench.idle()
        assert await bench.status("done") == 1
        assert await bench.status("error") == Error.ENTRY
        assert await bench.wide("CYCLES") == 0

    bench.run(script)


def test_running_off_the_end_is_an_entry_error() -> None:
    bench = Bench(TINY)
    case = moves()

    async def script(bench: Bench, ctx: Any) -> None:
        await bench.program((STORE,), at=23)
        await bench.write("ENTRY", 23)
        await bench.command("start")
        await bench.idle()
        assert await bench.status("error") == Error.ENTRY
        assert await bench.status("pc") == 24
        assert len(bench.received) == len(case.stream_in)

    bench.run(script)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({15: 1}, Error.ILLEGAL),
        ({0: 9}, Error.ILLEGAL),
        ({0: int(Opcode.LOAD) | 1 << 7}, Error.ILLEGAL),
        ({5: 5 << 16}, Error.ILLEGAL),
        ({3: 36 | 2 << 20}, Error.ADDRESS),
        ({3: 1 | 1 << 20}, Error.ADDRESS),
    ],
)
def test_a_refused_instruction_changes_nothing(change: dict[int, int], error: Error) -> None:
    bench = Bench(TINY)
    words = [int(w) for w in LOAD.encode()]
    for index, value in change.items():
        words[index] = value

    async def script(bench: Bench, ctx: Any) -> None:
        await bench.program_words(words)
        bench.to_send += [7]
        before = await bench.state()
        await bench.write("ENTRY", 0)
        await bench.command("start")
        await bench.idle()
        assert await bench.status("error") == error
        assert bench.to_send == [7]
        after = await bench.state()
        assert after.instructions == before.instructions == 0
        assert all((after.memories[m] == before.memories[m]).all() for m in TINY.memories)

    bench.run(script)


def test_abort_stops_a_starved_load_and_the_next_program_runs() -> None:
    bench = Bench(TINY)
    case = moves()
    beats = [bench.beat(beat) for beat in case.stream_in]

    async def script(bench: Bench, ctx: Any) -> None:
        await bench.program(case.instructions)
        bench.to_send += beats[:2]
        await bench.command("start")
        await ctx.tick().repeat(80 + QUIET)
        await bench.command("start", "load_program", "step")  # ignored while busy
        assert await bench.status("busy") == 1
        await bench.command("abort")
        await bench.idle()
        assert await bench.status("error") == Error.ABORTED
        assert await bench.status("done") == 1
        assert bench.to_send == []
        bench.to_send += beats
        await bench.command("start")
        await bench.idle()
        assert await bench.status("error") == Error.NONE
        assert [bench.lanes(beat)[:4] for beat, _ in bench.received][::2] == case.stream_in[::2].tolist()

    bench.run(script)


def test_abort_of_a_store_keeps_the_beat_on_display_only() -> None:
    bench = Bench(TINY, stalls=1.0)
    long = Instruction(opcode=Opcode.STORE, memory=Memory.ACT, rows=30, cols=4, a_pitch=1)

    async def script(bench: Bench, ctx: Any) -> None:
        bench.stalls = 0.0
        await bench.program((long, STORE, HALT))
        bench.stalls = 1.0
        await bench.write("ENTRY", 0)
        await bench.command("start")
        await ctx.tick().repeat(120 + QUIET)
        assert ctx.get(bench.core.o_stream.valid)
        await bench.command("abort")
        await bench.idle()
        assert ctx.get(bench.core.o_stream.valid)
        bench.stalls = 0.0
        await bench.write("ENTRY", 1)
        await bench.command("start")
        await bench.idle()
        assert [last for _, last in bench.received] == [0, *[0] * 5, 1]

    bench.run(script)


def test_abort_in_the_middle_of_a_pass_leaves_the_core_sound() -> None:
    """The same program again, after aborts at several moments, equals the emulator."""
    bench = Bench(TINY)
    update = replace(UPDATE, rounding=2, update_rounding=2, sa=1, sb=2)

    async def script(bench: Bench, ctx: Any) -> None:
        await bench.program((update, HALT))
        cycles = []
        for wait in (1, 3, 30, 45, 60, 75, 90):
            await bench.command("clear")
            await bench.command("start")
            await ctx.tick().repeat(wait)
            await bench.command("abort")
            await bench.idle()
            assert await bench.status("error") == Error.ABORTED
            await bench.command("clear")
            await bench.command("start")
            await bench.idle()
            assert await bench.status("error") == Error.NONE
            assert await bench.wide("MACS") == 9 * 10 * 3
            cycles.append(await bench.wide("CYCLES"))
        assert len(set(cycles)) == 1

    bench.run(script)


def test_nothing_is_written_after_an_abort() -> None:
    """Rows on their way to the masters are dropped, also where the next instruction goes elsewhere."""
    bench = Bench(TINY)
    wgt = bench.core.datapath.memories[Memory.WGT]

    def masters(ctx: Any) -> list[int]:
        return [int(ctx.get(bank.data[address])) for bank in wgt.banks for address in range(27)]

    async def script(bench: Bench, ctx: Any) -> None:
        for memory in (Memory.ACT, Memory.ERR):
            for k, bank in enumerate(bench.core.datapath.memories[memory].banks):
                for address in range(9):
                    ctx.set(bank.data[address], 17 + 5 * k + address)
        await bench.program((UPDATE, HALT))
        await bench.command("start")
        untouched = masters(ctx)
        while masters(ctx) == untouched:
            await ctx.tick()
        await bench.command("abort")
        # The abort's way from the bus to the banks.
        await ctx.tick().repeat(6)
        stopped = masters(ctx)
        await bench.write("ENTRY", 1)
        await bench.command("start")
        await bench.idle()
        assert masters(ctx) == stopped

    bench.run(script)


def test_registers_read_back_and_seed_is_never_zero() -> None:
    bench = Bench(TINY)

    async def script(bench: Bench, ctx: Any) -> None:
        for index in (0, 1, 63):
            assert await bench.read("SCALE", index) == 0
            await bench.write("SCALE", 0xFE10 + index, index)
        assert [await bench.read("SCALE", index) for index in (0, 1, 2, 63)] == [0xFE10, 0xFE11, 0, 0xFE10 + 63]
        assert await bench.read("SEED") == 1
        await bench.write("SEED", 0)
        assert await bench.read("SEED") == 0x9E3779B9
        await bench.write("COUNT", 0xDEADBEEF)
        assert await bench.read("COUNT") == 0xDEADBEEF
        assert await bench.read("CONTROL") == 0

    bench.run(script)


@pytest.mark.parametrize("other", ["start", "step", "load_program"])
def test_an_abort_is_obeyed_alone(other: str) -> None:
    bench = Bench(TINY)

    async def script(bench: Bench, ctx: Any) -> None:
        await bench.program((HALT,))
        await bench.command("abort", other)
        await ctx.tick().repeat(300)
        assert await bench.status("busy") == 0
        assert await bench.read("INSTRUCTIONS") == 0
        await bench.command("start", "step", "load_program")
        await bench.idle()
        assert await bench.status("done") == 1
        assert await bench.read("INSTRUCTIONS") == 1

    bench.run(script)


def test_a_start_that_waits_is_of_the_entry_it_was_given() -> None:
    bench = Bench(TINY)

    async def script(bench: Bench, ctx: Any) -> None:
        await bench.program((LOAD, HALT))
        await bench.command("start")  # starves
        await bench.command("abort")
        await bench.write("ENTRY", 1)
        await bench.command("start")
        await bench.write("ENTRY", TINY.program_depth)
        await bench.idle()
        assert await bench.status("error") == Error.NONE
        assert await bench.status("pc") == 1

    bench.run(script)


def test_a_reset_at_any_moment_leaves_the_core_as_at_power_up() -> None:
    bench = Bench(TINY)
    case = moves()
    beats = [bench.beat(beat) for beat in case.stream_in]
    loss = Instruction(opcode=Opcode.LOSS, rows=2, cols=5, width=8, a_pitch=2, b_pitch=2, d_base=6, d_pitch=2, track=1)
    draw = Instruction(
        opcode=Opcode.FORWARD,
        rows=5,
        cols=5,
        depth=5,
        a_pitch=2,
        b_pitch=2,
        d_base=12,
        d_pitch=2,
        width=8,
        weight_width=8,
        rounding=2,
        track=1,
    )
    program = (LOAD, draw, loss, STORE, HALT)

    async def script(bench: Bench, ctx: Any) -> None:
        cycles = []
        for wait in (1, 45, 95, 150, 200, 260):
            await bench.program(program)
            bench.to_send += beats
            await bench.write("ENTRY", 0)
            await bench.command("start")
            await ctx.tick().repeat(wait)
            # Both sides of the streams stop for the reset.
            bench.withdraw()
            ctx.set(bench.reset, 1)
            await ctx.tick()
            ctx.set(bench.reset, 0)
            for name in ("STATUS", "ENTRY", "COUNT", "CYCLES_LO", "MACS_LO", "STALL_IN", "INSTRUCTIONS", "SATURATED"):
                assert await bench.read(name) == 0, name
            assert await bench.read("SEED") == 1
            assert await bench.read("SCALE", 0) == 0
            assert not ctx.get(bench.core.o_stream.valid)
            assert not ctx.get(bench.core.i_stream.ready)
            bench.received.clear()
            await bench.program(program)
            bench.to_send += beats
            await bench.command("start")
            await bench.idle()
            assert await bench.status("error") == Error.NONE
            assert len(bench.received) == len(beats)
            cycles.append(await bench.wide("CYCLES") - await bench.read("STALL_IN"))
        assert len(set(cycles)) == 1

    bench.run(script)
