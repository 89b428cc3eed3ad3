"""The vector unit's sums and the tables' words against plain integers."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from amaranth import Module
from amaranth.lib import wiring

from insitu.arch.isa import FIELDS, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.fpga.memory import BankedMemory
from insitu.fpga.tables import TableMemory
from insitu.fpga.vector import VectorUnit
from tests.fpga.units import simulate

N, ACT, ERR, WEIGHT, DEPTH = 4, 7, 9, 5, 64
BIAS, FACTORS = 16, (1 << 14, 8)
SUM = {"rows": 1, "cols": 1, "width": 2}
TABLE = {"table_base": 32, "table_bits": 4, "table_drop": 3}
#: The passes and what there is to each of them.
KINDS = [
    Instruction(opcode=Opcode.DW_FORWARD, **SUM, weight_width=2, bias=1),
    Instruction(opcode=Opcode.DW_FORWARD, **SUM, constant=9),
    Instruction(opcode=Opcode.DW_BACKWARD, **SUM, constant=1 << 14),
    Instruction(opcode=Opcode.DW_UPDATE, **SUM, master_width=2, bias=1),
    Instruction(opcode=Opcode.ADD, **SUM),
    Instruction(opcode=Opcode.ADD, **SUM, memory=Memory.ERR, mask=1),
    Instruction(opcode=Opcode.MULTIPLY, **SUM),
    Instruction(opcode=Opcode.MULTIPLY, **SUM, **TABLE),
    Instruction(opcode=Opcode.MULTIPLY, **SUM, memory=Memory.ERR, mask=1, **TABLE),
    Instruction(opcode=Opcode.REDUCE, **SUM, mask=1),
]


class WithTables(wiring.Component):
    """A vector unit beside its tables."""

    def __init__(self, accumulator_bits: int) -> None:
        self.unit = VectorUnit(N, ACT, ERR, WEIGHT, accumulator_bits)
        self.tables = TableMemory(N, DEPTH, ACT)
        super().__init__({})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.unit, m.submodules.tables = self.unit, self.tables
        m.d.comb += [
            self.tables.fields.eq(self.unit.fields),
            self.tables.x.eq(self.unit.look),
            self.unit.found.eq(self.tables.o),
        ]
        return m


def set_fields(ctx: Any, fields: Any, i: Instruction) -> None:
    for name in FIELDS:
        ctx.set(fields[name], int(getattr(i, name)))


def word(x: int, i: Instruction) -> int:
    """The word of the table that an element has."""
    size = 1 << i.table_bits
    return i.table_base + ((x >> i.table_drop) + size // 2) % size


def rows_of(i: Instruction, random: Random) -> list[list[tuple[list[int], list[int], bool, bool]]]:
    """Some rows: the steps of each, (z, t, zero, extra)."""
    memory = i.memory is Memory.ACT

    def step(*, zero: bool = False, extra: bool = False) -> tuple[list[int], list[int], bool, bool]:
        bits = ACT if memory and i.opcode in (Opcode.ADD, Opcode.MULTIPLY) else ERR
        t_bits = WEIGHT if i.opcode is Opcode.DW_FORWARD else ACT
        z, t = ([random.choice([-(1 << b - 1), (1 << b - 1) - 1, random.randrange(-(1 << b - 1), 1 << b - 1)])
                 for _ in range(N)] for b in (bits, t_bits))  # fmt: skip
        return z, t, zero, extra

    rows = []
    for _ in range(40):
        if i.opcode in (Opcode.ADD, Opcode.MULTIPLY):
            rows.append([step(), step(extra=True)] if i.opcode is Opcode.ADD or memory or i.mask else [step()])
        elif i.opcode is Opcode.DW_UPDATE:
            bias = random.random() < 0.3
            rows.append([step(extra=bias) for _ in range(random.randint(1, 5))])
        elif random.random() < 0.2 and i.opcode is not Opcode.REDUCE:
            rows.append([step(extra=True)] if i.bias else [step(zero=True)])
        else:
            extra = [step(extra=True)] if i.bias or i.mask else []
            rows.append([step() for _ in range(random.randint(1, 5))] + extra)
    return rows


def terms(i: Instruction, row: list[tuple[list[int], list[int], bool, bool]], lane: int, table: Any) -> list[int]:
    """The terms of a row's sum in a lane."""
    out, before = [], 0
    for z, t, zero, extra in row:
        x, y = z[lane], t[lane]
        if i.opcode is Opcode.ADD:
            out.append(x * FACTORS[extra])
        elif i.opcode is Opcode.MULTIPLY and i.memory is Memory.ACT:
            y = table[word(x, i)][lane] if i.table_bits else x
            out += [before * y] if extra else []
            before = x
        elif i.opcode in (Opcode.MULTIPLY, Opcode.REDUCE):
            y = table[word(y, i)][lane] if i.table_bits else y
            out += [] if extra else [x * y]
        elif not zero:
            y = i.constant or (BIAS if extra and i.opcode is Opcode.DW_UPDATE else y)
            out.append((BIAS if extra and i.opcode is Opcode.DW_FORWARD else x) * y)
    return out


def wrapped(values: list[int], bits: int) -> tuple[int, bool]:
    """Their sum, and whether it left its bits on the way."""
    total, left, half = 0, False, 1 << (bits - 1)
    for value in values:
        total += value
        left |= not -half <= total < half
        total = (total + half) % (2 * half) - half
    return total, left


