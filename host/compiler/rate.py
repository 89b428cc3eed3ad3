"""Learning rates as the device has them: m * 2**-k, m a small integer."""

from __future__ import annotations

import math
from dataclasses import replace

from insitu.arch.isa import FIELDS, UPDATES
from insitu.arch.program import Program
from insitu.host.errors import CompileError

MUL_BITS, SHIFT_MAX = FIELDS["lr_mul"].width, FIELDS["lr_shift"].maximum


def encode(rate: float) -> tuple[int, int]:
    """The (m, k) nearest to a rate, m as wide as its field allows. Raises CompileError outside what they can say."""
    if not math.isfinite(rate) or rate < 0:
        raise CompileError(f"learning rate {rate!r}: must be finite and not negative")
    if rate == 0:
        return 0, 0
    mantissa, exponent = math.frexp(rate)
    m, k = round(math.ldexp(mantissa, MUL_BITS)), MUL_BITS - exponent
    if m == 1 << MUL_BITS:
        m, k = m >> 1, k - 1
    if k > SHIFT_MAX:
        m, k = round(math.ldexp(rate, SHIFT_MAX)), SHIFT_MAX
    while k < 0 and m << 1 < 1 << MUL_BITS:
        m, k = m << 1, k + 1
    if k < 0 or m == 0:
        raise CompileError(
            f"learning rate {rate!r} a sample: the device has 2**-{SHIFT_MAX} to {(1 << MUL_BITS) - 1}, or 0"
        )
    return m, k


def decode(m: int, k: int) -> float:
    """The rate that (m, k) stand for."""
    return math.ldexp(m, -k)


def with_learning_rate(program: Program, learning_rate: float) -> Program:
    """The same program with another learning rate (of the mean loss over its batch) in every update."""
    m, k = encode(learning_rate / program.batch)
    words = tuple(replace(i, lr_mul=m, lr_shift=k) if i.opcode in UPDATES else i for i in program.instructions)
    return replace(program, instructions=words)
