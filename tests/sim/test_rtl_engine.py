"""The compiled engine over a stand-in: registers, beats, stalls, memories, reset."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.arch.registers import IDENTITY, REGISTERS
from insitu.sim.rtl.compiled import CompiledEngine
from insitu.sim.rtl.engine import Until
from insitu.sim.rtl.errors import BusError
from tests.fpga.standin import Loopback

CORE = CoreParams(n=4, act_depth=16, err_depth=24, wgt_depth=40, master_bits=18, momentum_bits=12)
ENTRY, COUNT, CONTROL = (REGISTERS[name].offset for name in ("ENTRY", "COUNT", "CONTROL"))


@pytest.fixture
def engine() -> Iterator[CompiledEngine]:
    made = CompiledEngine(CORE, core=Loopback(CORE))
    yield made
    made.close()


def beats(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-(2**31), 2**31, (count, CORE.n)).astype(np.int32)


def test_registers(engine: CompiledEngine) -> None:
    assert engine.read(REGISTERS["ID"].offset) == IDENTITY
    engine.write(ENTRY, 0xDEADBEEF)
    assert engine.read(ENTRY) == 0xDEADBEEF


@pytest.mark.parametrize("offset", [0x44, 0xFC, ENTRY + 1, ENTRY + 2])
def test_no_register_lies_there(engine: CompiledEngine, offset: int) -> None:
    with pytest.raises(BusError):
        engine.read(offset)
    with pytest.raises(BusError):
        engine.write(offset, 1)


@pytest.mark.parametrize("strobe", range(16))
def test_bytes_are_not_registers(engine: CompiledEngine, strobe: int) -> None:
    engine.write(ENTRY, 5)
    if strobe in (0, 15):
        engine.write(ENTRY, 9, strobe)
    else:
        with pytest.raises(BusError):
            engine.write(ENTRY, 9, strobe)
    assert engine.read(ENTRY) == (9 if strobe == 15 else 5)


@pytest.mark.parametrize("stall", [0.0, 0.3, 0.9])
def test_beats_come_back_whole(engine: CompiledEngine, stall: float) -> None:
    engine.stall(7, send=stall, receive=stall, bus=stall)
    sent = beats(300, 1)
    engine.write(COUNT, len(sent))
    engine.write(CONTROL, 1)
    engine.push(sent)
    engine.accept(len(sent))
    assert engine.run(Until.SENT | Until.RECEIVED | Until.IDLE, 100_000)
    came, last = engine.pull_packets(1000)
    np.testing.assert_array_equal(came, sent)
    assert last.tolist() == [False] * 299 + [True]


def test_nothing_comes_without_room(engine: CompiledEngine) -> None:
    sent = beats(10, 2)
    engine.write(COUNT, len(sent))
    engine.write(CONTROL, 1)
    engine.push(sent)
    engine.accept(3)
    assert engine.run(Until.RECEIVED, 1000)
    assert not engine.run(Until.IDLE, 1000)
    assert engine.received == 3
    engine.accept(7)
    assert engine.run(Until.IDLE | Until.RECEIVED, 1000)
    np.testing.assert_array_equal(engine.pull(10), sent)


def test_reset_in_mid_burst(engine: CompiledEngine) -> None:
    engine.write(COUNT, 50)
    engine.write(CONTROL, 1)
    engine.push(beats(20, 3))
    engine.accept(50)
    assert engine.run(Until.SENT, 1000)
    engine.reset()
    assert (engine.sending, engine.room, engine.received) == (0, 0, 0)
    assert engine.read(COUNT) == 0
    assert engine.run(Until.IDLE, 1000)
    test_beats_come_back_whole(engine, 0.3)


@pytest.mark.parametrize("memory", list(Memory))
def test_memories_show_what_was_put(engine: CompiledEngine, memory: Memory) -> None:
    half = 1 << (CORE.word_bits(memory) - 1)
    shape = (CORE.depth(memory), CORE.n)
    np.testing.assert_array_equal(engine.image(memory), np.zeros(shape))
    values = np.random.default_rng(4).integers(-half, half, shape)
    engine.set_image(memory, values)
    np.testing.assert_array_equal(engine.image(memory), values)


def test_memories_show_what_the_core_wrote(engine: CompiledEngine) -> None:
    sent = beats(16, 5)
    engine.write(COUNT, 16)
    engine.write(CONTROL, 1)
    engine.push(sent)
    engine.accept(16)
    assert engine.run(Until.IDLE | Until.RECEIVED, 1000)
    np.testing.assert_array_equal(engine.image(Memory.ACT), sent.astype(np.int8))
