"""The core's compiled RTL against the emulator: random instructions and training steps on a few cores of odd shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy, integers

from insitu.arch.isa import Opcode, assemble
from insitu.arch.params import CoreParams
from insitu.arch.registers import REGISTERS
from insitu.sim.emulator import Emulator
from insitu.sim.rtl.compiled import CompiledEngine
from insitu.sim.rtl.engine import Until
from insitu.sim.rtl.lockstep import Lockstep
from tests.reference.strategies import Case, convolution_sequences, moves, pass_instructions, train_sequences
from tests.reference.vector_strategies import depthwise_sequences, vector_instructions, vector_sequences
from tests.system.sweep_cases import CORES as SWEPT

#: Cores of the sweep, which are compiled already, and one with memories so small that operands meet their ends.
CORES = {name: SWEPT[name][0] for name in ("n4-widest", "n8-odd")} | {
    "n4-small": CoreParams(
        n=4,
        weight_bits=3,
        master_bits=7,
        activation_bits=9,
        gradient_bits=6,
        momentum_bits=11,
        accumulator_bits=18,
        target_bits=3,
        vector=0,
        act_depth=160,
        err_depth=128,
        wgt_depth=144,
        tab_depth=72,
        program_depth=64,
    )
}


@pytest.fixture(scope="module", params=list(CORES))
def engine(request: pytest.FixtureRequest) -> Iterator[CompiledEngine]:
    made = CompiledEngine(CORES[request.param])
    yield made
    made.close()


def check(engine: CompiledEngine, case: Case, *, stalls: bool = False) -> None:
    """Run the case on both, from a reset; everything is equal after every instruction."""
    engine.reset()
    compare(engine, case, stalls=stalls)


def compare(engine: CompiledEngine, case: Case, *, stalls: bool = False) -> None:
    """Run the case on both; everything is equal after every instruction."""
    engine.stall(case.seed, **({"send": 0.4, "receive": 0.4, "bus": 0.2} if stalls else {}))
    emulator = Emulator(case.core)
    for memory, image in case.memories.items():
        emulator.set_image(memory, image)
    emulator.scales[:] = [list(pair) for pair in case.scales]
    emulator.seed = case.seed
    lockstep = Lockstep(emulator, engine, stalls_expected=stalls)
    lockstep.load(assemble(case.instructions))
    taken = 0
    for index, instruction in enumerate(case.instructions):
        load = instruction.opcode is Opcode.LOAD
        needed = instruction.d.rows * instruction.d.row_words(case.core.n) if load else 0
        report = lockstep.step(index, case.stream_in[taken : taken + needed] if load else None)
        assert not report.count, str(report)
        taken += needed


def explore(cases: int) -> settings:
    return settings(
        max_examples=cases,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.mark.parametrize(
    ("strategy", "cases", "unit"),
    [
        (partial(pass_instructions, exact=False), 150, ""),
        (partial(train_sequences, exact=False), 40, ""),
        (partial(convolution_sequences, exact=False), 40, "windows"),
        (moves, 60, ""),
        (partial(vector_instructions, exact=False), 150, "vector"),
        (partial(vector_sequences, exact=False), 40, "vector"),
        (partial(depthwise_sequences, exact=False), 40, "vector"),
    ],
)
def test_equals_the_emulator(
    engine: CompiledEngine, strategy: Callable[..., SearchStrategy[Case]], cases: int, unit: str
) -> None:
    if unit and not getattr(engine.core, unit):
        pytest.skip(f"this core has {unit}=0")

    @explore(cases)
    @given(strategy(engine.core))
    def run(case: Case) -> None:
        check(engine, case)

    run()


def test_stalls_change_nothing(engine: CompiledEngine) -> None:
    @explore(15)
    @given(train_sequences(engine.core, exact=False))
    def run(case: Case) -> None:
        check(engine, case, stalls=True)

    run()


def test_an_abort_at_any_moment_leaves_nothing_under_way(engine: CompiledEngine) -> None:
    control = REGISTERS["CONTROL"]

    @explore(60)
    @given(train_sequences(engine.core, exact=False), integers(1, 1500))
    def run(case: Case, moment: int) -> None:
        engine.reset()
        emulator = Emulator(case.core)
        for memory, image in case.memories.items():
            emulator.set_image(memory, image)
        Lockstep(emulator, engine).load(assemble(case.instructions))
        engine.push(case.stream_in)
        engine.write(REGISTERS["ENTRY"].offset, 0)
        engine.write(control.offset, control.fields["start"].put(1))
        engine.run(Until.IDLE, moment)
        engine.write(control.offset, control.fields["abort"].put(1))
        assert engine.run(Until.IDLE, 10)
        engine.drop()
        compare(engine, case)

    run()
