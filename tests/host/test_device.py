"""Every backend through the driver's suites; snapshot files, which need no device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from insitu.host.device import open_device
from insitu.host.device.snapshot import Snapshot
from insitu.host.errors import CheckpointError, DeviceError
from tests.host import tiny
from tests.host.device_faults import FaultSuite
from tests.host.device_suite import BACKENDS, DriverSuite, same
from tests.host.device_training import TrainingSuite


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestDriver(DriverSuite):
    pass


class TestTraining(TrainingSuite):
    pass


class TestFaults(FaultSuite):
    pass


def test_unknown_backend() -> None:
    with pytest.raises(DeviceError, match="'abacus'.*emulator"):
        open_device(tiny.CORE, "abacus")


# Snapshot files.


@pytest.fixture
def snapshot() -> Snapshot:
    scales = np.array([(e, e - 1) for e in tiny.compiled().program.scales], dtype=np.int64)
    return Snapshot(masters=tiny.compiled().masters, scales=scales, seed=0xFFFFFFFF)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped"])
def test_damaged_snapshot_is_refused(tmp_path: Path, snapshot: Snapshot, damage: str) -> None:
    program, whole, path = tiny.compiled().program, snapshot.to_bytes(), tmp_path / "s.npz"
    versions = {
        "empty": [b""],
        "text": [b"weights = 3\n", b"PK\x03\x04" + bytes(60)],
        "cut": [whole[:end] for end in range(1, len(whole), 37)],
        "flipped": [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))],
    }[damage]
    for version in versions:
        path.write_bytes(version)
        try:
            read, _ = Snapshot.load(path, program)
        except CheckpointError:
            continue
        # Not every bit of an archive's directory says something: what was read is then what was written.
        assert damage == "flipped"
        assert same(read, snapshot)


def test_snapshot_of_other_tensors_is_refused(tmp_path: Path, snapshot: Snapshot) -> None:
    snapshot.save(tmp_path / "s.npz")
    assert same(Snapshot.load(tmp_path / "s.npz", tiny.compiled().program)[0], snapshot)
    with pytest.raises(CheckpointError, match="this program has"):
        Snapshot.load(tmp_path / "s.npz", tiny.compiled(hidden=5).program)
    with pytest.raises(FileNotFoundError):
        Snapshot.load(tmp_path / "missing.npz", tiny.compiled().program)
