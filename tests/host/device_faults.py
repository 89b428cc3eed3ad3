"""What the driver promises over any backend: what goes wrong is told, and the next program runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from insitu.arch.isa import WORDS, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.registers import Error
from insitu.host.device import Device, Driver
from insitu.host.device.protocol import Buffer, lane_dtype
from insitu.host.errors import DeviceTimeout, ProgramFault
from tests.beats import from_beats, to_beats
from tests.host import tiny
from tests.host.device_suite import OnTiny, X
from tests.host.tiny import BATCH, CLASSES, CORE


def beats_of(words: npt.NDArray[np.uint32], device: Device) -> Buffer:
    """Program words, one in the low 32 bits of each beat."""
    beats = device.allocate(words.size)
    lanes = 32 // CORE.lane_bits
    beats[:, :lanes] = words.reshape(-1).astype("<u4").view(lane_dtype(CORE)).reshape(-1, lanes)
    return beats


def announce(driver: Driver, count: int, at: int = 0) -> None:
    """Make the device wait for `count` instructions."""
    driver.registers["ENTRY"] = at
    driver.registers["COUNT"] = count
    driver.registers.command("load_program")


def poke(driver: Driver, at: int, words: npt.NDArray[np.uint32]) -> None:
    """Put one instruction's words into program memory, whatever they say."""
    announce(driver, 1, at)
    driver.device.send(beats_of(words, driver.device)).wait(driver.timeout)
    driver.device.wait_done(driver.timeout)


def place(driver: Driver, entry: str, opcode: Opcode) -> int:
    """Where the entry has its first instruction of a kind."""
    codes = [i.opcode for i in driver.program.entry(entry)]
    return driver.program.entries[entry] + codes.index(opcode)


class FaultSuite(OnTiny):
    """Starved, aborted, damaged, stepped."""

    @pytest.mark.parametrize("share", [0, 1, 2])
    def test_starved_load(self, driver: Driver, share: int) -> None:
        before = driver.infer(X)
        driver.timeout = 0.05
        driver.start("infer")
        assert driver.registers.field("STATUS", "busy") == 1
        if share:
            driver.device.send(driver.device.allocate(share)).wait(1)
        with pytest.raises(DeviceTimeout):
            driver.wait()
        assert driver.registers.field("STATUS", "busy") == 0
        driver.timeout = 30
        np.testing.assert_array_equal(driver.infer(X), before)

    def test_start_while_busy_is_ignored(self, driver: Driver) -> None:
        before = driver.infer(X)
        driver.start("infer")
        driver.start("store_weights")
        stored, sample = driver.device.allocate(BATCH), driver.quantise("sample", X)
        coming = driver.device.receive(stored)
        driver.device.send(to_beats(sample, CORE.n).astype(stored.dtype)).wait(30)
        coming.wait(30)
        driver.wait()
        np.testing.assert_array_equal(np.ldexp(stored[:, :CLASSES], driver.format("3.y").exponent), before)

    def test_abort(self, driver: Driver) -> None:
        before = driver.infer(X)
        driver.start("infer")
        driver.registers.command("abort")
        assert driver.registers.field("STATUS", "busy") == 0
        assert driver.registers.field("STATUS", "error") == Error.ABORTED
        with pytest.raises(ProgramFault, match="ABORTED"):
            driver.wait()
        np.testing.assert_array_equal(driver.infer(X), before)

    def test_program_that_never_arrives(self, driver: Driver) -> None:
        before = driver.infer(X)
        announce(driver, 2)
        driver.device.send(beats_of(np.zeros(WORDS, np.uint32), driver.device)).wait(30)
        with pytest.raises(DeviceTimeout):
            driver.device.wait_done(0.05)
        driver.registers.command("abort")
        driver.replace_program(driver.program)
        np.testing.assert_array_equal(driver.infer(X), before)

    @pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.FORWARD, Opcode.STORE, Opcode.HALT])
    @pytest.mark.parametrize("error", [Error.ILLEGAL, Error.ADDRESS])
    def test_fault_names_the_instruction(self, driver: Driver, opcode: Opcode, error: Error) -> None:
        before = driver.infer(X)
        at = place(driver, "infer", opcode)
        words = np.full(WORDS, 0xFFFFFFFF, np.uint32)
        if error is Error.ADDRESS:
            deep = Instruction(opcode=Opcode.STORE, memory=Memory.ACT, a_base=CORE.act_depth, rows=1, cols=1)
            words = deep.encode()
        poke(driver, at, words)
        with pytest.raises(ProgramFault, match=f"instruction {at} .*{opcode.name}.*{error.name}"):
            driver.infer(X)
        driver.replace_program(driver.program)
        np.testing.assert_array_equal(driver.infer(X), before)

    def test_entry_outside_program_memory(self, driver: Driver) -> None:
        before = driver.infer(X)
        # Running past the last instruction, and starting beyond it.
        last = driver.program.instructions[place(driver, "infer", Opcode.FORWARD)]
        poke(driver, CORE.program_depth - 1, last.encode())
        for entry in (CORE.program_depth - 1, CORE.program_depth):
            driver.registers["ENTRY"] = entry
            driver.registers.command("start")
            with pytest.raises(ProgramFault, match=f"instruction {CORE.program_depth} .*outside.*ENTRY"):
                driver.wait()
        with pytest.raises(Exception, match="nowhere"):
            driver.start("nowhere")
        np.testing.assert_array_equal(driver.infer(X), before)

    def test_single_step(self, driver: Driver) -> None:
        at = place(driver, "store_weights", Opcode.STORE)
        first = driver.program.instructions[at]
        driver.clear_counters()
        stored = driver.device.allocate(first.rows * first.a_pitch)
        driver.registers["ENTRY"] = at
        driver.registers.command("step")
        driver.device.receive(stored).wait(30)
        driver.wait()
        assert driver.registers.field("STATUS", "done") == 1
        assert driver.counters.instructions == 1
        name = next(iter(tiny.compiled().masters))
        np.testing.assert_array_equal(
            from_beats(stored.astype(np.int64), first.rows, first.cols), tiny.compiled().masters[name]
        )
        assert driver.read_weights().keys() == tiny.compiled().masters.keys()
