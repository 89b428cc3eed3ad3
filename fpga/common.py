"""Shapes and small pieces that several units share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data

from insitu.arch.isa import FIELDS

#: An instruction's fields, the registers every unit reads while the instruction runs.
FieldsLayout = data.StructLayout(
    {name: signed(f.width) if f.signed else unsigned(f.width) for name, f in FIELDS.items()}
)

#: Bits that are joined between two registers.
GROUP = 8
#: Attributes of a register that synthesis shall leave alone, though another one always holds the same.
KEPT = {"keep": 1}


def lanes(shape: Any, n: int) -> data.ArrayLayout:
    """N values of one shape, lane (or bank) 0 lowest."""
    return data.ArrayLayout(shape, n)


def register(shape: Any = 1, *, name: str | None = None, init: int | None = None) -> Any:
    """A register that no reset clears, for one that reaches everything is the slowest wire of all. What begins
    something is cleared."""
    return Signal(shape, name=name, init=init, reset_less=True, src_loc_at=1)


def delay(m: Module, value: Any, cycles: int, name: str) -> list[Any]:
    """`value` and its copies 1 .. `cycles` cycles later. No reset clears them: what begins a pipeline is held still
    until they have run empty (Sequencer.flush)."""
    out = [value]
    for k in range(cycles):
        late = Signal(value.shape(), name=f"{name}_{k + 1}", reset_less=True)
        m.d.sync += late.eq(out[-1])
        out.append(late)
    return out


def copies(m: Module, value: Any, count: int, name: str) -> list[Any]:
    """`count` registers of `value`, a cycle later, which synthesis does not merge into one: each stands beside what it
    drives, where one register for all would be far from most. No reset clears them."""
    out = []
    for k in range(count):
        copy = Signal(value.shape(), name=f"{name}_{k}", reset_less=True, attrs=KEPT)
        m.d.sync += copy.eq(value)
        out.append(copy)
    return out


def clamped(value: Value, low: int, high: int) -> Value:
    """A signed value limited to [low, high]."""
    return Mux(value < low, Const(low), Mux(value > high, Const(high), value))


class Compared:
    """An unsigned count against constants under `below`, a cycle later: its halves are decoded into registers, so that
    each comparison is one level of logic."""

    def __init__(self, m: Module, count: Value, below: int, name: str) -> None:
        low, high = count[:3], count[3:]
        groups = range((below - 1 >> 3) + 1)
        self._more, self._equal = register(8, name=f"{name}_more"), register(8, name=f"{name}_equal")
        self._beyond, self._here = (
            register(len(groups), name=f"{name}_beyond"),
            register(len(groups), name=f"{name}_here"),
        )
        m.d.sync += [
            self._more.eq(Cat(low > k for k in range(8))),
            self._equal.eq(Cat(low == k for k in range(8))),
            self._beyond.eq(Cat(high > k for k in groups)),
            self._here.eq(Cat(high == k for k in groups)),
        ]

    def above(self, constant: int) -> Value:
        """count > constant"""
        return self._beyond[constant >> 3] | (self._here[constant >> 3] & self._more[constant & 7])

    def equals(self, constant: int) -> Value:
        """count == constant"""
        return self._here[constant >> 3] & self._equal[constant & 7]

    def mask(self, width: int) -> Value:
        """`width` bits, the lowest `count` of them set."""
        return Cat(self.above(bit) for bit in range(width))


def stepped(count: Value, up: Value, down: Value) -> Value:
    """count + up - down, of two flags: both sums are there before the flags are."""
    return Mux(down, Mux(up, count, count - 1), Mux(up, count + 1, count))[: len(count)]


def any_of(values: Sequence[Value]) -> Value:
    """The OR of values, as a tree."""
    level = list(values)
    while len(level) > 1:
        level = [level[k] | level[k + 1] if k + 1 < len(level) else level[k] for k in range(0, len(level), 2)]
    return level[0]


def grouped_any(m: Module, bits: Value, name: str) -> Value:
    """Whether any bit is set, a cycle later, but for the OR of what is returned."""
    groups = register(-(-len(bits) // GROUP), name=name)
    m.d.sync += groups.eq(Cat(bits[k : k + GROUP].any() for k in range(0, len(bits), GROUP)))
    return groups


def count_of(m: Module, flags: Sequence[Value], name: str) -> Value:
    """How many flags are set, two cycles later: a register for those of each few, then their sum."""
    parts: list[Value] = []
    for k in range(0, len(flags), 4):
        some = flags[k : k + 4]
        part = register(range(len(some) + 1), name=f"{name}_{k}")
        m.d.sync += part.eq(sum(some[1:], some[0]))
        parts.append(part)
    total = register(range(len(flags) + 1), name=name)
    m.d.sync += total.eq(sum(parts[1:], parts[0]))
    return total


def bit_length(value: Value) -> Value:
    """The bits that an unsigned value takes, as a tree of log2 depth."""
    if len(value) == 1:
        return value
    half = len(value) // 2
    high = value[half:]
    return Mux(high.any(), bit_length(high) + half, bit_length(value[:half]))
