"""The loss unit: softmax by base-2 exponentials and one bit-serial division a lane, weighed, less the targets."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.loss import EXP_BITS, FRACTION_BITS, PROBABILITY_BITS, SCALE_SHIFT_MIN, SUM_BITS
from insitu.arch.timing import LOSS_DIVIDE, LOSS_ROW
from insitu.fpga.common import FieldsLayout, copies, delay, lanes, register
from insitu.fpga.tiles import Extent, Loop

#: Cycles from a phase's last read to the next phase's first: the trees over 32 lanes take five stages.
GAP = LOSS_ROW // 2


class LossWalk(wiring.Component):
    """The reads of LOSS: each row's blocks for the maximum, for the sum, then one by one for the divisions.

    start: takes the fields; reads follow from the next cycle on. read: `a` and `b` are addresses of a block, `row` its
    row modulo N; phase 0, 1 or 2 of that read; first: of its phase; ragged: the row's last block.
    """

    def __init__(self, n: int, bits: int) -> None:
        self.n, self.bits = n, bits
        super().__init__(
            {
                "start": In(1),
                "fields": In(FieldsLayout),
                "read": Out(1),
                "phase": Out(2),
                "first": Out(1),
                "ragged": Out(1),
                "a": Out(bits),
                "b": Out(bits),
                "row": Out(n.bit_length() - 1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        f = self.fields
        running, reading, pause = Signal(), Signal(), register(range(LOSS_DIVIDE))
        m.submodules.extent = extent = Extent(self.n)
        m.d.comb += extent.size.eq(f.cols)
        # `ragged`: one block is left; `divides`: this is phase 2.
        blocks, divides = Loop(m, extent, "block"), register()
        ragged = blocks.last
        rows_left, last_row = register(16), register()
        a_row, b_row, a_below, b_below = (register(self.bits) for _ in range(4))
        a, b, row = register(self.bits), register(self.bits), register(self.row.shape())
        phase, first, rests = register(2), register(), register(range(LOSS_DIVIDE))
        m.d.comb += [self.a.eq(a), self.b.eq(b), self.row.eq(row), self.phase.eq(phase), self.first.eq(first)]
        m.d.comb += [self.ragged.eq(ragged), self.read.eq(reading)]
        # Rows are long enough for these to be there when they are looked at.
        m.d.sync += [
            a_below.eq(a_row + f.a_pitch),
            b_below.eq(b_row + f.b_pitch),
            last_row.eq(rows_left == 1),
            rests.eq(Mux(divides, LOSS_DIVIDE - 1, GAP)),
        ]
        # A pause between two reads: after each division, and after each phase.
        with m.If(reading):
            m.d.sync += [pause.eq(rests), reading.eq(~(divides | ragged))]
        with m.Elif(running):
            m.d.sync += [pause.eq(pause - 1), reading.eq(pause == 1)]
        with m.If(self.start):
            m.d.sync += [running.eq(1), reading.eq(1), phase.eq(0), divides.eq(0), first.eq(1), row.eq(0)]
            m.d.sync += [rows_left.eq(f.rows), rests.eq(GAP), *blocks.first()]
            m.d.sync += [a.eq(f.a_base), a_row.eq(f.a_base), b.eq(f.b_base), b_row.eq(f.b_base)]
        with m.Elif(reading):
            m.d.sync += first.eq(ragged)
            with m.If(~ragged):
                m.d.sync += [a.eq(a + 1), b.eq(b + 1)]
                m.d.sync += blocks.next()
            with m.Else():
                m.d.sync += blocks.first()
                with m.If(~divides):
                    m.d.sync += [phase.eq(phase + 1), divides.eq(phase[0]), a.eq(a_row), b.eq(b_row)]
                with m.Else():
                    m.d.sync += [phase.eq(0), divides.eq(0), a.eq(a_below), a_row.eq(a_below)]
                    m.d.sync += [b.eq(b_below), b_row.eq(b_below)]
                    m.d.sync += [row.eq(row + 1), rows_left.eq(rows_left - 1), running.eq(~last_row)]
        return m


class Loss(wiring.Component):
    """softmax(z) * sum(t) - t of docs/arithmetic.md on N lanes.

    shift: of the scaled logits, 8 more than in the contract, 0 to 39; static. valid: z and t hold a block read in
    `phase`; lanes: its valid lanes; first: the phase's first block. Blocks of phase 2 come LOSS_DIVIDE or more cycles
    apart. go: a block's result is in `acc` two cycles later, DIVIDE_LATENCY cycles after its `valid`; invalid lanes
    hold anything. The maximum is taken before scaling, which is monotone, so its comparators have the logits' width.
    47274 z = (23 z << 11) + (85 z << 1); p * T grows by T with each bit of p: no multiplier. Equal to arch/loss.py.
    """

    #: From z to its exponential: scaling 3, shift 2, difference 1, exponential 1.
    EXP_LATENCY = 7
    #: From z to `acc`: a cycle to load, a bit a cycle, one to round, one to add.
    DIVIDE_LATENCY = EXP_LATENCY + 1 + PROBABILITY_BITS + 1 + 1 + 1

    def __init__(self, n: int, z_bits: int, t_bits: int) -> None:
        self.n, self.z_bits, self.t_bits = n, z_bits, t_bits
        self.acc_bits = t_bits + SUM_BITS + PROBABILITY_BITS + 1
        super().__init__(
            {
                "shift": In(6),
                "valid": In(1),
                "phase": In(2),
                "first": In(1),
                "lanes": In(n),
                "z": In(lanes(signed(z_bits), n)),
                "t": In(lanes(signed(t_bits), n)),
                "go": Out(1),
                "acc": Out(lanes(signed(self.acc_bits), n)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n = self.n

        # The row's largest logit, one level of comparators a cycle: from zero up, so that they look at no signs.
        sign = 1 << (self.z_bits - 1)
        level: list[Value] = []
        for k in range(n):
            masked = Signal(self.z_bits, name=f"masked_{k}")
            m.d.comb += masked.eq(Mux(self.lanes[k], self.z[k] ^ sign, 0))
            level.append(masked)
        depth = 0
        while len(level) > 1:
            depth += 1
            above = []
            for k in range(len(level) // 2):
                larger = register(self.z_bits, name=f"larger_{depth}_{k}")
                x, y = level[2 * k], level[2 * k + 1]
                m.d.sync += larger.eq(Mux(x > y, x, y))
                above.append(larger)
            level = above
        largest = register(self.z_bits)
        compared = delay(m, self.valid & (self.phase == 0), depth, "compared")[-1]
        fresh = delay(m, self.first, depth, "fresh")[-1]
        with m.If(compared & (fresh | (level[0] > largest))):
            m.d.sync += largest.eq(level[0])

        top = self._scaled(m, (largest ^ sign).as_signed(), "top")
        enable = delay(m, self.valid & (self.phase != 0), self.EXP_LATENCY, "enable")
        valid_lanes = delay(m, self.lanes, self.EXP_LATENCY, "lanes")
        phase = delay(m, self.phase, self.EXP_LATENCY, "phase")
        first = delay(m, self.first, self.EXP_LATENCY, "first")
        exponentials = [self._exponential(m, k, top, valid_lanes[-2][k]) for k in range(n)]

        # Their sum.
        sums: list[Value] = list(exponentials)
        depth = 0
        while len(sums) > 1:
            depth += 1
            above = []
            for k in range(len(sums) // 2):
                pair = register(EXP_BITS + 1 + depth, name=f"pair_{depth}_{k}")
                m.d.sync += pair.eq(sums[2 * k] + sums[2 * k + 1])
                above.append(pair)
            sums = above
        total = register(31)
        summed = delay(m, enable[-1] & (phase[-1] == 1), depth, "summed")[-1]
        begins = delay(m, first[-1], depth, "begins")[-1]
        with m.If(summed):
            m.d.sync += total.eq(Mux(begins, 0, total) + sums[0])

        # The sum of the targets, wrapped.
        parts: list[Value] = []
        for k in range(n):
            part = Signal(signed(self.t_bits), name=f"part_{k}")
            m.d.comb += part.eq(Mux(self.lanes[k], self.t[k], 0))
            parts.append(part)
        depth = 0
        while len(parts) > 1:
            depth += 1
            above = []
            for k in range(len(parts) // 2):
                both = register(signed(self.t_bits + depth), name=f"both_{depth}_{k}")
                m.d.sync += both.eq(parts[2 * k] + parts[2 * k + 1])
                above.append(both)
            parts = above
        weight = register(signed(self.t_bits + SUM_BITS))
        weighing = delay(m, self.valid & (self.phase == 1), depth, "weighing")[-1]
        opens = delay(m, self.first, depth, "opens")[-1]
        with m.If(weighing):
            m.d.sync += weight.eq(Mux(opens, 0, weight) + parts[0])

        # The divisions: PROBABILITY_BITS + 1 bits of the quotient, then twice the remainder against the sum rounds it.
        # A bit is added a cycle after it was found; the first and the rounding one without doubling what was there.
        bits = PROBABILITY_BITS + 2
        left, loading = register(range(bits + 1)), enable[-2] & (phase[-2] == 2)
        load = register()
        with m.If(load):
            m.d.sync += left.eq(bits)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        m.d.sync += [load.eq(loading), self.go.eq(left == 2)]
        # Every lane has these of its own.
        loads, dividing = copies(m, loading, n, "loads"), copies(m, load | (left > 1), n, "dividing")
        opening, adding = copies(m, load, n, "opening"), copies(m, left != 0, n, "adding")
        doubling = copies(m, (left != bits) & (left != 1), n, "doubling")
        totals, weights = copies(m, total, n, "totals"), copies(m, weight, n, "weights")
        acc = register(self.acc.shape())
        m.d.comb += self.acc.eq(acc)
        for k in range(n):
            target = register(signed(self.t_bits), name=f"target_{k}")
            remainder = register(32, name=f"remainder_{k}")
            trial = Signal(33, name=f"trial_{k}")
            found = register(name=f"found_{k}")
            m.d.comb += trial.eq(remainder - totals[k])
            with m.If(self.valid & (self.phase == 2)):
                m.d.sync += target.eq(self.t[k])
            with m.If(loads[k]):
                m.d.sync += remainder.eq(exponentials[k])
            with m.Elif(dividing[k]):
                m.d.sync += [remainder.eq(Mux(trial[-1], remainder, trial[:32]) << 1), found.eq(~trial[-1])]
            with m.If(opening[k]):
                m.d.sync += acc[k].eq(-target)
            with m.Elif(adding[k]):
                m.d.sync += acc[k].eq(Mux(doubling[k], acc[k] << 1, acc[k]) + Mux(found, weights[k], 0))
        return m

    def _scaled(self, m: Module, z: Value, name: str) -> Value:
        """(z * 47274 << 8) >> shift, five cycles."""

        def stage(bits: int, value: Value, label: str) -> Value:
            late = register(signed(bits), name=f"{name}_{label}")
            m.d.sync += late.eq(value)
            return late

        bits, wide = self.z_bits, self.z_bits + 16 - SCALE_SHIFT_MIN
        shift = copies(m, self.shift, 1, f"{name}_shift")[0]
        one, five, twenty_four = (
            stage(bits, z, "1"),
            stage(bits + 3, z + (z << 2), "5"),
            stage(bits + 5, (z << 3) + (z << 4), "24"),
        )
        eighty_five = stage(bits + 7, five + (five << 4), "85")
        twenty_three = stage(bits + 5, twenty_four - one, "23")
        product = stage(bits + 16, (twenty_three << 11) + (eighty_five << 1), "product")
        raised = Cat(Const(0, -SCALE_SHIFT_MIN), product).as_signed()
        coarse = stage(wide, raised >> Cat(Const(0, 3), shift[3:]), "coarse")
        return stage(wide, coarse >> shift[:3], "fine")

    def _exponential(self, m: Module, k: int, top: Value, valid: Value) -> Value:
        """Of lane k, EXP_LATENCY cycles; zero where the lane is not `valid`, which comes a cycle before."""
        s = self._scaled(m, self.z[k], f"s_{k}")
        d = register(signed(len(s) + 1), name=f"d_{k}")
        v = register(EXP_BITS + 1, name=f"v_{k}")
        m.d.sync += d.eq(s - top)
        # d < 0: 2**(i + f) with i = -(n + 1); beyond n = 15 nothing is left.
        fraction, n = d[:FRACTION_BITS], ~d[FRACTION_BITS:]
        shifted = (Cat(fraction, Const(1, 1)) << (EXP_BITS - FRACTION_BITS - 1))[:EXP_BITS] >> n[:4]
        with m.If(~valid):
            m.d.sync += v.eq(0)
        with m.Elif(~d[-1]):
            m.d.sync += v.eq(1 << EXP_BITS)
        with m.Else():
            m.d.sync += v.eq(Mux(n[4:].any(), 0, shifted))
        return v
