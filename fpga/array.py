"""The array: N x N output-stationary cells, and the registers their sums drain through."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.fpga.common import copies, delay, lanes, register


class MacArray(wiring.Component):
    """Cell (i, j) adds a[i] * b[j] each cycle that `valid` is set.

    clear: forgets all sums, while no tile is under way. valid, last, a, b: a step of a tile, from registers. row: a row
    of the tile, the cycle after a `pop`; row 0 pops POPPED cycles after its last step at the earliest, one row a cycle,
    and the following tile may end with the last row's pop at the earliest. overflow: a pulse, some cycles after a sum
    left `accumulator_bits`; sums wrap there. Lanes that must not count need zero operands. One step a cycle; one
    multiplier a cell with registers of its own before and after it. The sum of a last step goes
    to the drain registers as it is formed, and the accumulator to zero.
    """

    #: From a step's operands to its sum in the drain registers.
    LATENCY = 5
    #: From a step's operands to the first pop.
    POPPED = LATENCY - 1

    def __init__(self, n: int, a_bits: int, b_bits: int, accumulator_bits: int) -> None:
        self.n, self.a_bits, self.b_bits, self.accumulator_bits = n, a_bits, b_bits, accumulator_bits
        super().__init__(
            {
                "valid": In(1),
                "last": In(1),
                "clear": In(1),
                "a": In(lanes(signed(a_bits), n)),
                "b": In(lanes(signed(b_bits), n)),
                "pop": In(1),
                "row": Out(lanes(signed(accumulator_bits), n)),
                "overflow": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, width = self.n, self.accumulator_bits
        product_bits = self.a_bits + self.b_bits
        # Multipliers lie far apart: an operand goes to the two halves of its row or column, then to each of its cells.
        halves = [(copies(m, self.a[i], 2, f"a_half_{i}"), copies(m, self.b[i], 2, f"b_half_{i}")) for i in range(n)]
        valid = delay(m, self.valid, 3, "valid")[-1]
        last = delay(m, self.valid & self.last, 3, "last")[-1]
        # Every column's cells have these of their own: a column lies in one place (fpga/floorplan.py).
        adding = copies(m, valid, n, "adding")
        closing = copies(m, last | self.clear, n, "closing")
        moving = copies(m, last | self.pop, n, "moving")
        drain = [[register(signed(width), name=f"drain_{i}_{j}") for j in range(n)] for i in range(n)]
        over_rows = register(n)
        for i in range(n):
            over_cells = []
            for j in range(n):
                raw = register(signed(product_bits), name=f"raw_{i}_{j}")
                product = register(signed(product_bits), name=f"product_{i}_{j}")
                total = register(signed(width), name=f"total_{i}_{j}")
                full = Signal(signed(max(width, product_bits) + 1), name=f"full_{i}_{j}")
                over = register(name=f"over_{i}_{j}")
                a = copies(m, halves[i][0][2 * j // n], 1, f"a_{i}_{j}")[0]
                b = copies(m, halves[j][1][2 * i // n], 1, f"b_{i}_{j}")[0]
                m.d.sync += [raw.eq(a * b), product.eq(raw)]
                m.d.comb += full.eq(total + product)
                with m.If(adding[j]):
                    m.d.sync += [
                        total.eq(full),
                        over.eq((full[width - 1 : -1] ^ full[-1].replicate(len(full) - width)).any()),
                    ]
                with m.If(closing[j]):
                    m.d.sync += total.eq(0)
                below = drain[i + 1][j] if i + 1 < n else drain[i][j]
                with m.If(moving[j]):
                    m.d.sync += drain[i][j].eq(Mux(closing[j], full, below))
                over_cells.append(over)
            m.d.sync += over_rows[i].eq(Cat(over_cells).any())
        fresh = Signal(3)
        m.d.sync += [fresh.eq(Cat(valid, fresh[:2])), self.overflow.eq(over_rows.any() & fresh[2])]
        m.d.comb += [self.row[j].eq(drain[0][j]) for j in range(n)]
        return m
