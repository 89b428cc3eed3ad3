"""Exact integer products, by the fastest way that is provably exact for the widths at hand."""

from __future__ import annotations

from enum import Enum

import numpy as np
import numpy.typing as npt

from insitu.arch.isa import VECTOR, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.numbers import ALIGN_MAX
from insitu.arch.params import CoreParams
from insitu.sim import simd
from insitu.sim.jit import kernel

#: Integers up to this magnitude are exact in the format, and so is every sum that stays below it, in any order.
INT32_EXACT, FLOAT32_EXACT, FLOAT64_EXACT = 1 << 31, 1 << 24, 1 << 53


class Method(Enum):
    """How a product is taken; the value is the dtype of its accumulators."""

    VECTOR = "int32"  #: integer vector code (sim/simd.py, sim/lanewise.py)
    FLOAT32 = "float32"  #: single-precision BLAS
    FLOAT64 = "float64"  #: double-precision BLAS
    STEPWISE = "int64"  #: one addition after another: an accumulator may wrap


def bound(instruction: Instruction, core: CoreParams) -> int:
    """The largest magnitude any partial sum of the pass can reach: its terms * 2**(wa - 1) * 2**(wb - 1)."""
    a = 1 << (core.word_bits(instruction.a.memory) - 1)
    if instruction.opcode is Opcode.ADD:
        return (a << ALIGN_MAX) + a
    if instruction.constant:
        b = instruction.constant
    elif instruction.b.memory is Memory.WGT:
        b = 1 << (instruction.weight_width - 1)
    else:
        b = 1 << (core.word_bits(Memory.ACT) - 1)
    return _terms(instruction) * a * b


def wraps(instruction: Instruction, core: CoreParams) -> bool:
    """Whether an accumulator might overflow."""
    return bound(instruction, core) >= 1 << (core.accumulator_bits - 1)


def _terms(i: Instruction) -> int:
    """The most terms a sum of the pass can have."""
    if i.opcode is Opcode.UPDATE:
        return i.window.out_pixels * i.depth
    if i.opcode is Opcode.DW_UPDATE:
        return i.window.out_pixels * i.rows
    if i.opcode in VECTOR:
        return i.window.taps + i.bias
    return i.window.taps * (i.depth - i.bias) + i.bias


def method(instruction: Instruction, core: CoreParams, *, vector: bool = simd.AVAILABLE) -> Method:
    """The fastest exact method: no sum may round, and none may leave the accumulator. Those of one channel a lane are
    never left to floating point."""
    largest = bound(instruction, core)
    if wraps(instruction, core):
        return Method.STEPWISE
    if instruction.opcode in VECTOR:
        return Method.VECTOR if largest < INT32_EXACT else Method.STEPWISE
    if vector and largest < INT32_EXACT:
        return Method.VECTOR
    if largest <= FLOAT32_EXACT:
        return Method.FLOAT32
    if largest <= FLOAT64_EXACT:
        return Method.FLOAT64
    return Method.STEPWISE


@kernel
def wrapping_product(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64], bits: int, acc: npt.NDArray[np.int64]) -> bool:
    """acc[r, c] = sum_k a[r, k] b[c, k] in `bits`-bit accumulators, k in order; whether any addition wrapped."""
    half = np.int64(1) << (bits - 1)
    low, high = -half, half - 1
    wrapped = False
    for r in range(a.shape[0]):
        for c in range(b.shape[0]):
            total = np.int64(0)
            for k in range(a.shape[1]):
                total += a[r, k] * b[c, k]
                if total < low or total > high:
                    wrapped = True
                    total = ((total - low) & (high - low)) + low
            acc[r, c] = total
    return wrapped
