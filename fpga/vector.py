"""The vector unit: sums of one channel a lane, a multiplier each."""

from __future__ import annotations

from typing import Any

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.isa import CONSTANT_MAX, Opcode
from insitu.arch.layout import Memory
from insitu.arch.numbers import ALIGN_MAX
from insitu.fpga.common import FieldsLayout, copies, delay, lanes, register
from insitu.fpga.passes import flag
from insitu.fpga.tables import TableMemory

#: Bits of a factor that is no element: a constant, or what ADD multiplies by.
FACTOR_BITS = max(CONSTANT_MAX.bit_length(), ALIGN_MAX + 1) + 1


class VectorUnit(wiring.Component):
    """The sums of the vector passes, N lanes wide, and the elements that tables are looked up for.

    fields, bias, factor_a, factor_b: static. clear: forgets all sums, while no row is under way. valid, zero, extra,
    last, col_lanes: of a step whose words will be in `z` and `t` AHEAD cycles later: A and B, but two of one memory
    both come in z, A before B, which is `extra`. zero: a term of zero; extra: of the bias; where z and t hold both A
    and B, nothing. col_lanes: lanes with a column; others count as zero. One step a cycle, no back pressure.

    look: of the words in `z` and `t`, those to look up; found: their words in the tables, TableMemory.LATENCY cycles
    later. go: a row's last step was taken; its sums are in `sums` two cycles after, which is LATENCY cycles after its
    words, for a cycle. overflow: a pulse, some cycles after a sum left `accumulator_bits`; sums wrap there.

    A multiplier a lane, with registers of its own before and after it.
    """

    #: From a step to its words.
    AHEAD = 2
    #: From words to sums: those of a table, the operand, two for the product, the sum.
    LATENCY = TableMemory.LATENCY + 4

    def __init__(self, n: int, act_bits: int, err_bits: int, weight_bits: int, accumulator_bits: int) -> None:
        self.n, self.act_bits, self.accumulator_bits = n, act_bits, accumulator_bits
        self.x_bits = max(act_bits, err_bits)
        #: Of B, in whichever lanes it comes.
        self.b_bits = max(act_bits, weight_bits)
        self.y_bits = max(self.b_bits, FACTOR_BITS)
        super().__init__(
            {
                "fields": In(FieldsLayout),
                "bias": In(act_bits),
                "factor_a": In(ALIGN_MAX + 1),
                "factor_b": In(ALIGN_MAX + 1),
                "clear": In(1),
                "valid": In(1),
                "zero": In(1),
                "extra": In(1),
                "last": In(1),
                "col_lanes": In(n),
                "z": In(lanes(signed(self.x_bits), n)),
                "t": In(lanes(signed(self.b_bits), n)),
                "look": Out(lanes(signed(act_bits), n)),
                "found": In(lanes(signed(act_bits), n)),
                "go": Out(1),
                "sums": Out(lanes(signed(accumulator_bits), n)),
                "overflow": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, f, found_at = self.n, self.fields, TableMemory.LATENCY
        add, multiply = flag(m, f.opcode, "add", Opcode.ADD), flag(m, f.opcode, "multiply", Opcode.MULTIPLY)
        kernel_row = flag(m, f.opcode, "kernel_row", Opcode.DW_FORWARD)
        kernel_update = flag(m, f.opcode, "kernel_update", Opcode.DW_UPDATE)
        reduce, lookup = flag(m, f.opcode, "reduce", Opcode.REDUCE), flag(m, f.opcode, "lookup", Opcode.LOOKUP)
        in_act, constant, in_turn, idle_extra, tabled = register(), register(), register(), register(), register()
        m.d.sync += [
            in_act.eq(f.memory == Memory.ACT),
            constant.eq(f.constant != 0),
            # A product's A, then its B; a step in which only the mask is read.
            in_turn.eq(multiply & in_act),
            idle_extra.eq(reduce | (multiply & ~in_act)),
            tabled.eq(multiply & (f.table_bits != 0)),
        ]

        # A cycle ahead of the words: what the step is.
        counts, first, biased = register(), register(), register()
        idle = self.zero | (idle_extra & self.extra) | (in_turn & ~self.extra)
        factor = register(signed(FACTOR_BITS))
        m.d.sync += [
            counts.eq(self.valid & ~idle),
            first.eq(self.valid & ~self.extra),
            biased.eq(self.extra & kernel_row),
            factor.eq(Mux(add, Mux(self.extra, self.factor_b, self.factor_a), Mux(constant, f.constant, self.bias))),
        ]
        scaled = delay(m, add | constant | (kernel_update & self.extra), found_at + 1, "scaled")
        factors = delay(m, factor, found_at, "factor")
        col_lanes = register(n)
        m.d.sync += col_lanes.eq(self.col_lanes)

        # Every lane has these of its own, beside the words.
        counting = copies(m, col_lanes & counts.replicate(n), 1, "counting")[0]
        keeping = copies(m, first, n, "keeping")
        biases, turned = copies(m, biased, n, "biased"), copies(m, in_turn, n, "turned")
        looked, scales = copies(m, tabled, n, "looked"), copies(m, scaled[-1], n, "scaled")
        near = copies(m, multiply & ~in_act, n, "from_t")
        bias, scalar = copies(m, self.bias, n, "bias"), copies(m, factors[-1], n, "scalar")

        # From the words on: valid steps, and their ends.
        valid = delay(m, self.valid & ~lookup, self.AHEAD + self.LATENCY - 1, "valid")
        last = delay(m, self.valid & self.last & ~lookup, self.AHEAD + self.LATENCY - 1, "last")
        m.d.comb += self.go.eq(last[-2])
        adding = copies(m, valid[-2], n, "adding")
        closing = copies(m, last[-2] | self.clear, n, "closing")
        sums, over = register(self.sums.shape()), register(n)
        m.d.comb += self.sums.eq(sums)
        for k in range(n):
            held = register(signed(self.x_bits), name=f"held_{k}")
            x, y = register(signed(self.x_bits), name=f"x_{k}"), register(signed(self.b_bits), name=f"y_{k}")
            z = self.z[k]
            with m.If(keeping[k]):
                m.d.sync += held.eq(z)
            m.d.sync += [
                x.eq(Mux(counting[k], Mux(biases[k], bias[k].as_signed(), Mux(turned[k], held, z)), 0)),
                y.eq(Mux(turned[k], z, self.t[k])),
            ]
            m.d.comb += self.look[k].eq(Mux(near[k], self.t[k], z))

            left, right, raw, product = (
                register(signed(bits), name=f"{name}_{k}")
                for name, bits in (
                    ("left", self.x_bits),
                    ("right", self.y_bits),
                    ("raw", self.x_bits + self.y_bits),
                    ("product", self.x_bits + self.y_bits),
                )
            )
            m.d.sync += [
                left.eq(delay(m, x, found_at - 1, f"x_{k}")[-1]),
                right.eq(
                    Mux(
                        looked[k],
                        self.found[k],
                        Mux(scales[k], scalar[k], delay(m, y, found_at - 1, f"y_{k}")[-1]),
                    )
                ),
                raw.eq(left * right),
                product.eq(raw),
            ]
            width = self.accumulator_bits
            total = register(signed(width), name=f"total_{k}")
            full = Signal(signed(max(width, len(product)) + 1), name=f"full_{k}")
            m.d.comb += full.eq(total + product)
            with m.If(adding[k]):
                m.d.sync += [
                    total.eq(full),
                    over[k].eq((full[width - 1 : -1] ^ full[-1].replicate(len(full) - width)).any()),
                ]
            with m.If(closing[k]):
                m.d.sync += [total.eq(0), sums[k].eq(full)]
        fresh = delay(m, valid[-1], 1, "fresh")[-1]
        m.d.sync += self.overflow.eq(over.any() & fresh)
        return m
