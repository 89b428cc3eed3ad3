"""The rounding shift of docs/arithmetic.md: a right shift with four roundings, or a left shift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.numbers import RANDOM_BITS, Rounding
from insitu.fpga.common import Compared, copies, grouped_any, register


@dataclass(frozen=True)
class ShiftShape:
    """A rounding shift of numbers of `bits` bits by -left to right, whose result is fitted into `out` bits or less."""

    bits: int
    left: int
    right: int
    out: int

    @property
    def inner(self) -> int:
        """Bits of the sum that rounding makes."""
        return max(self.bits, self.right) + 2

    @property
    def half(self) -> int:
        """Bits of the larger half of what is cut."""
        return self.right - self.right // 2


class ShiftLayout(data.StructLayout):
    """What all lanes' `RoundShift` share, derived from a shift s and a rounding by `ShiftControl`.

    pseudo: that rounding. shift: s + left. halve: s // 2; odd: s mod 2. mask, with stochastic rounding: the s low bits;
    half, one, with nearest: the s - 1 low bits, bit s; else zero. low: the s // 2 low bits, high: the s - s // 2 low
    bits. above: from bit s + out on. more: bits that s exceeds the generator's width by.
    """

    def __init__(self, shape: ShiftShape) -> None:
        right = shape.right
        super().__init__(
            {
                "pseudo": unsigned(1),
                "shift": unsigned((right + shape.left).bit_length()),
                "halve": unsigned((right // 2).bit_length()),
                "odd": unsigned(1),
                "mask": unsigned(right),
                "half": unsigned(right),
                "one": unsigned(right + 1),
                "low": unsigned(right // 2),
                "high": unsigned(shape.half),
                "above": unsigned(shape.inner),
                "more": unsigned(max(1, (right - RANDOM_BITS).bit_length() if right > RANDOM_BITS else 1)),
            }
        )


class ShiftControl(wiring.Component):
    """`ShiftLayout` from a shift in [-left, right] and a rounding. LATENCY cycles; static while an instruction runs."""

    LATENCY = 5

    def __init__(self, shape: ShiftShape) -> None:
        self.shape = shape
        super().__init__({"shift": In(signed(7)), "rounding": In(2), "o": Out(ShiftLayout(shape))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        left, right, o = self.shape.left, self.shape.right, register(self.o.shape())
        m.d.comb += self.o.eq(o)
        shift = register(signed(7))
        cut, raised = register(6), register(6)
        below, s, half, rest, whole = register(6), register(6), register(6), register(6), register(6)
        m.d.sync += [
            shift.eq(self.shift),
            cut.eq(Mux(shift > 0, shift[:6], 0)),
            raised.eq(shift + left),
            s.eq(cut),
            below.eq(Mux(cut == 0, 0, cut - 1)),
            half.eq(cut >> 1),
            rest.eq((cut + 1) >> 1),
            whole.eq(raised),
        ]
        at, under, lower, upper = (
            Compared(m, count, width, name)
            for count, width, name in (
                (s, right + 1, "at"),
                (below, right, "under"),
                (half, right // 2, "lower"),
                (rest, self.shape.half, "upper"),
            )
        )
        outside = Compared(m, whole, self.shape.inner + left, "outside")
        stochastic, nearest = register(), register()
        m.d.sync += [
            stochastic.eq(self.rounding == Rounding.STOCHASTIC),
            nearest.eq(self.rounding == Rounding.NEAREST),
            o.pseudo.eq(self.rounding == Rounding.PSEUDO),
            o.shift.eq(whole),
            o.halve.eq(half),
            o.odd.eq(s[0]),
            o.mask.eq(Mux(stochastic, at.mask(right), 0)),
            o.half.eq(Mux(nearest, under.mask(right), 0)),
            o.one.eq(Mux(nearest, Cat(Const(0, 1), (at.equals(bit) for bit in range(1, right + 1))), 0)),
            o.low.eq(lower.mask(right // 2)),
            o.high.eq(upper.mask(self.shape.half)),
            # From bit s + out on: `whole` is s + left.
            o.above.eq(
                Cat(
                    Const(0, 1) if bit + left < self.shape.out else ~outside.above(bit + left - self.shape.out)
                    for bit in range(self.shape.inner)
                )
            ),
            o.more.eq(Mux(s > RANDOM_BITS, s - RANDOM_BITS, 0)),
        ]
        return m


def shifted_right(value: Value, amount: Value, bits: int, levels: range) -> Value:
    """Some levels of a shifter whose result is the `bits` low bits of value >> amount: the largest steps come first, so
    that few bits are left for the others. levels: numbers of the bits of `amount`, from the highest down."""
    for level in levels:
        keep = bits + (1 << level) - 1
        wide = Cat(value, value[-1].replicate(max(0, keep + (1 << level) - len(value))))
        value = Mux(amount[level], wide[1 << level : keep + (1 << level)], wide[:keep])
    return value


def levels_of(amount: Any) -> tuple[range, range]:
    """The levels of a shifter before and after its register."""
    count = len(amount)
    cut = count - (count + 1) // 2
    return range(count - 1, cut - 1, -1), range(cut - 1, -1, -1)


class RoundShift(wiring.Component):
    """`round_shift` of arch/numbers.py: i * 2**-s rounded, s in [-left, right], for a fit into `out` bits or less.

    i: signed, `bits` wide. r: its random bits, read in the same cycle. control: from `ShiftControl`, static from a
    cycle before on. o: LATENCY cycles later; one a cycle, no back pressure. It is the rounded number where that has no
    more than out + 1 bits; else its sign and its `out` low bits, and more than out + 1 bits itself: any fit makes the
    same of both.

    Nearest and stochastic add below the cut before the shift. Pseudo goes through the magnitude and compares the halves
    of what is cut: Wang et al., "NITI" (2020), section III-B. Tested against arch/: left 8, right 47, 8 to 48 bits;
    left 24, right 31, 24 bits.
    """

    LATENCY = 7

    def __init__(self, shape: ShiftShape) -> None:
        self.shape = shape
        super().__init__(
            {
                "control": In(ShiftLayout(shape)),
                "i": In(signed(shape.bits)),
                "r": In(RANDOM_BITS),
                "o": Out(signed(shape.out + 3)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, shape = self.control, self.shape
        inner, right, out = shape.inner, shape.right, shape.out
        # What a whole shifter looks at it has of its own.
        amount, halve, further = (
            copies(m, value, 1, name)[0]
            for name, value in (("amount", c.shift), ("halve", c.halve), ("further", c.more))
        )
        flip = [c.pseudo & self.i[-1], *(register(name=f"flip_{k}") for k in range(1, 7))]
        m.d.sync += [late.eq(early) for early, late in zip(flip, flip[1:], strict=False)]

        # 1: the random bits where they belong, the bit that ties look at.
        extended, x, random = Signal(signed(inner)), register(signed(inner)), register(right)
        m.d.comb += extended.eq(self.i)
        m.d.sync += [
            x.eq(extended ^ flip[0].replicate(inner)),
            random.eq(self.r << further if right > RANDOM_BITS else self.r),
        ]
        odd = grouped_any(m, extended[: right + 1] & c.one, "odd")
        # 2: what to add below the cut.
        addend, carry, y = register(right), register(), register(signed(inner))
        m.d.sync += [addend.eq(c.half | (random & c.mask)), carry.eq(odd.any() | flip[1]), y.eq(x)]
        # 3: add it; one bit below the others carries in.
        total = register(signed(inner))
        one = Const(1, 1)
        m.d.sync += total.eq((Cat(one, y).as_signed() + Cat(carry, addend, Const(0, 1)).as_signed()) >> 1)
        # 4, 5: shift; look at what will not fit; turn the upper half of what is cut to the lower.
        coarse, fine = levels_of(amount)
        some = shifted_right(Cat(Const(0, shape.left), total), amount, out, coarse)
        part, quotient = register(len(some)), register(out)
        m.d.sync += [part.eq(some), quotient.eq(shifted_right(part, amount, out, fine))]
        outside = grouped_any(m, (total ^ total[-1].replicate(inner)) & c.above, "outside")
        over, negative = register(), register(2)
        m.d.sync += [over.eq(outside.any()), negative.eq(Cat(total[-1], negative[0]))]
        coarse, fine = levels_of(halve)
        some = shifted_right(Cat(total[:right], Const(0, 1)), halve, shape.half, coarse)
        upper, low, high, lower = register(len(some)), register(shape.half), register(shape.half), register(shape.half)
        m.d.sync += [
            upper.eq(some),
            low.eq((total[: right // 2] & c.low) << c.odd),
            high.eq(shifted_right(upper, halve, shape.half, fine) & c.high),
            lower.eq(low),
        ]
        # 6: compare the halves.
        more, held = register(), register(signed(out + 3))
        m.d.sync += [
            more.eq(c.pseudo & (high > lower)),
            held.eq(Cat(quotient, negative[1] ^ over, negative[1].replicate(2)).as_signed()),
        ]
        # 7: round up the magnitude, give it its sign back.
        sign, o = flip[6], register(signed(out + 3))
        m.d.comb += self.o.eq(o)
        m.d.sync += o.eq(
            (Cat(Const(1, 1), held ^ sign.replicate(out + 3)).as_signed() + Cat(more ^ sign, Const(0, 1)).as_signed())
            >> 1
        )
        return m
