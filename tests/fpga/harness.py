"""The golden harness: a case of tests/reference/strategies.py on the core in Amaranth's simulator and on the emulator.

After every instruction everything that can be seen must be equal, and the cycles those of arch/timing.py.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import numpy as np
from amaranth import ResetInserter, Signal
from amaranth.sim import Simulator

from insitu.arch.isa import WORDS, Instruction
from insitu.arch.params import SCALES, CoreParams
from insitu.arch.registers import REGISTERS, Error
from insitu.arch.timing import cost
from insitu.fpga.axi_lite import READ_LATENCY
from insitu.fpga.core import Core
from insitu.sim.emulator import Emulator
from tests.reference.compare import expect_equal
from tests.reference.machine import State
from tests.reference.strategies import Case

#: Cycles after which an instruction is given up.
PATIENCE = 20_000


class Bench:
    """A core in Amaranth's simulator, its streams and its bus. stalls: chance of each side of each stream to wait."""

    def __init__(self, params: CoreParams, *, stalls: float = 0.0, seed: int = 0) -> None:
        self.params, self.stalls = params, stalls
        self.core = Core(params)
        self.random = Random(seed)
        self.to_send: list[int] = []
        self.received: list[tuple[int, int]] = []
        self._offered = False
        self.reset = Signal()
        self._simulator = Simulator(ResetInserter(self.reset)(self.core))
        self._simulator.add_clock(1e-6)
        self._simulator.add_process(self._send)
        self._simulator.add_process(self._receive)

    def run(self, script: Callable[[Bench, Any], Coroutine[Any, Any, None]]) -> None:
        """Run a script, `async def script(bench, ctx)`, to its end."""

        async def testbench(ctx: Any) -> None:
            self.ctx = ctx
            await script(self, ctx)

        self._simulator.add_testbench(testbench)
        self._simulator.run()

    async def _send(self, ctx: Any) -> None:
        port = self.core.i_stream
        async for _, _, ready in ctx.tick().sample(port.ready):
            if self._offered and ready:
                self.to_send.pop(0)
                self._offered = False
            if not self._offered and self.to_send and self.random.random() >= self.stalls:
                ctx.set(port.payload, self.to_send[0])
                self._offered = True
            ctx.set(port.valid, self._offered)

    def withdraw(self) -> None:
        """Forget what was to be sent, as at a reset."""
        self.to_send.clear()
        self._offered = False
        self.ctx.set(self.core.i_stream.valid, 0)

    async def _receive(self, ctx: Any) -> None:
        port = self.core.o_stream
        ctx.set(port.ready, int(self.stalls == 0))
        ready = self.stalls == 0
        async for _, _, valid, payload in ctx.tick().sample(port.valid, port.payload):
            if valid and ready:
                self.received.append((int(payload.data), int(payload.last)))
            ready = self.random.random() >= self.stalls
            ctx.set(port.ready, ready)

    async def read(self, name: str, index: int = 0) -> int:
        """A register, over the bus."""
        ctx, bus = self.ctx, self.core.bus
        ctx.set(bus.address, REGISTERS[name].offset + 4 * index)
        ctx.set(bus.read, 1)
        await ctx.tick()
        ctx.set(bus.read, 0)
        await ctx.tick().repeat(READ_LATENCY - 1)
        return int(ctx.get(bus.read_data))

    async def write(self, name: str, value: int, index: int = 0) -> None:
        """Write a register, over the bus."""
        ctx, bus = self.ctx, self.core.bus
        ctx.set(bus.address, REGISTERS[name].offset + 4 * index)
        ctx.set(bus.write_data, value & 0xFFFFFFFF)
        ctx.set(bus.write, 1)
        await ctx.tick()
        ctx.set(bus.write, 0)
        await ctx.tick().repeat(3)

    async def command(self, *names: str) -> None:
        """Write CONTROL with some of its bits."""
        fields = REGISTERS["CONTROL"].fields
        await self.write("CONTROL", sum(fields[name].put(1) for name in names))

    async def status(self, name: str) -> int:
        """A field of STATUS."""
        return REGISTERS["STATUS"].fields[name].of(await self.read("STATUS"))

    async def idle(self) -> None:
        """Wait until the core is not busy."""
        await self.ctx.tick()
        for _ in range(PATIENCE):
            if not await self.status("busy"):
                return
        raise AssertionError("the core does not end")

    async def program(self, instructions: tuple[Instruction, ...], at: int = 0) -> None:
        """Load a program over the stream."""
        await self.program_words([int(w) for i in instructions for w in i.encode()], at)

    async def program_words(self, words: list[int], at: int = 0) -> None:
        self.to_send += words
        await self.write("ENTRY", at)
        await self.write("COUNT", len(words) // WORDS)
        await self.command("load_program")
        await self.idle()

    async def step(self, entry: int) -> None:
        """Run one instruction."""
        await self.write("ENTRY", entry)
        await self.command("step")
        await self.idle()

    async def wide(self, name: str) -> int:
        """A 64-bit register."""
        return await self.read(f"{name}_LO") | await self.read(f"{name}_HI") << 32

    def load(self, case: Case) -> None:
        """Put a case's memories into the banks."""
        for memory, image in case.memories.items():
            for index, bank in enumerate(self.core.datapath.memories[memory].banks):
                mask = (1 << case.core.word_bits(memory)) - 1
                for address, value in enumerate(image[:, index].tolist()):
                    self.ctx.set(bank.data[address], value & mask)

    async def place(self, case: Case) -> None:
        """Bring the core to where a case begins."""
        self.load(case)
        for index, (exponent, following) in enumerate(case.scales):
            await self.write("SCALE", exponent & 0xFF | (following & 0xFF) << 8, index)
        await self.write("SEED", case.seed)

    async def state(self) -> State:
        """Everything a test may look at."""
        params = self.params
        memories = {}
        for memory, unit in self.core.datapath.memories.items():
            bits = params.word_bits(memory)
            image = np.zeros((params.depth(memory), params.n), dtype=np.int64)
            for index, bank in enumerate(unit.banks):
                for address in range(params.depth(memory)):
                    image[address, index] = _signed(int(self.ctx.get(bank.data[address])), bits)
            memories[memory] = image
        scales = []
        for index in range(SCALES):
            word = await self.read("SCALE", index)
            scales.append((_signed(word & 0xFF, 8), _signed(word >> 8 & 0xFF, 8)))
        return State(
            memories=memories,
            scales=tuple(scales),
            seed=await self.read("SEED"),
            accumulator_overflow=bool(await self.status("accumulator_overflow")),
            saturated=await self.read("SATURATED"),
            macs=await self.wide("MACS"),
            instructions=await self.read("INSTRUCTIONS"),
            stream_out=[self.lanes(beat) for beat, _ in self.received],
        )

    def beat(self, values: Any) -> int:
        """Lanes to a beat."""
        width = self.params.lane_bits
        return sum((int(v) & ((1 << width) - 1)) << (lane * width) for lane, v in enumerate(values))

    def lanes(self, beat: int) -> list[int]:
        """A beat's signed lanes."""
        width = self.params.lane_bits
        return [_signed(beat >> (lane * width) & ((1 << width) - 1), width) for lane in range(self.params.n)]


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


def emulator(case: Case) -> Emulator:
    """An emulator where a case begins."""
    model = Emulator(case.core)
    for memory, image in case.memories.items():
        model.set_image(memory, image)
    for index, pair in enumerate(case.scales):
        model.scales[index][:] = pair
    model.seed = case.seed
    model.stream_in.put(case.stream_in)
    model.load_program(np.stack([i.encode() for i in case.instructions]))
    return model


def emulated(model: Emulator, stream_out: list[list[int]]) -> State:
    """What the emulator shows; takes what it sent and adds it to `stream_out`."""
    pending = model.stream_out.pending
    if pending:
        stream_out += np.asarray(model.stream_out.take(pending)).tolist()
    return State(
        memories={memory: np.asarray(model.image(memory), dtype=np.int64) for memory in model.core.memories},
        scales=tuple((int(e), int(x)) for e, x in model.scales),
        seed=model.seed,
        accumulator_overflow=bool(model.accumulator_overflow),
        saturated=int(model.saturated),
        macs=model.counters.macs,
        instructions=model.counters.instructions,
        stream_out=list(stream_out),
    )


def check_case(case: Case, *, stalls: float = 0.0, seed: int = 0) -> None:
    """Run a case step by step on core and emulator; raise AssertionError at the first difference."""
    bench = Bench(case.core, stalls=stalls, seed=seed)
    model = emulator(case)
    sent: list[list[int]] = []

    async def script(bench: Bench, ctx: Any) -> None:
        await bench.program(case.instructions)
        await bench.place(case)
        await bench.command("clear")
        bench.to_send += [bench.beat(beat) for beat in case.stream_in]
        before = 0
        stalled = 0
        for at, instruction in enumerate(case.instructions):
            await bench.step(at)
            assert await bench.status("error") == Error.NONE, str(instruction)
            model.start(at)
            assert model.advance(1) == 1
            expect_equal(case.core, instruction, emulated(model, sent), await bench.state())
            cycles = await bench.wide("CYCLES")
            waited = await bench.read("STALL_IN") + await bench.read("STALL_OUT")
            took, expected = cycles - before - (waited - stalled), cost(instruction, case.core.n).cycles
            assert took == expected, f"{instruction} took {took} cycles, expected {expected}"
            before, stalled = cycles, waited

    bench.run(script)
