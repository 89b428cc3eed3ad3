"""What the driver promises over any backend. A backend joins by its name in BACKENDS; a subclass of DriverSuite whose
module has a `backend` fixture runs all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from insitu.arch.generator import GOLDEN
from insitu.arch.isa import WORDS, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.registers import IDENTITY, REGISTERS, Access, Error
from insitu.host.compiler.rate import with_learning_rate
from insitu.host.device import Device, Driver, open_device
from insitu.host.device.protocol import Buffer, lane_dtype
from insitu.host.device.snapshot import Snapshot
from insitu.host.errors import CheckpointError, DeviceError, DeviceMismatch, DeviceTimeout, ProgramFault
from insitu.sim.emulator import Emulator
from insitu.sim.stream import from_beats, to_beats
from tests.host import tiny
from tests.host.tiny import BATCH, CLASSES, CORE

BACKENDS = ["emulator"]

X, TARGETS = tiny.samples(BATCH, seed=2)


class Impostor:
    """A device that answers one register wrongly."""

    def __init__(self, device: Device, register: str) -> None:
        self._device, self._offset = device, REGISTERS[register].offset
        self.core = device.core

    def read(self, offset: int) -> int:
        return self._device.read(offset) ^ (offset == self._offset)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)


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


def same(a: Snapshot, b: Snapshot) -> bool:
    """Whether two snapshots hold the same bits."""
    return (
        a.seed == b.seed
        and np.array_equal(a.scales, b.scales)
        and a.masters.keys() == b.masters.keys()
        and all(np.array_equal(a.masters[k], b.masters[k]) for k in a.masters)
    )


class DriverSuite:
    """Each test on a device of its own, the tiny student in it."""

    @pytest.fixture
    def driver(self, backend: str) -> Iterator[Driver]:
        with open_device(CORE, backend) as driver:
            driver.load(tiny.compiled().program)
            driver.write_weights(tiny.compiled().masters)
            yield driver

    # Opening.

    def test_closed_device_refuses(self, backend: str) -> None:
        with open_device(CORE, backend) as driver:
            driver.load(tiny.compiled().program)
        with pytest.raises(DeviceError, match="closed"):
            driver.infer(X)
        driver.close()

    @pytest.mark.parametrize("register", ["ID", "VERSION", "HASH_LO", "HASH_HI"])
    def test_impostor_is_refused(self, backend: str, register: str) -> None:
        with open_device(CORE, backend) as driver, pytest.raises(DeviceMismatch):
            Driver(Impostor(driver.device, register))

    def test_program_of_another_core_is_refused(self, driver: Driver) -> None:
        program = replace(driver.program, core=replace(CORE, act_depth=CORE.act_depth + 4))
        before = driver.infer(X)
        with pytest.raises(DeviceMismatch, match=f"{program.core.hash:016x}"):
            driver.load(program)
        np.testing.assert_array_equal(driver.infer(X), before)

    def test_nothing_runs_before_a_program_is_loaded(self, backend: str) -> None:
        with open_device(CORE, backend) as driver, pytest.raises(DeviceError, match="no program loaded"):
            driver.infer(X)

    # Registers.

    def test_registers_by_name(self, driver: Driver) -> None:
        assert driver.registers["ID"] == IDENTITY
        driver.registers["SCALE", 63] = 0x1234
        assert driver.registers["SCALE", 63] == 0x1234
        assert driver.registers.field("STATUS", "done") == 1
        driver.seed = 0xDEADBEEF
        assert driver.registers["SEED"] == driver.seed == 0xDEADBEEF
        driver.seed = 0
        assert driver.seed == GOLDEN

    def test_repr_names_what_can_be_read(self, driver: Driver) -> None:
        lines = repr(driver.registers).splitlines()
        readable = [n for n, r in REGISTERS.items() if r.count == 1 and r.access is not Access.WO]
        assert [line.split()[0] for line in lines] == readable
        assert f"{IDENTITY:#010x}" in lines[0]
        status = next(line for line in lines if line.startswith("STATUS"))
        assert "busy=0" in status
        assert "done=1" in status

    @pytest.mark.parametrize(
        ("key", "value", "quoted"),
        [
            ("STATUS", 0, "STATUS"),
            ("ID", 1, "ID"),
            ("STATE", 0, "STATE"),
            (("SCALE", 64), 0, "64"),
            (("SCALE", -1), 0, "-1"),
            ("SEED", 1 << 32, str(1 << 32)),
            ("SEED", -1, "-1"),
        ],
    )
    def test_bad_register_writes_are_refused(self, driver: Driver, key: Any, value: int, quoted: str) -> None:
        before = repr(driver.registers)
        with pytest.raises(DeviceError, match=quoted):
            driver.registers[key] = value
        assert repr(driver.registers) == before

    def test_scale_registers(self, driver: Driver) -> None:
        for exponent, following in ((-128, 127), (127, -128), (-1, 0)):
            driver.set_scale(5, exponent, following)
            assert (driver.scale(5), driver.scale(5, "next")) == (exponent, following)
        driver.set_scale(5, -7)
        assert (driver.scale(5), driver.scale(5, "next")) == (-7, -7)
        for bad in ((128,), (-129,), (0, 128), (0, -129)):
            with pytest.raises(DeviceError, match=str(bad[-1])):
                driver.set_scale(5, *bad)
        assert (driver.scale(5), driver.scale(5, "next")) == (-7, -7)

    # Programs and weights.

    def test_load_sets_scales(self, driver: Driver) -> None:
        program = driver.program
        driver.set_scale(0, 42)
        driver.load(program)
        assert [driver.scale(i) for i in range(len(program.scales))] == list(program.scales)

    def test_replaced_program_keeps_the_state(self, driver: Driver) -> None:
        driver.set_scale(0, -6)
        before = driver.snapshot()
        driver.replace_program(with_learning_rate(driver.program, 0.0))
        assert same(driver.snapshot(), before)
        driver.train(X, TARGETS)
        after = driver.snapshot()
        assert all(np.array_equal(after.masters[k], before.masters[k]) for k in before.masters)
        with pytest.raises(DeviceMismatch, match="tensors"):
            driver.replace_program(tiny.compiled(hidden=5).program)

    def test_loaded_program_replaces_another(self, driver: Driver) -> None:
        before = driver.infer(X)
        other = tiny.compiled(hidden=5)
        driver.load(other.program)
        driver.write_weights(other.masters)
        assert driver.read_weights().keys() == other.masters.keys()
        assert not np.array_equal(driver.infer(X), before)
        driver.load(tiny.compiled().program)
        driver.write_weights(tiny.compiled().masters)
        np.testing.assert_array_equal(driver.infer(X), before)

    def test_weights_round_trip(self, driver: Driver) -> None:
        rng = np.random.default_rng(0)
        masters = {k: rng.integers(-(1 << 15), 1 << 15, q.shape, np.int32) for k, q in tiny.compiled().masters.items()}
        driver.write_weights(masters)
        read = driver.read_weights()
        assert read.keys() == masters.keys()
        for name, q in masters.items():
            np.testing.assert_array_equal(read[name], q)

    def test_bad_weights_are_refused(self, driver: Driver) -> None:
        good = tiny.compiled().masters
        first, second = good
        for bad, quoted in (
            ({first: good[first]}, second),
            ({**good, "other": good[first]}, "other"),
            ({**good, first: good[first][:, :-1]}, first),
            ({**good, second: np.full_like(good[second], 1 << 15)}, second),
            ({**good, second: np.full_like(good[second], -(1 << 15) - 1)}, second),
        ):
            with pytest.raises(DeviceError, match=quoted):
                driver.write_weights(bad)
        for name, q in driver.read_weights().items():
            np.testing.assert_array_equal(q, good[name])

    # Inference and training.

    @pytest.mark.parametrize("n", [0, 1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 1])
    def test_infer_any_number_of_samples(self, driver: Driver, n: int) -> None:
        x, _ = tiny.samples(12, seed=5)
        logits = driver.infer(x[:n])
        assert logits.dtype == np.float32
        np.testing.assert_array_equal(logits, driver.infer(x)[:n].reshape(n, CLASSES))

    def test_integers_are_taken_as_they_are(self, driver: Driver) -> None:
        q = driver.quantise("sample", X)
        assert q.dtype == np.int8
        np.testing.assert_array_equal(driver.infer(q.astype(np.int64)), driver.infer(X))
        with pytest.raises(DeviceError, match="200"):
            driver.infer(np.full((1, 10), 200))

    def test_other_shapes_are_refused(self, driver: Driver) -> None:
        before = driver.snapshot()
        with pytest.raises(DeviceError, match=r"\[n, 10\]"):
            driver.infer(X[..., :-1])
        x, targets = tiny.samples(BATCH + 1)
        with pytest.raises(DeviceError, match=f"{BATCH + 1} samples.*{BATCH}"):
            driver.train(x, targets)
        with pytest.raises(DeviceError, match=f"{BATCH + 1} samples.*{BATCH}"):
            driver.train_with(x, lambda z: z)
        with pytest.raises(DeviceError, match="target"):
            driver.train(X, TARGETS[:, :-1])
        with pytest.raises(DeviceError, match="3 targets for 4 samples"):
            driver.train(X, TARGETS[:-1])
        assert same(driver.snapshot(), before)

    def test_train_equals_the_emulator(self, driver: Driver) -> None:
        program, masters = driver.program, tiny.compiled().masters
        emulator = Emulator(CORE)
        emulator.load_program(program.words)
        for register, exponent in zip(emulator.scales, program.scales, strict=False):
            register[:] = [exponent, exponent]
        emulator.seed = driver.seed
        for name, q in masters.items():
            program.tensors[name].matrix.write(image := emulator.image(Memory.WGT), q)
            emulator.set_image(Memory.WGT, image)
        driver.clear_counters()
        for seed in range(3):
            x, targets = tiny.samples(BATCH, seed)
            got = driver.train(x, targets)
            sample, target = program.initial_format("sample"), program.initial_format("target")
            emulator.stream_in.put(to_beats(sample.quantise(x.reshape(BATCH, -1)), CORE.n))
            emulator.stream_in.put(to_beats(target.quantise(targets), CORE.n))
            emulator.start(program.entries["train"])
            emulator.advance()
            assert emulator.done
            raw = from_beats(emulator.stream_out.take(emulator.stream_out.pending), BATCH, CLASSES)
            exponent = emulator.scales[program.tensors["3.y"].scale][0]
            np.testing.assert_array_equal(got, np.ldexp(raw.astype(np.float32), exponent))
        trained = driver.read_weights()
        for name, q in masters.items():
            matrix = program.tensors[name].matrix
            np.testing.assert_array_equal(trained[name], matrix.read(emulator.image(Memory.WGT)))
            assert not np.array_equal(trained[name], q)
        assert [(driver.scale(i), driver.scale(i, "next")) for i in range(64)] == [tuple(s) for s in emulator.scales]
        assert driver.seed == emulator.seed

    def test_short_batch_trains_as_if_filled_with_nothing(self, driver: Driver) -> None:
        start = driver.snapshot()
        logits = driver.train(X[:3], TARGETS[:3])
        assert logits.shape == (3, CLASSES)
        short = driver.snapshot()
        driver.restore(start)
        blank = np.arange(BATCH)[:, None] < 3
        whole = driver.train(X * blank[..., None, None], TARGETS * blank)
        np.testing.assert_array_equal(whole[:3], logits)
        assert same(driver.snapshot(), short)
        assert not np.array_equal(short.masters["1.weight"], start.masters["1.weight"])

    def test_training_lowers_the_loss(self, driver: Driver) -> None:
        def loss(z: npt.NDArray[np.float32]) -> float:
            return float((np.log(np.exp(z).sum(axis=1)) - (z * TARGETS).sum(axis=1)).mean())

        losses = [loss(driver.train(X, TARGETS)) for _ in range(12)]
        assert losses[-1] < 0.7 * losses[0]

    def test_gradient_of_the_host(self, driver: Driver) -> None:
        gradient = np.zeros((BATCH, CLASSES))
        start = driver.infer(X)
        seen = []
        logits = driver.train_with(X, lambda z: seen.append(z) or gradient)
        np.testing.assert_array_equal(logits, seen[0])
        for name, q in driver.read_weights().items():
            np.testing.assert_array_equal(q, tiny.compiled().masters[name])
        gradient[:, 1] = 0.5
        gradient[:, 2] = -0.5
        driver.train_with(X, lambda _z: gradient)
        end = driver.infer(X)
        assert (end[:, 1] < start[:, 1]).all()
        assert (end[:, 2] > start[:, 2]).all()

    @pytest.mark.parametrize("bad", [np.zeros((BATCH, CLASSES + 1)), np.full((BATCH, CLASSES), np.nan), None])
    def test_bad_gradient_trains_nothing(self, driver: Driver, bad: Any) -> None:
        before = driver.infer(X)

        def gradient(_z: Any) -> Any:
            if bad is None:
                raise KeyError("the host's own")
            return bad

        with pytest.raises(KeyError if bad is None else DeviceError):
            driver.train_with(X, gradient)
        for name, q in driver.read_weights().items():
            np.testing.assert_array_equal(q, tiny.compiled().masters[name])
        np.testing.assert_allclose(driver.infer(X), before, atol=0.1)

    # Counters, replay, files.

    def test_counters(self, driver: Driver) -> None:
        driver.clear_counters()
        zero = driver.counters
        assert (zero.cycles, zero.macs, zero.instructions, zero.saturated, zero.busy(CORE)) == (0, 0, 0, 0, 0.0)
        driver.infer(X)
        one = driver.counters
        forward = [i for i in driver.program.entry("infer") if i.opcode is Opcode.FORWARD]
        assert one.macs == sum(i.rows * i.cols * i.depth for i in forward)
        assert one.instructions == len(driver.program.entry("infer"))
        assert one.busy(CORE) == one.macs / (16 * one.cycles)
        assert 0 < one.busy(CORE) < 1
        assert not one.accumulator_overflow
        driver.infer(X)
        assert driver.counters.macs == 2 * one.macs

    def test_clipped_elements_are_counted(self, driver: Driver) -> None:
        driver.clear_counters()
        for name in ("1.y", "3.y"):
            driver.set_scale(driver.program.tensors[name].scale, -30)
        driver.infer(X)
        assert 0 < driver.counters.saturated <= BATCH * (tiny.HIDDEN + CLASSES)

    def test_replay(self, driver: Driver) -> None:
        driver.train(X, TARGETS)
        start = driver.snapshot()
        first = driver.train(X, TARGETS)
        end = driver.snapshot()
        assert not same(start, end)
        driver.restore(start)
        assert same(driver.snapshot(), start)
        np.testing.assert_array_equal(driver.train(X, TARGETS), first)
        assert same(driver.snapshot(), end)
        driver.restore(replace(start, seed=start.seed + 1))
        driver.train(X, TARGETS)
        assert not same(driver.snapshot(), end)

    def test_snapshot_file(self, driver: Driver, tmp_path: Path) -> None:
        driver.train(X, TARGETS)
        start = driver.snapshot()
        start.save(tmp_path / "s.npz", note=np.arange(3))
        read, extra = Snapshot.load(tmp_path / "s.npz", driver.program)
        assert same(read, start)
        np.testing.assert_array_equal(extra["note"], [0, 1, 2])
        assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]
        with pytest.raises(CheckpointError, match="this program has"):
            Snapshot.load(tmp_path / "s.npz", tiny.compiled(hidden=5).program)

    # What goes wrong, and what comes after.

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
        store = Instruction(opcode=Opcode.STORE, memory=Memory.WGT, rows=1, cols=1)
        poke(driver, CORE.program_depth - 1, store.encode())
        for entry in (CORE.program_depth - 1, CORE.program_depth):
            driver.registers["ENTRY"] = entry
            driver.registers.command("start")
            if entry < CORE.program_depth:
                driver.device.receive(driver.device.allocate(1)).wait(30)
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


def test_unknown_backend() -> None:
    with pytest.raises(DeviceError, match="'abacus'.*emulator"):
        open_device(CORE, "abacus")
