"""What an instruction derives from its scale registers, against the contract's formulas."""

from __future__ import annotations

from random import Random
from typing import Any

from insitu.arch.isa import USED, Instruction, Opcode
from insitu.arch.numbers import alignment, clamp, range_exponent
from insitu.arch.params import SCALES
from insitu.fpga.exponents import Exponents, ScaleRegisters
from tests.fpga.units import simulate


def random_instruction(random: Random) -> Instruction:
    products = [Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE]
    vector = [Opcode.DW_FORWARD, Opcode.DW_BACKWARD, Opcode.DW_UPDATE, Opcode.ADD, Opcode.MULTIPLY, Opcode.REDUCE]
    opcode = random.choice([*products, Opcode.LOSS, *vector])
    values: dict[str, Any] = {"opcode": opcode, "rows": 1, "cols": 2, "width": random.randrange(2, 17)}
    values |= {"track": random.randrange(2), "sa": random.randrange(3), "sb": random.randrange(3)}
    values["sd"] = random.randrange(3)
    if opcode in products:
        values["depth"] = 2
    if opcode in (Opcode.DW_FORWARD, Opcode.DW_BACKWARD) and random.randrange(2):
        values |= {"constant": 5, "sb": 0}
    elif opcode in (Opcode.FORWARD, Opcode.BACKWARD, Opcode.DW_FORWARD, Opcode.DW_BACKWARD):
        values |= {"weight_width": 8, "weight_shift": random.randrange(32)}
    if opcode in (Opcode.UPDATE, Opcode.DW_UPDATE):
        values |= {"master_width": 8, "sm": random.randrange(3), "lr_shift": random.randrange(64)}
    if "bias_exponent" in USED[opcode]:
        values["bias_exponent"] = random.randrange(-32, 32)
    return Instruction(**values)


def test_shifts_bias_and_the_next_exponent() -> None:
    unit = Exponents(8, 40, SCALES)
    random = Random(1)

    async def script(ctx: Any) -> None:
        scales: list[tuple[int, int]] = []
        coming = [(0, 0)] * (ScaleRegisters.LATENCY - 1)

        async def tick() -> None:
            coming.append(scales[ctx.get(unit.index) % 3])
            await ctx.tick()
            exponent, following = coming.pop(0)
            ctx.set(unit.scale, exponent & 0xFF | (following & 0xFF) << 8)

        for _ in range(600):
            i = random_instruction(random)
            limit = random.choice([8, 30, 128])
            scales = [(random.randrange(-limit, limit), random.randrange(-limit, limit)) for _ in range(3)]
            for name in (
                "opcode",
                "track",
                "sa",
                "sb",
                "sd",
                "sm",
                "width",
                "weight_shift",
                "lr_shift",
                "bias_exponent",
                "constant",
            ):
                ctx.set(unit.fields[name], int(getattr(i, name)))
            for slot in range(1, 5):
                ctx.set(unit.slot, slot)
                await tick()
            ctx.set(unit.slot, 0)
            for _ in range(Exponents.SETTLE):
                await tick()

            in_use = [e for e, _ in scales]
            if i.track:
                in_use[i.sd] = scales[i.sd][1]
            source = in_use[i.sb] + (-16 if i.opcode is Opcode.LOSS else in_use[i.sa] + i.weight_shift)
            if i.constant:
                source = in_use[i.sa] + i.bias_exponent
            if i.opcode is Opcode.ADD:
                factor_a, factor_b, source = alignment(in_use[i.sa], in_use[i.sb])
                assert (ctx.get(unit.factor_a), ctx.get(unit.factor_b)) == (factor_a, factor_b)
            assert ctx.get(unit.target) == in_use[i.sd]
            assert ctx.get(unit.narrow_shift) == clamp(in_use[i.sd] - source, -8, 47)
            assert ctx.get(unit.loss_shift) == clamp(7 - in_use[i.sa], -8, 31) + 8
            if i.opcode in (Opcode.UPDATE, Opcode.DW_UPDATE):
                assert ctx.get(unit.update_shift) == clamp(in_use[i.sm] - in_use[i.sd] + i.lr_shift, -24, 31)
            if "bias" in USED[i.opcode] and not i.constant:
                operand = in_use[i.sa if i.opcode in (Opcode.FORWARD, Opcode.DW_FORWARD) else i.sb]
                assert ctx.get(unit.bias) == 1 << clamp(i.bias_exponent - operand, 0, 6)
            spread = random.getrandbits(39) >> random.randrange(40)
            ctx.set(unit.spread, spread)
            await ctx.tick().repeat(5)
            bits = spread.bit_length()
            want = range_exponent(source, bits, i.width) if bits else in_use[i.sd]
            assert ctx.get(unit.following) == want

    simulate(unit, script)


def test_scale_registers_keep_both_writers() -> None:
    unit = ScaleRegisters(SCALES)

    async def script(ctx: Any) -> None:
        # Both at once: the bus first, the core right after.
        ctx.set(unit.bus_write_index, 3)
        ctx.set(unit.bus_data, 0x1234)
        ctx.set(unit.core_write_index, 5)
        ctx.set(unit.core_data, 0x5678)
        ctx.set(unit.core_write, 1)
        await ctx.tick()
        ctx.set(unit.core_write, 0)
        ctx.set(unit.bus_write, 1)
        await ctx.tick()
        ctx.set(unit.bus_write, 0)
        await ctx.tick()
        for index, value in ((3, 0x1234), (5, 0x5678), (4, 0)):
            ctx.set(unit.bus_index, index)
            ctx.set(unit.core_index, index)
            await ctx.tick().repeat(ScaleRegisters.LATENCY)
            assert ctx.get(unit.bus_o) == ctx.get(unit.core_o) == value

    simulate(unit, script)
