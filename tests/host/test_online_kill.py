"""The online-fix loop under SIGKILL: whatever the moment, what was acknowledged is kept and the run ends."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from insitu.host.device import Driver, open_device
from insitu.host.device.snapshot import Snapshot
from insitu.host.store import FeedbackStore
from tests.host import digits, online_child

SAMPLES, KILLS = 560, 20


def prepare(folder: Path) -> Snapshot:
    """All the child needs: a program, where it starts from, samples with their labels and the teacher's."""
    made, table = digits.compiled(), digits.Table()
    made.program.save(folder / "student.insitu")
    with open_device(digits.CORE) as driver:
        driver.load(made.program)
        driver.write_weights(made.masters)
        start = driver.snapshot()
    start.save(folder / "start.npz")
    x, y = table.stream(0, SAMPLES)
    np.savez(folder / "scene.npz", x=x, y=y, soft=table.teach(x))
    return start


def child(folder: Path, kill_after: int | None) -> list[str]:
    """Run the child, killed once it has written that many lines; every whole line it wrote."""
    command = [sys.executable, online_child.__file__, str(folder), str(SAMPLES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        written = b""
        while kill_after is None or written.count(b"\n") < kill_after:
            some = process.stdout.read(65536)
            if not some:
                break
            written += some
        process.kill()
        # It may have told more before the signal reached it; that counts as well.
        written += process.stdout.read()
        status = process.wait()
    assert status == (0 if kill_after is None else -signal.SIGKILL), "the child ended by itself"
    return written[: written.rfind(b"\n") + 1].decode().splitlines()


def accuracy(driver: Driver, snapshot: Snapshot) -> float:
    driver.restore(snapshot)
    return digits.accuracy(driver)


@pytest.fixture(scope="module")
def start_of(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Snapshot]:
    folder = tmp_path_factory.mktemp("online")
    return folder, prepare(folder)


def test_survives_sigkill(start_of: tuple[Path, Snapshot]) -> None:
    folder, start = start_of
    moments = random.Random(5)
    acknowledged: set[str] = set()
    last_lines = set()
    for _ in range(KILLS):
        lines = child(folder, moments.randint(1, 18))
        last_lines.add(lines[-1].split()[0])
        acknowledged |= {key for line in lines if line.startswith("ack") for key in line.split()[1:]}
        with FeedbackStore.open(folder / "feedback.db", shape=digits.SHAPE, classes=digits.CLASSES) as store:
            store.check()
            assert acknowledged <= keys_of(store)
    # The moments were spread over what a turn of the loop does.
    assert len(last_lines) > 1

    lines = child(folder, None)
    assert lines[-1] == f"end {SAMPLES}"
    acknowledged |= {key for line in lines if line.startswith("ack") for key in line.split()[1:]}
    with FeedbackStore.open(folder / "feedback.db", shape=digits.SHAPE, classes=digits.CLASSES) as store:
        store.check()
        kept = keys_of(store)
        assert len(store) == len(kept) == store.acknowledged_total
    assert acknowledged == kept
    # A key is the run's seed and a position of the stream.
    positions = {np.frombuffer(bytes.fromhex(key), np.int64)[1] for key in kept}
    assert {np.frombuffer(bytes.fromhex(key), np.int64)[0] for key in kept} == {online_child.SEED}
    assert min(positions) >= 0
    assert max(positions) < SAMPLES
    plain = sqlite3.connect(folder / "feedback.db")
    assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    plain.close()

    served, _ = Snapshot.load(folder / "checkpoint.npz", digits.compiled().program)
    with open_device(digits.CORE) as driver:
        driver.load(digits.compiled().program)
        assert accuracy(driver, served) >= accuracy(driver, start)


def keys_of(store: FeedbackStore) -> set[str]:
    return {key.tobytes().hex() for page in store.iterate(512) for key in page.keys}
