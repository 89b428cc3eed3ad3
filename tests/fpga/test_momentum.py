"""Velocities: the unit against arch/momentum.py, the delay line against a list."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from insitu.arch import momentum as rule
from insitu.arch.numbers import Overflow, Rounding, fit
from insitu.arch.params import CoreParams
from insitu.fpga.momentum import STEP_BITS, DelayLine, Momentum
from insitu.fpga.rotate import Rotator
from insitu.fpga.transfer import WRITE_LATENCY
from tests.fpga.units import simulate

#: Cycles in which what is static settles.
STATIC = 10


@pytest.mark.parametrize("cycles", [2, 3, 7, 8, 9, 26])
def test_a_delay_line(cycles: int) -> None:
    unit, random = DelayLine(5, cycles), Random(cycles)
    given = [random.randrange(32) for _ in range(80)]

    async def script(ctx: Any) -> None:
        for at, value in enumerate(given):
            ctx.set(unit.i, value)
            if at >= cycles:
                assert ctx.get(unit.o) == given[at - cycles]
            await ctx.tick()

    simulate(unit, script)


@dataclass(frozen=True)
class Row:
    """A row of D: what its masters and velocities were, in the order of banks; the rest in the lanes'."""

    turn: int
    bits: list[int]
    lanes: int
    steps: list[int]
    velocities: list[int]
    masters: list[int]


def drawn(random: Random, params: CoreParams) -> Row:
    n, half, masters = params.n, 1 << (params.momentum_bits - 1), 1 << (params.master_bits - 1)
    steps = random.choice([4, half, 1 << (STEP_BITS - 1)])
    return Row(
        turn=random.randrange(n),
        bits=[random.getrandbits(32) for _ in range(n)],
        lanes=random.choice([(1 << n) - 1, (1 << random.randrange(1, n)) - 1]),
        steps=[random.randrange(-steps, steps) for _ in range(n)],
        velocities=[random.choice([-half, half - 1, random.randrange(-half, half)]) for _ in range(n)],
        masters=[random.choice([-masters, masters - 1, random.randrange(-masters, masters)]) for _ in range(n)],
    )


def expected(row: Row, fields: dict[str, int], n: int) -> tuple[list[int | None], list[int], int]:
    """What the row's masters lose, its velocities, bank by bank (None where the row has none), and how many of those
    saturated."""
    width, below, rounding = fields["momentum_width"], fields["velocity_fraction"], fields["momentum_rounding"]
    moves: list[int | None] = [None] * n
    velocities, beyond = list(row.velocities), 0
    for lane in range(n):
        bank, r = (lane + row.turn) % n, row.bits[lane]
        if not row.lanes >> lane & 1:
            continue
        kept = rule.kept(row.velocities[bank], fields["momentum_mul"], rounding, r)
        shift = rule.decay_shift(fields["decay_shift"], below)
        decayed = rule.decayed(row.masters[bank], fields["decay_mul"], shift, width, rounding, r)
        total = kept + row.steps[lane] + decayed
        velocities[bank] = fit(total, width, Overflow.SATURATE)
        beyond += velocities[bank] != total
        moved = rule.moved(velocities[bank], below, fields["update_rounding"], r)
        moves[bank] = fit(moved, max(STEP_BITS, fields["step_bits"]), Overflow.SATURATE)
    return moves, velocities, beyond


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize(("n", "bits", "master_bits"), [(4, 16, 16), (8, 9, 32), (4, 2, 5)])
def test_velocities_move(n: int, bits: int, master_bits: int, rounding: Rounding) -> None:
    params = CoreParams(n=n, weight_bits=min(8, master_bits), momentum_bits=bits, master_bits=master_bits)
    step_bits = max(STEP_BITS, master_bits + 2)
    unit, random = Momentum(params, step_bits), Random(f"{n} {bits} {master_bits} {rounding}")

    async def script(ctx: Any) -> None:
        for update, below in zip(Rounding, random.sample([-24, -3, 0, 1, 7, 15], len(Rounding)), strict=True):
            fields = {
                "momentum_width": random.choice([bits, random.randint(2, bits)]),
                "momentum_mul": random.choice([0, 230, 256, random.randrange(257)]),
                "velocity_fraction": below,
                "momentum_rounding": int(rounding),
                "update_rounding": int(update),
                "decay_mul": random.choice([0, 1, 255, random.randrange(256)]),
                "decay_shift": random.choice([0, 31, random.randrange(32)]),
            }
            for name, value in fields.items():
                ctx.set(unit.fields[name], value)
            await ctx.tick().repeat(STATIC)
            await rows(ctx, fields | {"step_bits": step_bits})

    async def rows(ctx: Any, fields: dict[str, int]) -> None:
        """Rows with gaps, each part of one when it is due."""
        moving = Momentum.STEP_AFTER + Momentum.LATENCY
        masters_at, written_at = moving + Rotator.LATENCY, moving + WRITE_LATENCY
        given = [drawn(random, params) if random.random() < 0.7 else None for _ in range(12)]
        counted, beyond = 0, 0
        for at in range(len(given) + written_at + 2):
            row = given[at] if at < len(given) else None
            ctx.set(unit.col_lanes, row.lanes if row else 0)
            if row:
                ctx.set(unit.row, row.turn)
                for k in range(n):
                    ctx.set(unit.r[k], row.bits[k])
            for k in range(n):
                if (row := due(given, at - Rotator.LATENCY)) is not None:
                    ctx.set(unit.velocity[k], row.velocities[k])
                    ctx.set(unit.master[k], row.masters[k])
                if (row := due(given, at - Momentum.STEP_AFTER)) is not None:
                    ctx.set(unit.step[k], row.steps[k])
            counted += ctx.get(unit.unfit)
            if (row := due(given, at - moving)) is not None:
                moves, _, more = expected(row, fields, n)
                beyond += more
                assert ctx.get(unit.banks) == sum(1 << k for k in range(n) if moves[k] is not None)
                assert [ctx.get(unit.moves[k]) if moves[k] is not None else None for k in range(n)] == moves, fields
            if (row := due(given, at - masters_at)) is not None:
                assert [ctx.get(unit.masters[k]) for k in range(n)] == row.masters
            if (row := due(given, at - written_at)) is not None:
                moves, velocities, _ = expected(row, fields, n)
                got = [ctx.get(unit.to_write[k]) for k in range(n)]
                assert [v for v, move in zip(got, moves, strict=True) if move is not None] == [
                    v for v, move in zip(velocities, moves, strict=True) if move is not None
                ]
            await ctx.tick()
        assert counted == beyond

    def due(given: list[Row | None], at: int) -> Row | None:
        return given[at] if 0 <= at < len(given) else None

    simulate(unit, script)