@pytest.mark.parametrize(("bits", "waits"), [(40, 0.0), (12, 0.4)])
@pytest.mark.parametrize("i", KINDS, ids=lambda i: str(i).replace(" ", "-"))
def test_rows_are_summed_lane_by_lane(i: Instruction, bits: int, waits: float) -> None:
    random = Random(bits)
    bench = WithTables(bits)
    unit = bench.unit
    table = [[random.randrange(-64, 64) for _ in range(N)] for _ in range(DEPTH)]
    rows, columns = rows_of(i, random), [random.choice([0b1111, 0b0011]) for _ in range(40)]
    sums = [[wrapped(terms(i, row, k, table), bits) for k in range(N)] for row in rows]
    want = [[s for s, _ in lanes[: c.bit_count()]] for lanes, c in zip(sums, columns, strict=True)]
    leaves = any(left for lanes, c in zip(sums, columns, strict=True) for _, left in lanes[: c.bit_count()])

    async def script(ctx: Any) -> None:
        for k, bank in enumerate(bench.tables.banks):
            for at in range(DEPTH):
                ctx.set(bank.data[at], table[at][k] & 127)
        set_fields(ctx, unit.fields, i)
        for name, value in {"bias": BIAS, "factor_a": FACTORS[0], "factor_b": FACTORS[1], "clear": 1}.items():
            ctx.set(getattr(unit, name), value)
        await ctx.tick().repeat(4)
        ctx.set(unit.clear, 0)
        got, due, over, words = [], [False, False], False, []

        async def tick() -> None:
            """A step's words come AHEAD cycles after it."""
            nonlocal over
            await ctx.tick()
            over |= bool(ctx.get(unit.overflow))
            if due.pop(0):
                got.append([ctx.get(unit.sums[k]) for k in range(columns[len(got)].bit_count())])
            due.append(bool(ctx.get(unit.go)))
            words.append(None)
            coming = words[-1 - VectorUnit.AHEAD] if len(words) > VectorUnit.AHEAD else None
            for k in range(N if coming else 0):
                ctx.set(unit.z[k], coming[0][k])
                ctx.set(unit.t[k], coming[1][k])

        for row, column in zip(rows, columns, strict=True):
            for k, (z, t, zero, extra) in enumerate(row):
                while random.random() < waits:
                    ctx.set(unit.valid, 0)
                    await tick()
                given = {"valid": 1, "zero": zero, "extra": extra, "last": k == len(row) - 1, "col_lanes": column}
                for name, value in given.items():
                    ctx.set(getattr(unit, name), value)
                if words:
                    words[-1] = (z, t)
                else:
                    words.append((z, t))
                await tick()
        ctx.set(unit.valid, 0)
        for _ in range(VectorUnit.AHEAD + VectorUnit.LATENCY + 3):
            await tick()
        assert got == want
        assert over == leaves

    simulate(bench, script)


@pytest.mark.parametrize(("bits", "depth"), [(3, 4), (8, 256), (16, 4096)])
def test_a_lane_looks_up_its_own_bank(bits: int, depth: int) -> None:
    random = Random(bits)
    for _ in range(6):
        size = random.randint(2, depth.bit_length() - 1)
        i = Instruction(
            opcode=Opcode.LOOKUP,
            rows=1,
            cols=1,
            table_bits=size,
            table_base=random.randrange(depth >> size) << size,
            table_drop=random.choice([0, random.randrange(16), max(0, bits - size)]),
        )
        unit = TableMemory(N, depth, bits)
        half = 1 << (bits - 1)
        items = [[random.randrange(-half, half) for _ in range(N)] for _ in range(30)]
        content = {(word(x, i), k): random.randrange(-half, half) for item in items for k, x in enumerate(item)}

        async def script(ctx: Any, i: Any = i, unit: Any = unit, items: Any = items, content: Any = content) -> None:
            set_fields(ctx, unit.fields, i)
            for (at, k), value in content.items():
                ctx.set(unit.banks[k].data[at], value & ((1 << unit.width) - 1))
            await ctx.tick()
            got = []
            for item in items + items[:1] * (TableMemory.LATENCY - 1):
                for k, x in enumerate(item):
                    ctx.set(unit.x[k], x)
                await ctx.tick()
                got.append([ctx.get(unit.o[k]) for k in range(N)])
            want = [[content[word(x, i), k] for k, x in enumerate(item)] for item in items]
            assert got[TableMemory.LATENCY - 1 :] == want

        simulate(unit, script)


def test_tables_are_written_as_other_memories_are() -> None:
    unit = TableMemory(N, DEPTH, ACT)
    assert unit.WRITE_LATENCY == BankedMemory.WRITE_LATENCY
    random = Random(0)
    held = [[0] * N for _ in range(DEPTH)]

    async def script(ctx: Any) -> None:
        for _ in range(60):
            at, lanes = random.randrange(DEPTH), random.randrange(1 << N)
            values = [random.randrange(-64, 64) for _ in range(N)]
            ctx.set(unit.write.address, at)
            ctx.set(unit.write.enable, lanes)
            for k, value in enumerate(values):
                ctx.set(unit.write.data[k], value)
                held[at][k] = value if lanes >> k & 1 else held[at][k]
            await ctx.tick()
        ctx.set(unit.write.enable, 0)
        await ctx.tick().repeat(unit.WRITE_LATENCY)
        for k, bank in enumerate(unit.banks):
            assert [ctx.get(bank.data[at]) for at in range(DEPTH)] == [row[k] & 127 for row in held]

    simulate(unit, script)
