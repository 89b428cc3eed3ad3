"""The rounding shift of docs/arithmetic.md: a right shift with four roundings, or a left shift."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.numbers import RANDOM_BITS, Rounding
from insitu.fpga.common import low_mask


class ShiftLayout(data.StructLayout):
    """What all lanes' `RoundShift` share, derived from a shift s and a rounding by `ShiftControl`.

    first, second: the two right shifts, after `left` zeros were put below: h = s // 2 and the rest. odd: s mod 2.
    mask, half, one: the s low bits, the s - 1 low bits, bit s. low: the h low bits, high: the s - h low bits.
    more: bits that s exceeds the generator's width by.
    """

    def __init__(self, left: int, right: int) -> None:
        super().__init__(
            {
                "rounding": unsigned(2),
                "first": unsigned((right // 2).bit_length()),
                "second": unsigned((right - right // 2 + left).bit_length()),
                "odd": unsigned(1),
                "mask": unsigned(right),
                "half": unsigned(right),
                "one": unsigned(right + 1),
                "low": unsigned(right // 2),
                "high": unsigned(right - right // 2),
                "more": unsigned(max(1, (right - RANDOM_BITS).bit_length() if right > RANDOM_BITS else 1)),
            }
        )


class ShiftControl(wiring.Component):
    """`ShiftLayout` from a shift in [-left, right] and a rounding. LATENCY cycles; static while an instruction runs."""

    LATENCY = 3

    def __init__(self, left: int, right: int) -> None:
        self.left, self.right = left, right
        super().__init__({"shift": In(signed(7)), "rounding": In(2), "o": Out(ShiftLayout(left, right))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        left, right, o = self.left, self.right, self.o
        shift = Signal(signed(7))
        positive = shift > 0
        below, s, half, rest, second = Signal(signed(7)), Signal(6), Signal(6), Signal(6), Signal(6)
        cut = Mux(positive, shift[:6], 0)
        m.d.sync += [
            s.eq(cut),
            below.eq(cut - 1),
            half.eq(cut >> 1),
            rest.eq((cut + 1) >> 1),
            second.eq(Mux(positive, ((shift[:6] + 1) >> 1) + left, shift + left)),
        ]
        m.d.sync += [
            shift.eq(self.shift),
            o.rounding.eq(self.rounding),
            o.first.eq(half),
            o.second.eq(second),
            o.odd.eq(s[0]),
            o.mask.eq(low_mask(s, right)),
            o.half.eq(low_mask(below, right)),
            o.one.eq(Cat((s == bit) & (bit != 0) for bit in range(right + 1))),
            o.low.eq(low_mask(half, right // 2)),
            o.high.eq(low_mask(rest, right - right // 2)),
            o.more.eq(Mux(s > RANDOM_BITS, s - RANDOM_BITS, 0)),
        ]
        return m


class RoundShift(wiring.Component):
    """`round_shift` of arch/numbers.py: i * 2**-s rounded, s in [-left, right].

    i: signed, `bits` wide. r: its random bits, read in the same cycle. control: from `ShiftControl`, static. o:
    LATENCY cycles later. One a cycle while `enable`, no back pressure. Nearest and stochastic add below the cut
    before the shift; pseudo goes through the magnitude and compares the halves of what is cut, which is why the shift
    has two parts: Wang et al., "NITI" (2020), section III-B. Tested against arch/: left 8, right 47, 8 to 48 bits;
    left 24, right 31, 24 bits.
    """

    LATENCY = 5

    def __init__(self, bits: int, left: int, right: int) -> None:
        self.bits, self.left, self.right = bits, left, right
        self.inner = max(bits, right) + 2
        super().__init__(
            {
                "enable": In(1),
                "control": In(ShiftLayout(left, right)),
                "i": In(signed(bits)),
                "r": In(RANDOM_BITS),
                "o": Out(signed(self.inner + left)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, inner = self.control, self.inner
        pseudo = c.rounding == Rounding.PSEUDO
        stage = [self.enable, *(Signal(name=f"stage_{k}") for k in range(1, self.LATENCY))]
        m.d.sync += [late.eq(early) for early, late in zip(stage, stage[1:], strict=False)]

        # 1: what to add below the cut.
        x, addend, carry = Signal(signed(inner)), Signal(self.right), Signal()
        negative = [Signal(name=f"negative_{k}") for k in range(1, 5)]
        extended = Signal(signed(inner))
        m.d.comb += extended.eq(self.i)
        flip = Signal()
        m.d.comb += flip.eq(pseudo & self.i[-1])
        with m.If(stage[0]):
            m.d.sync += [x.eq(extended ^ flip.replicate(inner)), negative[0].eq(flip)]
            with m.Switch(c.rounding):
                with m.Case(Rounding.FLOOR):
                    m.d.sync += [addend.eq(0), carry.eq(0)]
                with m.Case(Rounding.NEAREST):
                    m.d.sync += [addend.eq(c.half), carry.eq((extended[: self.right + 1] & c.one).any())]
                with m.Case(Rounding.STOCHASTIC):
                    random = self.r << c.more if self.right > RANDOM_BITS else self.r
                    m.d.sync += [addend.eq(random & c.mask), carry.eq(0)]
                with m.Case(Rounding.PSEUDO):
                    m.d.sync += [addend.eq(0), carry.eq(flip)]
        # 2: add it; one bit below the others carries in.
        total = Signal(signed(inner))
        with m.If(stage[1]):
            one = Const(1, 1)
            m.d.sync += [
                total.eq((Cat(one, x).as_signed() + Cat(carry, addend, Const(0, 1)).as_signed()) >> 1),
                negative[1].eq(negative[0]),
            ]
        # 3: the first part of the shift.
        shifted, low = Signal(signed(inner)), Signal(self.right // 2 + 1)
        with m.If(stage[2]):
            m.d.sync += [
                shifted.eq(total >> c.first),
                low.eq((total[: self.right // 2] & c.low) << c.odd),
                negative[2].eq(negative[1]),
            ]
        # 4: the second part; the halves of what was cut are compared.
        quotient, more = Signal(signed(inner + self.left)), Signal()
        with m.If(stage[3]):
            high = shifted[: self.right - self.right // 2] & c.high
            m.d.sync += [
                quotient.eq(Cat(Const(0, self.left), shifted).as_signed() >> c.second),
                more.eq(pseudo & (high > low)),
                negative[3].eq(negative[2]),
            ]
        # 5: round up the magnitude, give it its sign back.
        with m.If(stage[4]):
            signs = negative[3].replicate(len(quotient))
            m.d.sync += self.o.eq(
                (Cat(Const(1, 1), quotient ^ signs).as_signed() + Cat(more ^ negative[3], Const(0, 1)).as_signed()) >> 1
            )
        return m
