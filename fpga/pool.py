"""POOL and UNPOOL: the largest of a window, lane by lane, and a window with an error where its largest was."""

from __future__ import annotations

from typing import Any

from amaranth import Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.fpga.common import delay, lanes, register
from insitu.fpga.window import PlaceLayout, SegmentLayout

#: Bits of a window's taps.
TAP_BITS = 16


class Pool(wiring.Component):
    """The maximum of a window, or where it is.

    unpool, mask: static. valid: `x` is a word of the window, `last` its last; zero: the window has none (POOL), or
    belongs to no output pixel (UNPOOL). y: of UNPOOL, the output pixel's error, with the last word.

    POOL: go, three cycles after a window's last word; `value` is its maximum a cycle later. UNPOOL: put, LATENCY cycles
    after a window's last word for the first time and in every cycle after that, as many as it has words: `value` is y
    in the lanes whose first maximum this word was, else zero, `place` and `right` those of `segment`, of which `take`
    takes one a word; final: the last of all. The next window's last word comes as many cycles after this one's as this
    one has words at the earliest.
    """

    #: From a window's last word to its value: a register, the maximum, what it makes of a word, that.
    LATENCY = 4

    def __init__(self, n: int, bits: int, x_bits: int, y_bits: int, value_bits: int) -> None:
        self.n, self.x_bits = n, x_bits
        super().__init__(
            {
                "unpool": In(1),
                "mask": In(1),
                "valid": In(1),
                "last": In(1),
                "zero": In(1),
                "x": In(lanes(signed(x_bits), n)),
                "y": In(lanes(signed(y_bits), n)),
                "segment": In(SegmentLayout(n, bits)),
                "take": Out(1),
                "go": Out(1),
                "put": Out(1),
                "place": Out(PlaceLayout(n, bits)),
                "right": Out(1),
                "final": Out(1),
                "value": Out(lanes(signed(value_bits), n)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        valid, last, no_word = Signal(), Signal(), register()
        x_words, y_words = register(self.x.shape()), register(self.y.shape())
        m.d.sync += [
            valid.eq(self.valid),
            last.eq(self.valid & self.last),
            no_word.eq(self.zero),
            x_words.eq(self.x),
            y_words.eq(self.y),
        ]
        closes = last
        first, tap, written = Signal(init=1), register(TAP_BITS), register(TAP_BITS)
        writing, missed = Signal(), register()
        m.d.comb += [
            self.take.eq(writing),
            self.place.eq(delay(m, self.segment.b, 2, "place")[-1]),
            self.right.eq(delay(m, self.segment.right, 2, "right")[-1]),
            self.final.eq(delay(m, self.segment.final, 2, "final")[-1]),
            self.go.eq(delay(m, closes & ~self.unpool, 2, "go")[-1]),
            self.put.eq(delay(m, writing, 2, "put")[-1]),
        ]
        with m.If(valid):
            m.d.sync += first.eq(last)
            m.d.sync += tap.eq(Mux(last, 0, Mux(first, 0, tap) + 1))
        with m.If(closes):
            m.d.sync += [written.eq(0), missed.eq(no_word), writing.eq(self.unpool)]
        with m.Elif(writing):
            m.d.sync += [written.eq(written + 1), writing.eq(~self.segment.last)]

        lowest = Const(-(1 << (self.x_bits - 1)), signed(self.x_bits))
        value = register(self.value.shape())
        m.d.comb += self.value.eq(value)
        for k in range(self.n):
            x = x_words[k]
            best, at = register(signed(self.x_bits), name=f"best_{k}"), register(TAP_BITS, name=f"at_{k}")
            top, top_at = register(signed(self.x_bits), name=f"top_{k}"), register(TAP_BITS, name=f"top_at_{k}")
            error = register(self.y[k].shape(), name=f"error_{k}")
            better = Signal(name=f"better_{k}")
            m.d.comb += better.eq(first | (x > best))
            tap_now = Mux(first, 0, tap)
            with m.If(valid & better):
                m.d.sync += [best.eq(x), at.eq(tap_now)]
            with m.If(closes):
                m.d.sync += [top.eq(Mux(better, x, best)), top_at.eq(Mux(better, tap_now, at)), error.eq(y_words[k])]
            # What a word makes of it.
            here, alive = register(name=f"here_{k}"), register(name=f"alive_{k}")
            back, most = register(error.shape(), name=f"back_{k}"), register(signed(self.x_bits), name=f"most_{k}")
            m.d.sync += [
                here.eq(top_at == written),
                alive.eq(~missed & (~self.mask | (top > 0))),
                back.eq(error),
                most.eq(Mux(missed, lowest, top)),
                value[k].eq(Mux(self.unpool, Mux(here & alive, back, 0), most)),
            ]
        return m
