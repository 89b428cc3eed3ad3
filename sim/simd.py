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
#: Rows and columns of a `dot` tile; rows of an `outer` tile, of which one or two vectors of columns fill the registers,
#: and of one for what is left.
_DOT, _OUTER, _FEW = 4, 12, 4

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


def _load(b: _Builder, pointer: _Value, mask: _Value | None, vector: ir.VectorType = _V16) -> _Value:
    """A vector of int16, those outside the mask zero and not touched."""
    place = b.bitcast(pointer, vector.as_pointer())
    if mask is None:
        value = b.load(place)
        value.align = 2
        return value
    name = f"llvm.masked.load.v{vector.count}i16.p0v{vector.count}i16"
    f = _declare(b, name, vector, vector.as_pointer(), _I32, mask.type, vector)
    return b.call(f, [place, ir.Constant(_I32, 2), mask, ir.Constant(vector, None)])


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
_P16, _P32, _P64 = _pointer(types.int16), _pointer(types.int32), _pointer(types.int64)


def _segments(b: _Builder, spans: tuple[_Value, ...], a: _Value, b_: _Value) -> Any:
    """Loop over segments: (A, B) where each begins. spans: offsets in A, offsets in B, their number."""
    a_offsets, b_offsets, count = spans
    with cgutils.for_range_slice(b, _int(0), count, _int(1), intp=_I64) as (s, _):
        yield b.gep(a, [b.load(b.gep(a_offsets, [s]))]), b.gep(b_, [b.load(b.gep(b_offsets, [s]))])


def _dot_tile(rows: int, cols: int) -> Any:
    """C[r, c] = sum_s sum_k A_s[r, k] B_s[c, k] for a tile of `rows` x `cols`, strides in elements."""

    @intrinsic
    def tile(typing, a, a_stride, b_, b_stride, a_offsets, b_offsets, count, c, c_stride, depth):  # type: ignore[no-untyped-def]
        i64 = types.int64
        signature = types.void(_P16, i64, _P16, i64, _P64, _P64, i64, _P32, i64, i64)

        def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
            a, a_stride, b_, b_stride, *spans, c, c_stride, depth = arguments
            sums = _accumulators(b, rows, cols)
            whole = b.and_(depth, _int(-2 * _LANES))
            rest = b.sub(depth, whole)
            some, mask = b.icmp_signed(">", rest, _int(0)), _first(b, rest, 2 * _LANES)
            for x_base, y_base in _segments(b, spans, a, b_):
                left, right = _rows(b, x_base, a_stride, rows), _rows(b, y_base, b_stride, cols)

                def step(k: _Value, mask: _Value | None, left: Any = left, right: Any = right) -> None:
                    x = [b.bitcast(_load(b, b.gep(p, [k]), mask), _V32) for p in left]
                    y = [b.bitcast(_load(b, b.gep(p, [k]), mask), _V32) for p in right]
                    for r in range(rows):
                        for q in range(cols):
                            _multiply(b, sums[r][q], x[r], y[q])

                with cgutils.for_range_slice(b, _int(0), whole, _int(2 * _LANES), intp=_I64) as (k, _):
                    step(k, None)
                with b.if_then(some):
                    step(whole, mask)
            reduce = _declare(b, "llvm.vector.reduce.add.v16i32", _I32, _V32)
            for r, row in enumerate(_rows(b, c, c_stride, rows)):
                for q in range(cols):
                    b.store(b.call(reduce, [b.load(sums[r][q])]), b.gep(row, [_int(q)]))
            return context.get_dummy_value()

        return signature, generate

    return tile


