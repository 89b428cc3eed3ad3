"""A barrel rotator over lanes: banks to lanes and back."""

from __future__ import annotations

from typing import Any

from amaranth import Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.fpga.common import copies, lanes, register


class Rotator(wiring.Component):
    """Lane l of the output is lane (l + amount) mod N of the input.

    n: lanes, a power of two. shape: of one lane. o: LATENCY cycles after i and amount. One vector a cycle, no back
    pressure. Tested for N of 4 to 32, every amount.
    """

    LATENCY = 2

    def __init__(self, n: int, shape: Any) -> None:
        self.n, self.bits = n, n.bit_length() - 1
        super().__init__({"amount": In(self.bits), "i": In(lanes(shape, n)), "o": Out(lanes(shape, n))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        low = self.bits // 2
        middle, rest, o = (
            register(self.i.shape()),
            copies(m, self.amount[low:], self.n, "rest"),
            register(self.o.shape()),
        )
        self._rotate(m, self.i, middle, [self.amount[:low]] * self.n, 1)
        self._rotate(m, middle, o, rest, 1 << low)
        m.d.comb += self.o.eq(o)
        return m

    def _rotate(self, m: Module, i: Any, o: Any, amounts: list[Any], unit: int) -> None:
        """amounts: the same one, for each lane that is made."""
        for k, amount in enumerate(amounts):
            values = [i[(k + lane) % self.n] for lane in range(self.n)]
            for bit in reversed(range(len(amount))):
                step = unit << bit
                values = [Mux(amount[bit], values[j + step], values[j]) for j in range(len(values) - step)]
            m.d.sync += o[k].eq(values[0])
