# amaranth: UnusedElaboratable=no
"""The tables of functions: a memory of N banks like the others, in which every lane looks up its own word."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.isa import FIELDS
from insitu.fpga.common import FieldsLayout, copies, delay, lanes, register
from insitu.fpga.memory import ATTRIBUTES, BankedMemory, address_bits, connect


class TableMemory(wiring.Component):
    """N banks of `depth` words; lane l reads bank l.

    fields: static. x: an element a lane; o: `table(x)` of docs/arithmetic.md, LATENCY cycles later, one vector a cycle,
    no back pressure. write: as BankedMemory's, as many cycles. Contents survive a reset. Every bank's ports have
    registers of their own straight before and after them. Tested for elements of 3 to 16 bits, all tables and drops.
    """

    #: Twice a part of the shift, the address, the bank, two to come back.
    LATENCY = 6
    WRITE_LATENCY = BankedMemory.WRITE_LATENCY

    def __init__(self, n: int, depth: int, width: int) -> None:
        self.n, self.depth, self.width = n, depth, width
        self.bits = address_bits(depth)
        #: The banks; a simulation may look into their `data`.
        self.banks = [memory.Memory(shape=width, depth=depth, init=[], attrs=ATTRIBUTES) for _ in range(n)]
        super().__init__(
            {
                "fields": In(FieldsLayout),
                "x": In(lanes(signed(width), n)),
                "o": Out(lanes(signed(width), n)),
                "write": In(
                    wiring.Signature(
                        {"enable": Out(n), "address": Out(self.bits), "data": Out(lanes(signed(width), n))}
                    )
                ),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, f, bits = self.n, self.fields, self.bits
        target, word, enable = (
            delay(m, value, self.WRITE_LATENCY - 1, name)[-1]
            for value, name in (
                (self.write.address, "target"),
                (self.write.data, "word"),
                (self.write.enable, "enable"),
            )
        )
        o = register(self.o.shape())
        m.d.comb += self.o.eq(o)
        # Every lane has these of its own.
        drops, sizes, bases = (copies(m, f[name], n, name) for name in ("table_drop", "table_bits", "table_base"))
        whole = FIELDS["table_base"].width
        for k, bank in enumerate(self.banks):
            part, index = register(signed(self.width), name=f"part_{k}"), register(signed(whole), name=f"index_{k}")
            # The lowest element has the table's first word: the highest bit is turned over.
            words = (
                base | ((bit ^ (sizes[k] == at + 1)) & (sizes[k] > at))
                for at, (bit, base) in enumerate(zip(index, bases[k], strict=True))
            )
            m.d.sync += [
                part.eq(self.x[k] >> Cat(Const(0, 2), drops[k][2:])),
                index.eq(part >> drops[k][:2]),
                o[k].eq(connect(m, f"bank_{k}", bank, platform, Cat(words)[:bits], enable[k], target, word[k])),
            ]
        return m
