"""Integer products in vector code: int16 x int16 -> int32, 64 multiply-accumulates an instruction (AVX-512 VNNI).

numba has no vector type, so the innermost tiles are written as LLVM instructions: accumulators stay in registers, a
product of two pairs is one `vpdpwssd`. Two shapes serve all passes: `dot` where both operands run along the sum
(forward), `outer` where the right one runs across it (backward, update). Sums wrap modulo 2**32: the caller sees that
none gets there.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from insitu.sim.jit import kernel

_FEATURES = llvm.get_host_cpu_features()
#: Whether this machine has the instructions; elsewhere products go through floating point (sim/product.py).
AVAILABLE = bool(_FEATURES.get("avx512vnni") and _FEATURES.get("avx512bw"))

Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]

_I1, _I16, _I32, _I64 = ir.IntType(1), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_LANES = 16  # of int32
_V32, _V16 = ir.VectorType(_I32, _LANES), ir.VectorType(_I16, 2 * _LANES)
#: Rows and columns of a `dot` tile; rows of an `outer` tile, whose columns are two vectors. Both fill the registers.
_DOT, _OUTER = 4, 12

_Builder = Any
_Value = Any
_alloca: Any = cgutils.alloca_once


def _int(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _declare(b: _Builder, name: str, result: ir.Type, *arguments: ir.Type) -> _Value:
    insert: Any = cgutils.get_or_insert_function
    return insert(b.module, ir.FunctionType(result, arguments), name)


def _splat(b: _Builder, value: _Value, lanes: int) -> _Value:
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = b.insert_element(undefined, value, ir.Constant(_I32, 0))
    return b.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _first(b: _Builder, count: _Value, lanes: int) -> _Value:
    """A mask of the first `count` lanes."""
    index = ir.Constant(ir.VectorType(_I64, lanes), list(range(lanes)))
    return b.icmp_signed("<", index, _splat(b, count, lanes))


def _load(b: _Builder, pointer: _Value, mask: _Value | None) -> _Value:
    """32 int16, those outside the mask zero and not touched."""
    place = b.bitcast(pointer, _V16.as_pointer())
    if mask is None:
        value = b.load(place)
        value.align = 2
        return value
    f = _declare(b, "llvm.masked.load.v32i16.p0v32i16", _V16, _V16.as_pointer(), _I32, mask.type, _V16)
    return b.call(f, [place, ir.Constant(_I32, 2), mask, ir.Constant(_V16, None)])


def _multiply(b: _Builder, accumulator: _Value, x: _Value, y: _Value) -> None:
    """accumulator += pairs of x * pairs of y."""
    f = _declare(b, "llvm.x86.avx512.vpdpwssd.512", _V32, _V32, _V32, _V32)
    b.store(b.call(f, [b.load(accumulator), x, y]), accumulator)


def _accumulators(b: _Builder, rows: int, cols: int) -> list[list[_Value]]:
    """Zeroed accumulators; LLVM keeps them in registers."""
    found = [[_alloca(b, _V32) for _ in range(cols)] for _ in range(rows)]
    for row in found:
        for place in row:
            b.store(ir.Constant(_V32, None), place)
    return found


def _rows(b: _Builder, base: _Value, stride: _Value, count: int) -> list[_Value]:
    return [b.gep(base, [b.mul(stride, _int(r))]) for r in range(count)]


_pointer: Any = types.CPointer
_P16, _P32 = _pointer(types.int16), _pointer(types.int32)


def _dot_tile(rows: int, cols: int) -> Any:
    """C[r, c] = sum_k A[r, k] B[c, k] for a tile of `rows` x `cols`, strides in elements."""

    @intrinsic
    def tile(typing, a, a_stride, b_, b_stride, c, c_stride, depth):  # type: ignore[no-untyped-def]
        signature = types.void(_P16, types.int64, _P16, types.int64, _P32, types.int64, types.int64)

        def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
            a, a_stride, b_, b_stride, c, c_stride, depth = arguments
            sums = _accumulators(b, rows, cols)
            left, right = _rows(b, a, a_stride, rows), _rows(b, b_, b_stride, cols)
            whole = b.and_(depth, _int(-2 * _LANES))

            def step(k: _Value, mask: _Value | None) -> None:
                x = [b.bitcast(_load(b, b.gep(p, [k]), mask), _V32) for p in left]
                y = [b.bitcast(_load(b, b.gep(p, [k]), mask), _V32) for p in right]
                for r in range(rows):
                    for q in range(cols):
                        _multiply(b, sums[r][q], x[r], y[q])

            with cgutils.for_range_slice(b, _int(0), whole, _int(2 * _LANES), intp=_I64) as (k, _):
                step(k, None)
            rest = b.sub(depth, whole)
            with b.if_then(b.icmp_signed(">", rest, _int(0))):
                step(whole, _first(b, rest, 2 * _LANES))
            reduce = _declare(b, "llvm.vector.reduce.add.v16i32", _I32, _V32)
            for r, row in enumerate(_rows(b, c, c_stride, rows)):
                for q in range(cols):
                    b.store(b.call(reduce, [b.load(sums[r][q])]), b.gep(row, [_int(q)]))
            return context.get_dummy_value()

        return signature, generate

    return tile


def _outer_tile(rows: int) -> Any:
    """C[r, c] = sum_k A[r, k] B[k, c] for a tile of `rows` x at most 32 columns, strides in elements."""

    @intrinsic
    def tile(typing, a, a_stride, b_, b_stride, c, c_stride, depth, cols):  # type: ignore[no-untyped-def]
        signature = types.void(_P16, types.int64, _P16, types.int64, _P32, types.int64, types.int64, types.int64)

        def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
            a, a_stride, b_, b_stride, c, c_stride, depth, cols = arguments
            sums, left = _accumulators(b, rows, 2), _rows(b, a, a_stride, rows)
            mask = _first(b, cols, 2 * _LANES)
            # Two rows of B become pairs: b[k, 0], b[k + 1, 0], b[k, 1], ...
            halves = [
                ir.Constant(ir.VectorType(_I32, 2 * _LANES), [lane for i in half for lane in (i, 2 * _LANES + i)])
                for half in (range(_LANES), range(_LANES, 2 * _LANES))
            ]
            even = b.and_(depth, _int(-2))

            def step(k: _Value, two: bool) -> None:
                place = b.gep(b_, [b.mul(b_stride, k)])
                first = _load(b, place, mask)
                second = _load(b, b.gep(place, [b_stride]), mask) if two else ir.Constant(_V16, None)
                y = [b.bitcast(b.shuffle_vector(first, second, half), _V32) for half in halves]
                for r in range(rows):
                    at = b.gep(left[r], [k])
                    if two:
                        pair = b.load(b.bitcast(at, _I32.as_pointer()))
                        pair.align = 2
                    else:
                        pair = b.zext(b.load(at), _I32)
                    x = _splat(b, pair, _LANES)
                    for q in range(2):
                        _multiply(b, sums[r][q], x, y[q])

            with cgutils.for_range_slice(b, _int(0), even, _int(2), intp=_I64) as (k, _):
                step(k, True)
            with b.if_then(b.icmp_signed("<", even, depth)):
                step(even, False)
            for q in range(2):
                valid = _first(b, b.sub(cols, _int(q * _LANES)), _LANES)
                store = _declare(
                    b, "llvm.masked.store.v16i32.p0v16i32", ir.VoidType(), _V32, _V32.as_pointer(), _I32, valid.type
                )
                for r, row in enumerate(_rows(b, c, c_stride, rows)):
                    place = b.bitcast(b.gep(row, [_int(q * _LANES)]), _V32.as_pointer())
                    b.call(store, [b.load(sums[r][q]), place, ir.Constant(_I32, 4), valid])
            return context.get_dummy_value()

        return signature, generate

    return tile


@intrinsic
def _element(typing, array, index):  # type: ignore[no-untyped-def]
    """A pointer to an element of a flat array."""

    def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, b, arguments[0]).data
        return b.gep(data, [arguments[1]])

    return _pointer(array.dtype)(array, types.int64), generate


_at: Any = _element
_dot_square, _dot_row, _dot_column, _dot_single = (
    _dot_tile(r, c) for r, c in ((_DOT, _DOT), (1, _DOT), (_DOT, 1), (1, 1))
)
_outer_rows, _outer_single = _outer_tile(_OUTER), _outer_tile(1)


@kernel
def dot(a: Int16, a_stride: int, b: Int16, b_stride: int, c: Int32, rows: int, cols: int, depth: int) -> None:
    """c[r, c] = sum_k a[r, k] b[c, k]: a and b flat with strides in elements, c flat [rows * cols].

    A few rows of `b` stay in cache while those of `a` pass: give it few enough rows that `a` stays there too.
    """
    q = 0
    while q < cols:
        r = 0
        wide = cols - q >= _DOT
        while r < rows:
            tall = rows - r >= _DOT
            x, y, z = _at(a, r * a_stride), _at(b, q * b_stride), _at(c, r * cols + q)
            if tall and wide:
                _dot_square(x, a_stride, y, b_stride, z, cols, depth)
            elif tall:
                _dot_column(x, a_stride, y, b_stride, z, cols, depth)
            elif wide:
                _dot_row(x, a_stride, y, b_stride, z, cols, depth)
            else:
                _dot_single(x, a_stride, y, b_stride, z, cols, depth)
            r += _DOT if tall else 1
        q += _DOT if wide else 1


@kernel
def outer(
    a: Int16, a_stride: int, b: Int16, b_stride: int, c: Int32, c_stride: int, rows: int, cols: int, depth: int
) -> None:
    """c[r, c] = sum_k a[r, k] b[k, c]: all flat with strides in elements."""
    for q in range(0, cols, 2 * _LANES):
        width = min(2 * _LANES, cols - q)
        r = 0
        while r < rows:
            x, y, z = _at(a, r * a_stride), _at(b, q), _at(c, r * c_stride + q)
            if rows - r >= _OUTER:
                _outer_rows(x, a_stride, y, b_stride, z, c_stride, depth, width)
                r += _OUTER
            else:
                _outer_single(x, a_stride, y, b_stride, z, c_stride, depth, width)
                r += 1
