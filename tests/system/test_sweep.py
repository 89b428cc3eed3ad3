"""Emulator and compiled RTL agree on random students, formats and cores: bits and cycles after every instruction.

`make verify` goes further: 16 bits at N = 8, N = 32, and random cores (tests/sim/sweep.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import chain

import numpy as np
import pytest

from insitu.arch.declaration import ExponentPolicy, Role
from insitu.arch.isa import Opcode
from insitu.arch.layout import Memory
from insitu.arch.numbers import Rounding
from insitu.host.verify import Run, training, verify
from insitu.sim.rtl.compiled import CompiledEngine
from tests.system.sweep_cases import CORES, SweepCase, cases
from tests.system.sweep_students import PARTS


@cache
def engine_of(core_name: str) -> CompiledEngine:
    return CompiledEngine(CORES[core_name][0])


def runs(case: SweepCase) -> Iterator[Run]:
    """Training, inference and the masters read back; then a step whose dL/dlogits the host gives."""
    compiled, (x, targets) = case.compiled(), case.data()
    program = compiled.program
    yield from training(program, compiled.masters, x, targets, steps=case.steps)
    given = next(
        name
        for i in program.entry("train_host")
        if i.opcode is Opcode.LOAD and i.memory is Memory.ERR
        for name, tensor in program.tensors.items()
        if tensor.matrix == i.d
    )
    half = 1 << (program.tensors[given].width - 1)
    error = case.generator.integers(-half, half, (program.batch, case.sizes[-1]))
    sample = program.initial_format("sample").quantise(x[: program.batch].reshape(program.batch, -1))
    yield Run(entry="train_host", values={"sample": sample, given: error})
    yield Run(entry="store_weights", values={})


#: Cores that take longest to compile: part of `make verify`.
SLOW = ("n4-odd", "n8-products", "n8-widest", "n32")
CASES = [pytest.param(case, marks=pytest.mark.slow if case.core_name in SLOW else ()) for case in cases()]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equal(case: SweepCase) -> None:
    stalls = (case.seed + 1, case.stalls) if case.stalls else None
    result = verify(case.compiled().program, runs(case), engine_of(case.core_name), seed=case.seed + 1, stalls=stalls)
    assert result.mismatches == 0, f"seed {case.seed}: {case!r}\n{result.first}"
    assert result.rtl_cycles == result.model_cycles > 0
    assert result.steps == case.steps


def test_the_cases_are_many_and_unlike() -> None:
    """At least 40 that differ in network, array, widths, roundings, exponents or batch; every choice occurs."""
    every = cases()
    assert len({case.what for case in every if case.core_name not in SLOW}) >= 40
    assert {case.core.n for case in every} == {4, 8, 16, 32}
    assert all(case.batch % case.core.n for case in every)
    for role in (Role.MASTER, Role.ACTIVATION, Role.ERROR, Role.GRADIENT):
        assert {case.declaration.role(role).rounding for case in every} == set(Rounding), role
    assert {case.declaration.weight.rounding for case in every} == {Rounding.FLOOR, Rounding.NEAREST}
    for role in (Role.ACTIVATION, Role.ERROR, Role.GRADIENT):
        policies = {case.declaration.role(role).exponent for case in every}
        assert policies == {ExponentPolicy.STATIC, ExponentPolicy.DELAYED}, role
        widths = {case.declaration.role(role).width for case in every}
        assert {2, 16} <= widths, role
        assert len(widths) >= 10, role
    assert set(chain.from_iterable(case.biases for case in every)) == {False, True}
    assert {len(case.sizes) for case in every} == {2, 3, 4}
    assert set(chain.from_iterable(case.parts for case in every)) == set(PARTS)
    codes = {i.opcode for case in every for i in case.compiled().program.instructions}
    assert codes == set(Opcode)
    assert {bool(case.stalls) for case in every} == {False, True}
    moving = [case for case in every if not case.optimizer.plain]
    assert {bool(case.parts) for case in moving} == {False, True}
    assert {case.optimizer.micro_batches for case in moving} == {1, 2, 3}
    for name in ("momentum", "weight_decay"):
        assert len({getattr(case.optimizer, name) for case in moving}) == 3, name
    assert {case.declaration.momentum.rounding for case in moving} == set(Rounding)


def test_a_case_is_its_seed() -> None:
    first, second = cases()[7], cases.__wrapped__()[7]
    assert first == second
    for a, b in zip(first.data(), second.data(), strict=True):
        np.testing.assert_array_equal(a, b)
    masters = first.compiled().masters
    assert all(np.array_equal(masters[name], q) for name, q in second.compiled().masters.items())
