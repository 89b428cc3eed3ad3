"""The lanes' random bits: two xorshift generators each, seeded by a pipelined hash."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.generator import GOLDEN, MIX, MIX_STAGES, STREAMS
from insitu.arch.numbers import Rounding
from insitu.fpga.common import copies, lanes, register


def xorshift(state: Value) -> Value:
    """One step of the generator of arch/generator.py on a 32-bit value."""
    state = state ^ (state << 13)[:32]
    state = state ^ (state >> 17)
    return state ^ (state << 5)[:32]


def _mix(stage: int, a: Value) -> Value:
    """A line of `mix` of arch/generator.py."""
    return [
        lambda: a + MIX[0] + (a << 12),
        lambda: a ^ MIX[1] ^ (a >> 19),
        lambda: a + MIX[2] + (a << 5),
        lambda: (a + MIX[3]) ^ (a << 9),
        lambda: a + MIX[4] + (a << 3),
        lambda: a ^ MIX[5] ^ (a >> 16),
    ][stage]()[:32]


def draws(fields: Any, *, velocities: bool) -> Value:
    """Whether an instruction takes random bits."""
    names = ("rounding", "update_rounding", *(("momentum_rounding",) if velocities else ()))
    return Cat(fields[name] == Rounding.STOCHASTIC for name in names).any()


class LaneGenerators(wiring.Component):
    """Generators (lane, stream) for N lanes.

    start: seeds all from `seed`, taking STREAMS * N + MIX_STAGES cycles from the next one on, one generator a cycle.
    step: bit s steps the generators of stream s; `r0` and `r1` hold the new states two cycles later. Neither `step` nor
    another `start` may come while seeding, nor a `step` in the cycle before. Equal to arch/generator.py.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        super().__init__(
            {
                "start": In(1),
                "seed": In(32),
                "step": In(STREAMS),
                "r0": Out(lanes(32, n)),
                "r1": Out(lanes(32, n)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        count = STREAMS * self.n
        left = register(range(count + 1))
        valid = register(MIX_STAGES)
        origin = register(32)
        with m.If(self.start):
            m.d.sync += [left.eq(count), origin.eq(self.seed + GOLDEN)]
        with m.Elif(left != 0):
            m.d.sync += [left.eq(left - 1), origin.eq(origin + GOLDEN)]

        mixed: Value = origin
        m.d.sync += valid.eq((valid << 1) | (left != 0))
        for stage in range(MIX_STAGES):
            late = register(32, name=f"mix_{stage}")
            m.d.sync += late.eq(_mix(stage, mixed))
            mixed = late

        # Generator 2 * lane + stream; seeds shift through from the last one down.
        states = [register(32, name=f"state_{k}") for k in range(count)]
        seed = Mux(mixed == 0, Const(GOLDEN, 32), mixed)
        seeding = copies(m, valid[-2], self.n, "seeding")
        step = copies(m, self.step, self.n, "step")
        for k, state in enumerate(states):
            lane, stream = divmod(k, STREAMS)
            with m.If(seeding[lane]):
                m.d.sync += state.eq(states[k + 1] if k + 1 < count else seed)
            with m.Elif(step[lane][stream]):
                m.d.sync += state.eq(xorshift(state))
        for lane in range(self.n):
            m.d.comb += [self.r0[lane].eq(states[STREAMS * lane]), self.r1[lane].eq(states[STREAMS * lane + 1])]
        return m