def _outer_tile(rows: int, vectors: int) -> Any:
    """C[r, c] = sum_s sum_k A_s[r, k] B_s[k, c] for a tile of `rows` x at most 16 * `vectors` columns."""
    lanes = _LANES * vectors
    half = ir.VectorType(_I16, lanes)
    # Two rows of B become pairs: b[k, 0], b[k + 1, 0], b[k, 1], ...
    pairs = [
        ir.Constant(
            ir.VectorType(_I32, 2 * _LANES),
            [lane for i in range(v * _LANES, (v + 1) * _LANES) for lane in (i, lanes + i)],
        )
        for v in range(vectors)
    ]

    @intrinsic
    def tile(typing, a, a_stride, b_, b_stride, a_offsets, b_offsets, count, c, c_stride, depth, cols):  # type: ignore[no-untyped-def]
        i64 = types.int64
        signature = types.void(_P16, i64, _P16, i64, _P64, _P64, i64, _P32, i64, i64, i64)

        def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
            a, a_stride, b_, b_stride, *spans, c, c_stride, depth, cols = arguments
            sums = _accumulators(b, rows, vectors)
            mask = _first(b, cols, lanes)
            even = b.and_(depth, _int(-2))
            odd = b.icmp_signed("<", even, depth)
            for x_base, y_base in _segments(b, spans, a, b_):
                left = _rows(b, x_base, a_stride, rows)

                def step(k: _Value, two: bool, left: Any = left, y_base: _Value = y_base) -> None:
                    place = b.gep(y_base, [b.mul(b_stride, k)])
                    first = _load(b, place, mask, half)
                    second = _load(b, b.gep(place, [b_stride]), mask, half) if two else ir.Constant(half, None)
                    y = [b.bitcast(b.shuffle_vector(first, second, pair), _V32) for pair in pairs]
                    for r in range(rows):
                        at = b.gep(left[r], [k])
                        if two:
                            pair = b.load(b.bitcast(at, _I32.as_pointer()))
                            pair.align = 2
                        else:
                            pair = b.zext(b.load(at), _I32)
                        x = _splat(b, pair, _LANES)
                        for q in range(vectors):
                            _multiply(b, sums[r][q], x, y[q])

                with cgutils.for_range_slice(b, _int(0), even, _int(2), intp=_I64) as (k, _):
                    step(k, True)
                with b.if_then(odd):
                    step(even, False)
            for q in range(vectors):
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
_outer_wide, _outer_narrow, _few_wide, _few_narrow, _single_wide, _single_narrow = (
    _outer_tile(r, v) for r in (_OUTER, _FEW, 1) for v in (2, 1)
)

#: Segments of a product: where each begins in A and in B, int64, in elements.
Offsets = npt.NDArray[np.int64]


@kernel
def dot(
    a: Int16,
    a_stride: int,
    b: Int16,
    b_stride: int,
    a_offsets: Offsets,
    b_offsets: Offsets,
    c: Int32,
    c_stride: int,
    rows: int,
    cols: int,
    depth: int,
) -> None:
    """c[r, c] = sum over segments s and k of a[s + r, k] b[s + c, k]: all flat with strides in elements.

    A few rows of `b` stay in cache while those of `a` pass: give it few enough rows that `a` stays there too.
    """
    u, v, count = _at(a_offsets, 0), _at(b_offsets, 0), a_offsets.size
    q = 0
    while q < cols:
        r = 0
        wide = cols - q >= _DOT
        while r < rows:
            tall = rows - r >= _DOT
            x, y, z = _at(a, r * a_stride), _at(b, q * b_stride), _at(c, r * c_stride + q)
            if tall and wide:
                _dot_square(x, a_stride, y, b_stride, u, v, count, z, c_stride, depth)
            elif tall:
                _dot_column(x, a_stride, y, b_stride, u, v, count, z, c_stride, depth)
            elif wide:
                _dot_row(x, a_stride, y, b_stride, u, v, count, z, c_stride, depth)
            else:
                _dot_single(x, a_stride, y, b_stride, u, v, count, z, c_stride, depth)
            r += _DOT if tall else 1
        q += _DOT if wide else 1


@kernel
def outer(
    a: Int16,
    a_stride: int,
    b: Int16,
    b_stride: int,
    a_offsets: Offsets,
    b_offsets: Offsets,
    c: Int32,
    c_stride: int,
    rows: int,
    cols: int,
    depth: int,
) -> None:
    """c[r, c] = sum over segments s and k of a[s + r, k] b[s + k, c]: all flat with strides in elements."""
    u, v, count = _at(a_offsets, 0), _at(b_offsets, 0), a_offsets.size
    for q in range(0, cols, 2 * _LANES):
        width = min(2 * _LANES, cols - q)
        r = 0
        while r < rows:
            x, y, z = _at(a, r * a_stride), _at(b, q), _at(c, r * c_stride + q)
            tall, few, wide = rows - r >= _OUTER, rows - r >= _FEW, width > _LANES
            if tall and wide:
                _outer_wide(x, a_stride, y, b_stride, u, v, count, z, c_stride, depth, width)
            elif tall:
                _outer_narrow(x, a_stride, y, b_stride, u, v, count, z, c_stride, depth, width)
            elif few and wide:
                _few_wide(x, a_stride, y, b_stride, u, v, count, z, c_stride, depth, width)
            elif few:
                _few_narrow(x, a_stride, y, b_stride, u, v, count, z, c_stride, depth, width)
            elif wide:
                _single_wide(x, a_stride, y, b_stride, u, v, count, z, c_stride, depth, width)
            else:
                _single_narrow(x, a_stride, y, b_stride, u, v, count, z, c_stride, depth, width)
            r += _OUTER if tall else _FEW if few else 1
