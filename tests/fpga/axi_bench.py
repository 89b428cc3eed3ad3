"""Inside the simulator for test_cocotb.py: the AXI ports judged by cocotbext-axi, which knows nothing of us."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import cocotb
import numpy as np
import numpy.typing as npt
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp, AxiStreamBus, AxiStreamSink, AxiStreamSource

from insitu.arch.isa import Instruction, Opcode, assemble
from insitu.arch.layout import Memory
from insitu.arch.registers import IDENTITY, REGISTERS, Access
from tests.fpga.cocotb_core import CORE, batch, compiled
from tests.fpga.training_run import ENTRIES, training_run

ROWS, COLS = 12, 8
WORDS = 2  # of a row
PROGRAM = (
    Instruction(opcode=Opcode.LOAD, memory=Memory.ACT, d_pitch=WORDS, rows=ROWS, cols=COLS),
    Instruction(opcode=Opcode.STORE, memory=Memory.ACT, a_pitch=WORDS, rows=ROWS, cols=COLS),
    Instruction(opcode=Opcode.HALT),
)


def pauses(seed: int, probability: float) -> Iterator[bool]:
    generator = random.Random(seed)
    while True:
        yield generator.random() < probability


class Bench:
    """The three interfaces, each channel pausing at random."""

    def __init__(self, dut: Any, probability: float) -> None:
        self.dut = dut
        cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
        clocking = (dut.clk, dut.aresetn)
        self.registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), *clocking, reset_active_level=False)
        self.source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), *clocking, reset_active_level=False)
        self.sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), *clocking, reset_active_level=False)
        write, read = self.registers.write_if, self.registers.read_if
        channels = (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel)
        if probability:
            for seed, channel in enumerate((*channels, self.source, self.sink)):
                channel.set_pause_generator(pauses(seed, probability))

    async def reset(self, cycles: int = 4) -> None:
        self.dut.aresetn.value = 0
        await ClockCycles(self.dut.clk, cycles)
        self.dut.aresetn.value = 1
        await ClockCycles(self.dut.clk, 2)
        self.source.clear()
        self.sink.clear()

    async def write(self, name: str, value: int, index: int = 0) -> None:
        response = await self.registers.write(REGISTERS[name].offset + 4 * index, value.to_bytes(4, "little"))
        assert response.resp == AxiResp.OKAY

    async def read(self, name: str) -> int:
        response = await self.registers.read(REGISTERS[name].offset, 4)
        assert response.resp == AxiResp.OKAY
        return int.from_bytes(response.data, "little")

    async def idle(self) -> None:
        busy = REGISTERS["STATUS"].fields["busy"]
        while busy.of(await self.read("STATUS")):
            pass

    async def load(self, words: npt.NDArray[np.uint32] | None = None) -> None:
        if words is None:
            words = assemble(PROGRAM)
        await self.write("ENTRY", 0)
        await self.write("COUNT", len(words))
        await self.write("CONTROL", REGISTERS["CONTROL"].fields["load_program"].put(1))
        await self.source.send(words.astype("<u4").tobytes())
        await self.idle()

    async def start(self, entry: int = 0) -> None:
        await self.write("ENTRY", entry)
        await self.write("CONTROL", REGISTERS["CONTROL"].fields["start"].put(1))

    async def echo(self, seed: int) -> None:
        """Load a matrix and store it again: what comes is what went, in one packet."""
        sent = np.random.default_rng(seed).integers(-128, 128, (ROWS, COLS)).astype(np.int8)
        await self.start()
        await self.source.send(sent.tobytes())
        frame = await self.sink.recv()
        assert bytes(frame.tdata) == sent.tobytes()
        await self.idle()
        assert REGISTERS["STATUS"].fields["error"].of(await self.read("STATUS")) == 0


@cocotb.test()
@cocotb.parametrize(probability=[0.0, 0.6])
async def registers(dut: Any, probability: float) -> None:
    bench = Bench(dut, probability)
    await bench.reset()
    assert await bench.read("ID") == IDENTITY
    assert await bench.read("HASH_LO") | await bench.read("HASH_HI") << 32 == CORE.hash
    for value in (0xA5, 0x3C):
        for name in ("ENTRY", "COUNT", "SEED", "SCALE"):
            await bench.write(name, value)
        for name in ("ENTRY", "COUNT", "SEED", "SCALE"):
            assert await bench.read(name) == value
    await bench.write("ID", 0)
    assert REGISTERS["ID"].access is Access.RO
    assert await bench.read("ID") == IDENTITY
    for offset in (0x44, 0x80, 0xFC):
        assert (await bench.registers.read(offset, 4)).resp == AxiResp.DECERR
        assert (await bench.registers.write(offset, bytes(4))).resp == AxiResp.DECERR
    entry = REGISTERS["ENTRY"].offset
    for first, count in ((0, 1), (1, 1), (2, 2), (1, 3)):
        assert (await bench.registers.write(entry + first, bytes(count))).resp != AxiResp.OKAY
    assert await bench.read("ENTRY") == 0x3C


@cocotb.test()
@cocotb.parametrize(probability=[0.0, 0.6])
async def beats(dut: Any, probability: float) -> None:
    bench = Bench(dut, probability)
    await bench.reset()
    await bench.load()
    for seed in range(3):
        await bench.echo(seed)


@cocotb.test()
@cocotb.parametrize(probability=[0.0, 0.5])
async def training(dut: Any, probability: float) -> None:
    """A training step: the emulator's bits whatever waits, its cycles less those that the core waited; where nobody
    pauses, its cycles, and none waited."""
    bench = Bench(dut, probability)
    await bench.reset()
    run = training_run(compiled(), *batch())
    fields = REGISTERS["SCALE"].fields
    for index, exponent in enumerate(run.program.scales):
        await bench.write("SCALE", fields["exponent"].put(exponent) | fields["next"].put(exponent), index)
    await bench.load(run.program.words)
    # All beats are offered before anything runs: the core never has to wait for a source that does not pause.
    await bench.source.send(run.sent.tobytes())
    for entry in ENTRIES:
        await bench.start(run.program.entries[entry])
        await bench.idle()
    came = b""
    while len(came) < run.expected.nbytes:
        came += bytes((await bench.sink.recv()).tdata)
    assert came == run.expected.tobytes()
    assert bench.sink.empty()
    cycles = await bench.read("CYCLES_LO")
    waited = await bench.read("STALL_IN") + await bench.read("STALL_OUT")
    assert cycles - waited == run.cycles
    assert (waited > 0) == (probability > 0)


@cocotb.test()
async def reset_in_mid_burst(dut: Any) -> None:
    bench = Bench(dut, 0.4)
    await bench.reset()
    for cycles in (7, 23, 41, 95, 140):
        # Wherever the reset falls: in a burst of the program, of a LOAD, of a STORE; with accesses under way.
        await bench.load()
        await bench.start()
        await bench.source.send(bytes(ROWS * COLS))
        await ClockCycles(dut.clk, cycles)
        await bench.reset(1 + cycles % 3)
        assert REGISTERS["STATUS"].fields["busy"].of(await bench.read("STATUS")) == 0
        await bench.load()
        await bench.echo(cycles)
