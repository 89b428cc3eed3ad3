"""What the driver promises over any backend: opening, registers, programs, weights, inference.

A backend joins by its name in BACKENDS. A module with a `backend` fixture and a subclass of each suite (DriverSuite
here, TrainingSuite and FaultSuite beside it) runs all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from insitu.arch.declaration import Declaration
from insitu.arch.generator import GOLDEN
from insitu.arch.isa import Opcode
from insitu.arch.registers import IDENTITY, REGISTERS, Access
from insitu.host.compiler.compile import compile_module
from insitu.host.compiler.rate import with_learning_rate
from insitu.host.device import Device, Driver, open_device
from insitu.host.device.snapshot import Snapshot
from insitu.host.errors import DeviceError, DeviceMismatch
from insitu.models.students import mlp
from tests.host import tiny
from tests.host.tiny import BATCH, CLASSES, CORE

BACKENDS = ["emulator", "rtl", "pysim"]
#: Seconds that a wait may take, however slow the backend and busy the machine.
PATIENCE = 300

X, TARGETS = tiny.samples(BATCH, seed=2)


class OnTiny:
    """Each test on a device of its own, the tiny student in it."""

    @pytest.fixture
    def driver(self, backend: str) -> Iterator[Driver]:
        with open_device(CORE, backend) as driver:
            driver.timeout = PATIENCE
            driver.load(tiny.compiled().program)
            driver.write_weights(tiny.compiled().masters)
            yield driver


def same(a: Snapshot, b: Snapshot) -> bool:
    """Whether two snapshots hold the same bits."""
    return (
        a.seed == b.seed
        and np.array_equal(a.scales, b.scales)
        and a.masters.keys() == b.masters.keys()
        and all(np.array_equal(a.masters[k], b.masters[k]) for k in a.masters)
    )


class Impostor:
    """A device that answers one register wrongly."""

    def __init__(self, device: Device, register: str) -> None:
        self._device, self._offset = device, REGISTERS[register].offset
        self.core = device.core

    def read(self, offset: int) -> int:
        return self._device.read(offset) ^ (offset == self._offset)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)


class DriverSuite(OnTiny):
    """A device, its program, its weights, its answers."""

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
            (("SCALE", 256), 0, "256"),
            (("SCALE", -1), 0, "-1"),
            ("SEED", 1 << 32, str(1 << 32)),
            ("SEED", -1, "-1"),
            ("ENTRY", 1.5, r"ENTRY = 1\.5"),
            ("ENTRY", "3", "ENTRY = '3'"),
            (("SCALE", 1.0), 0, r"1\.0"),
        ],
    )
    def test_bad_register_writes_are_refused(self, driver: Driver, key: Any, value: Any, quoted: str) -> None:
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
        for index in (-1, CORE.scales, 255):
            with pytest.raises(DeviceError, match=f"scale register {index}: this core has {CORE.scales}"):
                driver.set_scale(index, 5)
            with pytest.raises(DeviceError, match=f"scale register {index}"):
                driver.scale(index)
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
            ({**good, first: good[first] / 4096.0}, f"{first} of float64: masters are integers"),
        ):
            with pytest.raises(DeviceError, match=quoted):
                driver.write_weights(bad)
        for name, q in driver.read_weights().items():
            np.testing.assert_array_equal(q, good[name])

    def test_weights_as_lists(self, driver: Driver) -> None:
        masters = {name: q + 1 for name, q in tiny.compiled().masters.items()}
        driver.write_weights({name: q.tolist() for name, q in masters.items()})
        for name, q in driver.read_weights().items():
            np.testing.assert_array_equal(q, masters[name])

    def test_receives_are_filled_in_the_order_they_were_begun(self, driver: Driver) -> None:
        wanted = tiny.compiled().masters
        stores = [i for i in driver.program.entry("store_weights") if i.opcode is Opcode.STORE]
        buffers = [driver.device.allocate(i.rows * i.a_pitch) for i in stores]
        driver.start("store_weights")
        coming = [driver.device.receive(buffer) for buffer in buffers]
        for transfer in reversed(coming):
            transfer.wait(driver.timeout)
        driver.wait()
        for (name, q), buffer in zip(wanted.items(), buffers, strict=True):
            rows, cols = q.shape
            np.testing.assert_array_equal(buffer.reshape(rows, -1)[:, :cols], q, err_msg=name)

    def test_exact_exponents_are_the_emulators(self, driver: Driver, backend: str) -> None:
        declaration = Declaration.parse("w8a8e8g8", exponent="exact")
        x, targets = tiny.samples(16, seed=1)
        module = mlp([x[0].size, tiny.HIDDEN, CLASSES], seed=3)
        program = compile_module(module, core=CORE, declaration=declaration, batch=BATCH, calibration=x).program
        if backend == "emulator":
            driver.load(program)
            driver.train(x[:BATCH], targets[:BATCH])
            return
        before = driver.infer(X)
        with pytest.raises(DeviceError, match="exact exponents take two passes"):
            driver.load(program)
        np.testing.assert_array_equal(driver.infer(X), before)

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

    def test_what_is_no_samples_is_refused(self, driver: Driver) -> None:
        for bad, quoted in ((0.5, r"sample of shape \(\): expected \[n, 10\]"), ([["a"] * 10], "expected numbers")):
            with pytest.raises(DeviceError, match=quoted):
                driver.infer(bad)

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
