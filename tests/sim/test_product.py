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


def lanewise(opcode: Opcode, count: int, bits: int) -> Instruction:
    """A vector pass of COLS sums of `count` terms, at most 16."""
    values: dict[str, Any] = {"opcode": opcode, "rows": 1, "cols": COLS, "width": bits}
    values |= dict.fromkeys(("a_pitch", "b_pitch", "d_pitch"), 2) | {"b_base": 128, "d_base": 256}
    values |= {
        Opcode.DW_FORWARD: {"map_height": count, "kernel_height": count, "weight_width": bits},
        # Every output pixel meets the one map pixel, each with a tap of its own.
        Opcode.DW_BACKWARD: {"out_width": count, "kernel_width": count, "pad_width": count - 1, "weight_width": bits},
        Opcode.DW_UPDATE: {"rows": count, "master_width": 32},
        Opcode.REDUCE: {"map_width": count},
        Opcode.MULTIPLY: {},
    }[opcode]
    return Instruction(**values)


LANEWISE = [
    (opcode, count)
    for opcode in (Opcode.DW_FORWARD, Opcode.DW_BACKWARD, Opcode.DW_UPDATE, Opcode.REDUCE)
    for count in (1, 2, 3, 16)
]


@pytest.mark.parametrize(("opcode", "count"), [*LANEWISE, (Opcode.MULTIPLY, 1)])
@pytest.mark.parametrize(("bits", "accumulator"), [(16, 48), (16, 33), (16, 32), (16, 20), (8, 32), (8, 19), (8, 15)])
@pytest.mark.parametrize("statistics", [True, False])
def test_sums_of_a_lane_are_exact_or_wrap(
    opcode: Opcode, count: int, bits: int, accumulator: int, statistics: bool
) -> None:
    """As large as they come, next to the ends of int32 and of the accumulator on either side."""
    i, low = lanewise(opcode, count, bits), -(1 << (bits - 1))
    machine = Machine(core(bits, accumulator))
    assert bound(i, machine.core) == count * low * low
    leaves = count * low * low >= 1 << (accumulator - 1)
    narrow = not leaves and count * low * low < 1 << 31
    assert method(i, machine.core) is (Method.VECTOR if narrow else Method.STEPWISE)
    a, b = np.full((count, COLS), low, np.int64), np.full((count, COLS), low, np.int64)
    a[-1, 2], b[0, 3], a[:, 4] = low + 1, -low - 1, -low - 1
    mine, theirs = machine.view(i.a), machine.view(i.b)
    mine[:], theirs[:] = a, b[::-1] if opcode is Opcode.DW_BACKWARD else b
    machine.changed()
    step = prepare(machine, i)
    step.run(BeatStream(4), BeatStream(4), Statistics() if statistics else None)
    half, sums = 1 << (accumulator - 1), (a * b).sum(axis=0)
    if statistics:
        got = step.accumulators[0, :COLS]  # type: ignore[attr-defined]
        np.testing.assert_array_equal(got, (sums + half) % (2 * half) - half)
    elif opcode is not Opcode.DW_UPDATE:
        wrapped = (sums + half) % (2 * half) - half
        np.testing.assert_array_equal(machine.view(i.d)[0], np.clip(wrapped, low, -low - 1))
    assert machine.accumulator_overflow == leaves


def test_a_sum_of_a_lane_that_leaves_and_comes_back_sets_the_flag() -> None:
    i, machine = lanewise(Opcode.REDUCE, 4, 8), Machine(core(8, 15))
    machine.view(i.a)[:], machine.view(i.b)[:] = 127, np.array([127, 127, -127, -127])[:, None]
    prepare(machine, i).run(BeatStream(4), BeatStream(4), None)
    assert not machine.view(i.d).any()
    assert machine.accumulator_overflow


@pytest.mark.parametrize(("apart", "exact"), [(14, True), (-14, True), (15, False), (-15, False)])
def test_addends_are_aligned_as_far_as_a_factor_goes(apart: int, exact: bool) -> None:
    """ADD of the widest words of exponents `apart`, the coarser one's rounded away at the finer's where it fits."""
    i = Instruction(
        opcode=Opcode.ADD, rows=1, cols=4, width=16, a_pitch=1, b_base=1, b_pitch=1, d_base=2, d_pitch=1,
        sa=1, sb=2, sd=3,
    )  # fmt: skip
    machine = Machine(core(16, 48))
    machine.scales[1][0], machine.scales[2][0] = max(0, apart), max(0, -apart)
    machine.scales[3][0] = abs(apart)
    a, b = np.array([-32768, 32767, 1, 0]), np.array([1, 32767, -32768, 16384])
    machine.view(i.a)[:], machine.view(i.b)[:] = a, b
    prepare(machine, i).run(BeatStream(4), BeatStream(4), None)
    coarse, fine = (a, b) if apart > 0 else (b, a)
    total = coarse + (fine >> abs(apart) if exact else 0)  # floor: narrowing drops what lies below
    np.testing.assert_array_equal(machine.view(i.d)[0], np.clip(total, -32768, 32767))
    assert not machine.accumulator_overflow
