"""Products: the method is chosen at the last exact depth, and an accumulator wraps where the device's does."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.params import CoreParams
from insitu.sim.machine import Machine
from insitu.sim.passes import prepare
from insitu.sim.product import FLOAT32_EXACT, FLOAT64_EXACT, Method, bound, method
from insitu.sim.statistics import Statistics
from insitu.sim.stream import BeatStream

ROWS, COLS = 3, 5
Matrix = npt.NDArray[np.int64]


def core(bits: int, accumulator: int) -> CoreParams:
    widths: dict[str, Any] = dict.fromkeys(
        ("weight_bits", "activation_bits", "error_bits", "gradient_bits", "target_bits"), bits
    )
    depths = dict.fromkeys(("act_depth", "err_depth", "wgt_depth"), 1 << 13)
    return CoreParams(n=4, master_bits=32, accumulator_bits=accumulator, **widths, **depths)


def product(opcode: Opcode, depth: int, bits: int) -> Instruction:
    """A pass of ROWS x COLS sums of `depth` terms."""
    values: dict[str, Any] = {"opcode": opcode, "rows": ROWS, "cols": COLS, "depth": depth, "width": bits}
    wide, narrow = -(-depth // 4), 2
    values |= {
        Opcode.FORWARD: {"a_pitch": wide, "b_pitch": wide, "weight_width": bits},
        Opcode.BACKWARD: {"a_pitch": wide, "b_pitch": narrow, "weight_width": bits, "d_base": ROWS * wide},
        Opcode.UPDATE: {"a_pitch": narrow, "b_pitch": narrow, "master_width": 32},
    }[opcode]
    return Instruction(d_pitch=narrow, **({"d_base": ROWS * wide} | values if opcode is Opcode.FORWARD else values))


def terms(opcode: Opcode, a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    """Operands as (a [ROWS, depth], b [depth, COLS])."""
    return (a.T if opcode is Opcode.UPDATE else a), (b.T if opcode is Opcode.FORWARD else b)


def run(machine: Machine, i: Instruction, a: Matrix, b: Matrix) -> Matrix:
    """The accumulators of a pass over a [ROWS, depth] and b [depth, COLS]."""
    mine, theirs = terms(i.opcode, a, b)
    machine.view(i.a)[:], machine.view(i.b)[:] = mine, theirs
    machine.changed()
    step = prepare(machine, i)
    step.run(BeatStream(4), BeatStream(4), Statistics())  # with statistics accumulators are all kept
    sums = step.accumulators[:, : i.cols]  # type: ignore[attr-defined]
    return np.asarray(sums, dtype=np.float64).astype(np.int64)


def extremes(depth: int, bits: int) -> tuple[Matrix, Matrix]:
    """Operands whose sums are as large as they come, and others that are odd close by."""
    low = -(1 << (bits - 1))
    a, b = np.full((ROWS, depth), low, np.int64), np.full((depth, COLS), low, np.int64)
    a[1, -1] = b[-1, 2] = low + 1
    a[2] = -low - 1
    return a, b


@pytest.mark.parametrize("opcode", [Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE])
@pytest.mark.parametrize(("bits", "last"), [(8, 1024), (10, 64), (12, 4)])
def test_single_precision_ends_at_its_last_exact_depth(opcode: Opcode, bits: int, last: int) -> None:
    assert bound(product(opcode, last, bits), core(bits, 48)) == FLOAT32_EXACT
    assert method(product(opcode, last, bits), core(bits, 48), vector=False) is Method.FLOAT32
    assert method(product(opcode, last + 1, bits), core(bits, 48), vector=False) is Method.FLOAT64


def test_the_deepest_pass_is_exact_in_double_precision() -> None:
    deepest = product(Opcode.UPDATE, (1 << 16) - 1, 16)
    assert bound(deepest, core(16, 48)) < FLOAT64_EXACT
    assert method(deepest, core(16, 48), vector=False) is Method.FLOAT64


@pytest.mark.parametrize("opcode", [Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE])
def test_what_may_leave_the_accumulator_is_taken_in_steps(opcode: Opcode) -> None:
    # 2**(20 - 1) is reached by 32 products of 2**14.
    for vector in (False, True):
        assert method(product(opcode, 31, 8), core(8, 20), vector=vector) is not Method.STEPWISE
        assert method(product(opcode, 32, 8), core(8, 20), vector=vector) is Method.STEPWISE


@pytest.mark.parametrize("opcode", [Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE])
def test_vector_code_ends_below_its_accumulators(opcode: Opcode) -> None:
    assert method(product(opcode, 1, 16), core(16, 48), vector=True) is Method.VECTOR
    assert method(product(opcode, 2, 16), core(16, 48), vector=True) is not Method.VECTOR


@pytest.mark.parametrize("opcode", [Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE])
@pytest.mark.parametrize(("bits", "depth"), [(8, 1023), (8, 1024), (8, 1025), (16, 1), (16, 2), (16, 3), (12, 5)])
def test_sums_are_exact_on_either_side(opcode: Opcode, bits: int, depth: int) -> None:
    a, b = extremes(depth, bits)
    machine = Machine(core(bits, 48))
    np.testing.assert_array_equal(run(machine, product(opcode, depth, bits), a, b), a @ b)
    assert not machine.accumulator_overflow


@pytest.mark.parametrize("opcode", [Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE])
def test_accumulators_wrap_and_the_flag_sticks(opcode: Opcode) -> None:
    depth, bits, accumulator = 40, 8, 20
    machine = Machine(core(bits, accumulator))
    small = np.ones((ROWS, depth), np.int64), np.ones((depth, COLS), np.int64)
    np.testing.assert_array_equal(run(machine, product(opcode, depth, bits), *small), depth)
    assert not machine.accumulator_overflow
    a, b = extremes(depth, bits)
    half = 1 << (accumulator - 1)
    wrapped = (a @ b + half) % (2 * half) - half
    assert (wrapped != a @ b).any()
    np.testing.assert_array_equal(run(machine, product(opcode, depth, bits), a, b), wrapped)
    assert machine.accumulator_overflow
    run(machine, product(opcode, depth, bits), *small)
    assert machine.accumulator_overflow


def test_a_sum_that_leaves_and_comes_back_sets_the_flag() -> None:
    depth, machine = 66, Machine(core(8, 20))
    a, b = np.full((ROWS, depth), 127), np.full((depth, COLS), 127)
    b[depth // 2 :] = -127
    np.testing.assert_array_equal(run(machine, product(Opcode.FORWARD, depth, 8), a, b), 0)
    assert machine.accumulator_overflow
