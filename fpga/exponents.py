"""Scale registers, and what an instruction derives from them: shifts, the bias operand, the next exponent."""

from __future__ import annotations

from typing import Any

from amaranth import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.isa import Opcode
from insitu.arch.loss import FRACTION_BITS, LOG2E_BITS, PROBABILITY_BITS, SCALE_SHIFT_MAX, SCALE_SHIFT_MIN
from insitu.arch.numbers import (
    ALIGN_MAX,
    EXPONENT_MAX,
    EXPONENT_MIN,
    SHIFT_MAX,
    SHIFT_MIN,
    UPDATE_SHIFT_MAX,
    UPDATE_SHIFT_MIN,
)
from insitu.fpga import passes
from insitu.fpga.common import FieldsLayout, bit_length, clamped, delay, register
from insitu.fpga.passes import among, flag


class ScaleRegisters(wiring.Component):
    """`count` registers of 16 bits: exponent low, next high. Reset to zero, though they lie in distributed memory.

    bus_*, core_*: two readers, whose registers come LATENCY cycles after their index, and two writers. The bus's write
    is seen by an index two cycles later, the core's by one three cycles later, and one more where the bus goes first.
    """

    LATENCY = 2

    def __init__(self, count: int) -> None:
        self.count, bits = count, (count - 1).bit_length()
        super().__init__(
            {
                "bus_index": In(bits),
                "bus_write": In(1),
                "bus_write_index": In(bits),
                "bus_data": In(16),
                "bus_o": Out(16),
                "core_index": In(bits),
                "core_o": Out(16),
                "core_write": In(1),
                "core_write_index": In(bits),
                "core_data": In(16),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.registers = registers = memory.Memory(shape=16, depth=self.count, init=[])
        write = registers.write_port()
        bus, core = registers.read_port(domain="comb"), registers.read_port(domain="comb")
        written = Signal(self.count)
        waiting, to, value = Signal(), Signal.like(self.core_write_index), Signal(16)
        with m.If(self.core_write):
            m.d.sync += [waiting.eq(1), to.eq(self.core_write_index), value.eq(self.core_data)]
        with m.Elif(~self.bus_write):
            m.d.sync += waiting.eq(0)
        writes, target, word = Signal(), Signal.like(to), register(16)
        m.d.sync += [
            writes.eq(self.bus_write | waiting),
            target.eq(Mux(self.bus_write, self.bus_write_index, to)),
            word.eq(Mux(self.bus_write, self.bus_data, value)),
        ]
        m.d.comb += [
            write.addr.eq(target),
            write.data.eq(word),
            write.en.eq(writes),
            bus.addr.eq(self.bus_index),
            core.addr.eq(self.core_index),
        ]
        for index, port, o in ((self.bus_index, bus, self.bus_o), (self.core_index, core, self.core_o)):
            # Of sixteen neighbours the one that is meant, then of all groups.
            groups, which, read = register(self.count // 16), register(len(index) - 4), register(16)
            m.d.sync += [
                groups.eq(Cat(written[k : k + 16].bit_select(index[:4], 1) for k in range(0, self.count, 16))),
                which.eq(index[4:]),
                read.eq(port.data),
            ]
            found = register(16)
            m.d.sync += found.eq(Mux(groups.bit_select(which, 1), read, 0))
            m.d.comb += o.eq(found)
        with m.If(write.en):
            m.d.sync += written.bit_select(write.addr, 1).eq(1)
        return m


#: Bits of a spread that are looked at together.
GROUP = 8


class Exponents(wiring.Component):
    """Reads an instruction's scale registers and derives everything static.

    slot: 1 to 4 in the four cycles in which sd, sa, sb, sm are read, else 0. scale: of `index`, ScaleRegisters.LATENCY
    cycles later. The outputs are registers, right SETTLE cycles after the last slot. target: what sd will hold as
    exponent while the instruction runs. factor_a, factor_b: what ADD multiplies its operands by. following:
    range_exponent of `spread`, or `target` where it is zero, five cycles after spread.
    """

    SETTLE = 9 + ScaleRegisters.LATENCY

    def __init__(
        self, activation_bits: int, spread_bits: int, count: int, *, velocities: bool = False, vector: bool = True
    ) -> None:
        self.activation_bits, self.spread_bits = activation_bits, spread_bits
        self.velocities, self.vector = velocities, vector
        super().__init__(
            {
                "fields": In(FieldsLayout),
                "slot": In(range(5)),
                "index": Out((count - 1).bit_length()),
                "scale": In(16),
                "narrow_shift": Out(signed(7)),
                "update_shift": Out(signed(7)),
                "loss_shift": Out(6),
                "bias": Out(activation_bits),
                "factor_a": Out(ALIGN_MAX + 1),
                "factor_b": Out(ALIGN_MAX + 1),
                "target": Out(signed(8)),
                "spread": In(spread_bits),
                "following": Out(signed(8)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        f = self.fields
        sd, sa, sb, sm = (Signal(signed(8), name=name) for name in ("sd", "sa", "sb", "sm"))
        scale = self.scale
        m.d.comb += self.target.eq(sd)
        m.d.sync += [
            self.index.eq(Array([f.sd, f.sd, f.sa, f.sb, f.sm])[self.slot]),
        ]
        # It is D's, which is committed first.
        again = delay(m, f.track & (self.index == f.sd), ScaleRegisters.LATENCY, "again")[-1]
        exponent, following = scale[:8].as_signed(), scale[8:].as_signed()
        slot = delay(m, self.slot, 1 + ScaleRegisters.LATENCY, "slot")[-1]
        with m.Switch(slot):
            with m.Case(1):
                m.d.sync += sd.eq(Mux(f.track, following, exponent))
            for slot, operand in ((2, sa), (3, sb), (4, sm)):
                with m.Case(slot):
                    m.d.sync += operand.eq(Mux(again, sd, exponent))

        # Bits of a velocity below the master's last place: the step's shift is less by them, and its limit.
        below, most = Const(0, 1), Const(UPDATE_SHIFT_MAX, 6)
        if self.velocities:
            below, most = f.velocity_fraction, register(6, name="most")
            m.d.sync += most.eq(UPDATE_SHIFT_MAX - Mux(below > 0, below[:4], 0))
        is_forward, is_loss, partial = Signal(), Signal(), Signal(signed(11))
        weighted, constant = Signal(), Signal()
        weight_shift, other = Signal(5), Signal(signed(8))
        is_add, from_a = flag(m, f.opcode, "is_add", *((Opcode.ADD,) if self.vector else ())), Const(0, 1)
        if self.vector:
            from_a = self._align(m, sa, sb)
        source, update, bias, scaling = (
            Signal(signed(11), name=name) for name in ("source", "update", "bias_shift", "scaling")
        )
        m.d.sync += [
            is_forward.eq(among(f.opcode, passes.TO_OUTPUT)),
            is_loss.eq(f.opcode == Opcode.LOSS),
            weighted.eq(among(f.opcode, passes.WEIGHTED)),
            constant.eq(f.constant != 0),
            weight_shift.eq(Mux(weighted, f.weight_shift, 0)),
            partial.eq(Mux(is_loss, -PROBABILITY_BITS, Mux(is_add, 0, sa + weight_shift))),
            # B's, that of a constant, or the lesser one of what is added.
            other.eq(Mux(is_add & from_a, sa, Mux(constant, f.bias_exponent, sb))),
            source.eq(other + partial),
            update.eq(sm - sd + f.lr_shift - below),
            bias.eq(f.bias_exponent - Mux(is_forward, sa, sb)),
            scaling.eq(LOG2E_BITS - FRACTION_BITS - SCALE_SHIFT_MIN - sa),
        ]
        raw, power = Signal(signed(12)), Signal(range(self.activation_bits - 1))
        m.d.sync += [
            raw.eq(sd - source),
            self.narrow_shift.eq(clamped(raw, SHIFT_MIN, SHIFT_MAX)),
            self.update_shift.eq(Mux(update < UPDATE_SHIFT_MIN, UPDATE_SHIFT_MIN, Mux(update > most, most, update))),
            power.eq(clamped(bias, 0, self.activation_bits - 2)),
            self.bias.eq(Const(1, self.activation_bits) << power),
            self.loss_shift.eq(clamped(scaling, 0, SCALE_SHIFT_MAX - SCALE_SHIFT_MIN)),
        ]

        # The spread's bits: of each group first.
        groups = [bit_length(self.spread[k : k + GROUP]) for k in range(0, self.spread_bits, GROUP)]
        lengths = [Signal(range(GROUP + 1), name=f"length_{k}") for k in range(len(groups))]
        m.d.sync += [length.eq(group) for length, group in zip(lengths, groups, strict=True)]
        bits = Signal(range(self.spread_bits + 1))
        total: Value = lengths[0]
        for k, length in enumerate(lengths[1:], 1):
            total = Mux(length != 0, length + k * GROUP, total)
        above = Signal(signed(8))
        next_exponent = Signal(signed(12))
        some = Signal(2)
        m.d.sync += [
            bits.eq(total),
            above.eq(bits + 1 - f.width),
            next_exponent.eq(source + Mux(above > 0, above, 0)),
            some.eq(Cat(bits != 0, some[0])),
            self.following.eq(Mux(some[1], clamped(next_exponent, EXPONENT_MIN, EXPONENT_MAX), sd)),
        ]
        return m

    def _align(self, m: Module, sa: Value, sb: Value) -> Value:
        """`alignment` of arch/numbers.py: the factors; whether the sum's exponent is A's, three cycles after both."""
        apart, far = Signal(signed(9), name="apart"), register(8, name="far")
        finer = register(name="finer")
        a_finer, near, from_a = register(name="a_finer"), register(name="near"), register(name="from_a")
        distance = register(4, name="distance")
        power = (Const(1, 1) << distance)[: ALIGN_MAX + 1]
        m.d.sync += [
            apart.eq(sa - sb),
            far.eq(Mux(apart[-1], -apart, apart)),
            finer.eq(apart[-1]),
            a_finer.eq(finer),
            near.eq(far <= ALIGN_MAX),
            distance.eq(far),
            from_a.eq(finer == (far <= ALIGN_MAX)),
            self.factor_a.eq(Mux(a_finer, near, Mux(near, power, 1))),
            self.factor_b.eq(Mux(a_finer, Mux(near, power, 1), near)),
        ]
        return from_a
