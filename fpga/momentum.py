"""Velocities: what gradients add to them, what is kept of them and what decays, and what they move masters by."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.isa import FIELDS, FRACTIONS, MOMENTUM_BITS
from insitu.arch.momentum import decay_shift
from insitu.arch.numbers import RANDOM_BITS
from insitu.arch.params import CoreParams
from insitu.fpga.common import FieldsLayout, delay, lanes, register
from insitu.fpga.fit import Fit, FitLayout, drive_fit
from insitu.fpga.rotate import Rotator
from insitu.fpga.shift import RoundShift, ShiftControl, ShiftShape
from insitu.fpga.transfer import WRITE_LATENCY

#: Bits that what a gradient adds needs at least: with what is kept and what decays beside it, which have 16 each, a sum
#: of more saturates whatever they are.
STEP_BITS = 18
_LEAST, _MOST = FRACTIONS
_DECAY = decay_shift(FIELDS["decay_shift"].maximum, _LEAST)


class DelayLine(wiring.Component):
    """`o` is `i` of `cycles` cycles ago, 2 or more: a distributed memory, where registers would be `cycles` times as
    many as bits."""

    def __init__(self, bits: int, cycles: int) -> None:
        assert cycles >= 2
        self.cycles = cycles
        #: A multiple of four bits, as distributed memories are.
        self.bits, self.stored = bits, -(-bits // 4) * 4
        super().__init__({"i": In(bits), "o": Out(bits)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        places = (self.cycles - 1).bit_length()
        m.submodules.words = words = memory.Memory(shape=unsigned(self.stored), depth=1 << places, init=[])
        write, read = words.write_port(), words.read_port(domain="comb")
        target, source, o = Signal(places), register(places), register(self.bits)
        m.d.sync += [target.eq(target + 1), source.eq(target - (self.cycles - 2)), o.eq(read.data)]
        m.d.comb += [
            write.addr.eq(target),
            write.data.eq(self.i),
            write.en.eq(1),
            read.addr.eq(source),
            self.o.eq(o),
        ]
        return m


class Momentum(wiring.Component):
    """A row of N velocities and masters a cycle, by the rule of arch/momentum.py; in the order of banks, as they are
    read and written.

    fields: static while an instruction runs. row, r, col_lanes: of a row of D, its lanes' random bits and which lanes
    it has. velocity, master: its words, Rotator.LATENCY cycles later. step: the gradient's, in the lanes' order,
    STEP_AFTER cycles after r. moves: what the masters lose, LATENCY cycles after step, and banks, those that the row
    has. to_write: the new velocities, and masters: the old masters, each when the writes of Transfer take them of a row
    that came with `moves`. unfit: velocities that saturated, a count a row. No back pressure.
    """

    #: From what is kept, and what decays, to their sum; from that and the step to the velocity and what it moves.
    _TERM = 2 + RoundShift.LATENCY + Fit.LATENCY + 1
    STEP_AFTER = RoundShift.LATENCY + Fit.LATENCY
    LATENCY = Rotator.LATENCY + _TERM - STEP_AFTER + 1 + Fit.LATENCY + RoundShift.LATENCY + Fit.LATENCY
    #: From r to a velocity.
    _VELOCITY = Rotator.LATENCY + _TERM + 1 + Fit.LATENCY

    def __init__(self, params: CoreParams, step_bits: int) -> None:
        n, bits, masters = params.n, params.momentum_bits, params.master_bits
        self.params, self.step_bits = params, step_bits
        assert step_bits >= STEP_BITS
        self.kept_shape = ShiftShape(bits + MOMENTUM_BITS + 1, 0, MOMENTUM_BITS, bits)
        self.decay_shape = ShiftShape(masters + FIELDS["decay_mul"].width, 0, _DECAY, bits)
        self.moves_shape = ShiftShape(bits, -_LEAST, _MOST, step_bits)
        super().__init__(
            {
                "fields": In(FieldsLayout),
                "row": In(n.bit_length() - 1),
                "r": In(lanes(RANDOM_BITS, n)),
                "col_lanes": In(n),
                "velocity": In(lanes(signed(bits), n)),
                "master": In(lanes(signed(masters), n)),
                "step": In(lanes(signed(step_bits), n)),
                "moves": Out(lanes(signed(step_bits), n)),
                "banks": Out(n),
                "to_write": Out(lanes(signed(bits), n)),
                "masters": Out(lanes(signed(masters), n)),
                "unfit": Out(range(n + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, f = self.params.n, self.fields
        bits = self.params.momentum_bits
        controls, decay = {}, f.decay_shift - f.velocity_fraction
        for name, shape, shift, rounding in (
            ("kept", self.kept_shape, MOMENTUM_BITS, f.momentum_rounding),
            ("decay", self.decay_shape, Mux(decay > 0, decay, 0), f.momentum_rounding),
            ("moves", self.moves_shape, f.velocity_fraction, f.update_rounding),
        ):
            m.submodules[f"{name}_control"] = control = ShiftControl(shape)
            m.d.comb += [control.shift.eq(shift), control.rounding.eq(rounding)]
            controls[name] = control.o
        fit_velocity, fit_moves = Signal(FitLayout(bits)), Signal(FitLayout(self.step_bits))
        drive_fit(m, fit_velocity, f.momentum_width, 0)
        m.d.comb += [fit_moves.low.eq((1 << (self.step_bits - 1)) - 1), fit_moves.sign.eq(1 << (self.step_bits - 1))]

        # Into the order of banks: random bits, lanes, the gradient's step.
        bank = data.StructLayout({"r": unsigned(RANDOM_BITS), "valid": unsigned(1)})
        m.submodules.turn = turn = Rotator(n, bank)
        m.submodules.turn_step = turn_step = Rotator(n, signed(self.step_bits))
        m.d.comb += [
            turn.amount.eq(-self.row),
            turn_step.amount.eq(-delay(m, self.row, self.STEP_AFTER, "row")[-1]),
            *(turn_step.i[k].eq(self.step[k]) for k in range(n)),
        ]
        for k in range(n):
            m.d.comb += [turn.i[k].r.eq(self.r[k]), turn.i[k].valid.eq(self.col_lanes[k])]

        # What waits for a velocity: the bits that move its master, and which banks there are.
        wait = self._VELOCITY - Rotator.LATENCY
        top = _MOST
        m.submodules.waiting = waiting = DelayLine(n * top, wait - 1)
        m.submodules.valid = valid = DelayLine(n, wait)
        down = register(4)
        m.d.sync += down.eq(top - f.velocity_fraction[:4])
        moving = register(lanes(top, n))
        m.d.sync += [moving[k].eq(turn.o[k].r[RANDOM_BITS - top :] >> down) for k in range(n)]
        late_bits = Signal(lanes(top, n))
        m.d.comb += [
            waiting.i.eq(moving.as_value()),
            late_bits.as_value().eq(waiting.o),
            valid.i.eq(Cat(turn.o[k].valid for k in range(n))),
        ]
        behind = delay(m, valid.o, RoundShift.LATENCY + Fit.LATENCY, "banks")
        m.d.comb += self.banks.eq(behind[-1])

        # What the writes take later: they come WRITE_LATENCY after `moves`, masters leave Transfer's rotator before.
        since = RoundShift.LATENCY + Fit.LATENCY
        m.submodules.written = written = DelayLine(n * bits, since + WRITE_LATENCY)
        m.submodules.old = old = DelayLine(n * len(self.master[0]), wait + since + Rotator.LATENCY)
        m.d.comb += [
            old.i.eq(self.master.as_value()),
            self.masters.as_value().eq(old.o),
            self.to_write.as_value().eq(written.o),
        ]

        changed, velocities = [], Signal(lanes(signed(bits), n))
        # 2: operands and products; then rounded; what decays is fitted meanwhile.
        for k in range(n):
            r = delay(m, turn.o[k].r, 2, f"r_{k}")[-1]
            kept = self._term(m, f"kept_{k}", self.velocity[k], f.momentum_mul, controls["kept"], self.kept_shape, r)
            decay = self._term(m, f"decay_{k}", self.master[k], f.decay_mul, controls["decay"], self.decay_shape, r)
            m.submodules[f"decayed_{k}"] = decayed = Fit(len(decay), bits)
            m.d.comb += [decayed.control.eq(fit_velocity), decayed.i.eq(decay)]
            terms = register(signed(bits + 1), name=f"terms_{k}")
            m.d.sync += terms.eq(delay(m, kept[:bits].as_signed(), Fit.LATENCY, f"late_{k}")[-1] + decayed.o)
            step = delay(m, turn_step.o[k], self._TERM - self.STEP_AFTER, f"step_{k}")[-1]
            total = register(signed(self.step_bits + 1), name=f"total_{k}")
            m.d.sync += total.eq(step + terms)
            m.submodules[f"fit_{k}"] = fit = Fit(len(total), bits)
            m.submodules[f"move_{k}"] = move = RoundShift(self.moves_shape)
            m.submodules[f"limit_{k}"] = limit = Fit(len(move.o), self.step_bits)
            m.d.comb += [
                fit.control.eq(fit_velocity),
                fit.i.eq(total),
                velocities[k].eq(fit.o),
                move.control.eq(controls["moves"]),
                move.i.eq(fit.o),
                move.r.eq(late_bits[k]),
                limit.control.eq(fit_moves),
                limit.i.eq(move.o),
                self.moves[k].eq(limit.o),
            ]
            changed.append(fit.changed & valid.o[k])
        m.d.comb += written.i.eq(velocities.as_value())
        moved = register()
        m.d.sync += [moved.eq(f.momentum_width != 0), self.unfit.eq(Mux(moved, sum(changed), 0))]
        return m

    def _term(self, m: Module, name: str, word: Any, mul: Any, control: Any, shape: ShiftShape, r: Any) -> Any:
        """A word times a rate, rounded: 2 + RoundShift.LATENCY cycles later; r comes with the product."""
        held, rate = register(word.shape(), name=f"held_{name}"), register(mul.shape(), name=f"rate_{name}")
        product = register(signed(shape.bits), name=f"product_{name}")
        m.d.sync += [held.eq(word), rate.eq(mul), product.eq(held * rate)]
        m.submodules[name] = rounded = RoundShift(shape)
        m.d.comb += [rounded.control.eq(control), rounded.i.eq(product), rounded.r.eq(r)]
        return rounded.o
