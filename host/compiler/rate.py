"""Rates as the device has them: m * 2**-k, m a small integer; a momentum in 1/256."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from insitu.arch.isa import FIELDS, MOMENTUM_ONE, UPDATES
from insitu.arch.optimizer import Optimizer
from insitu.arch.program import Program
from insitu.host.errors import CompileError

MUL_BITS, SHIFT_MAX = FIELDS["lr_mul"].width, FIELDS["lr_shift"].maximum


def encode(rate: float) -> tuple[int, int]:
    """The (m, k) nearest to a rate, m as wide as its field allows. Raises CompileError outside what they can say."""
    if not math.isfinite(rate) or rate < 0:
        raise CompileError(f"learning rate {rate!r}: must be finite and not negative")
    if rate == 0:
        return 0, 0
    m, k = _nearest(rate, MUL_BITS, SHIFT_MAX)
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


def encode_decay(share: float) -> tuple[int, int]:
    """The (m, k) nearest to the share that a master decays by in a step; m is 0 where that is none of the device's.
    Raises CompileError for a share of 1 or more."""
    if not 0 <= share < 1:
        raise CompileError(f"learning rate times weight decay is {share:g}: must be at least 0 and below 1")
    m, k = _nearest(share, FIELDS["decay_mul"].width, FIELDS["decay_shift"].maximum)
    return (m, k) if m else (0, 0)


def _nearest(value: float, bits: int, most: int) -> tuple[int, int]:
    """The (m, k) whose m * 2**-k is nearest to a value, m of `bits` bits, k at most `most`."""
    mantissa, exponent = math.frexp(value)
    m, k = round(math.ldexp(mantissa, bits)), bits - exponent
    if m == 1 << bits:
        m, k = m >> 1, k - 1
    if k > most:
        m, k = round(math.ldexp(value, most)), most
    return m, k


def encode_momentum(momentum: float) -> int:
    """The 1/256 nearest to a momentum. Raises CompileError where that is none, or all, of a velocity."""
    m = round(momentum * MOMENTUM_ONE)
    if momentum and not 0 < m < MOMENTUM_ONE:
        top = (MOMENTUM_ONE - 1) / MOMENTUM_ONE
        raise CompileError(f"momentum {momentum!r}: the device has {1 / MOMENTUM_ONE:.4f} to {top:.4f}, or 0")
    return m


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What an update's words say of a step. gradient, decay: (m, k) of m * 2**-k, of a sample's gradient and of a
    master; momentum: in 1/256."""

    gradient: tuple[int, int]
    decay: tuple[int, int]
    momentum: int

    @classmethod
    def of(cls, learning_rate: float, batch: int, optimizer: Optimizer) -> Rates:
        """The rates of a learning rate of the mean loss over the parts, of `batch` samples each, of a step."""
        return cls(
            gradient=encode(learning_rate / (batch * optimizer.micro_batches)),
            decay=encode_decay(learning_rate * optimizer.weight_decay),
            momentum=encode_momentum(optimizer.momentum),
        )


def with_learning_rate(program: Program, learning_rate: float) -> Program:
    """The same program with another learning rate, of the mean loss over the samples of a step, in every update.
    Masters decay by it too, by nothing where that is less than the device has. Velocities keep their units."""
    rates = Rates.of(learning_rate, program.batch, program.optimizer)
    (m, k), (decay, by) = rates.gradient, rates.decay
    words = tuple(
        replace(i, lr_mul=m, lr_shift=k, decay_mul=decay, decay_shift=by) if i.opcode in UPDATES else i
        for i in program.instructions
    )
    return replace(program, instructions=words)
