"""Building a core's library: once, whoever else wants it; whole or not at all."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest

from insitu.arch.params import CoreParams
from insitu.sim.rtl import build as building
from insitu.sim.rtl.errors import BuildError
from tests.fpga.standin import Loopback

CORE = CoreParams(n=4, act_depth=16, err_depth=16, wgt_depth=16)


def build(folder: Path) -> Path:
    return building.build(CORE, core=Loopback(CORE), cache_dir=folder)


def test_others_wait_for_who_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make(library: Path, *_: Any) -> None:
        (lock,) = tmp_path.glob("*.lock")
        with lock.open("w") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        library.write_bytes(b"")
        made.append(library)

    monkeypatch.setattr(building, "_build", make)
    assert build(tmp_path) == build(tmp_path) == made[0]
    assert len(made) == 1
    assert list(tmp_path.iterdir()) == made


def test_a_failed_build_leaves_nothing_and_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise BuildError("no compiler")

    with monkeypatch.context() as patch:
        patch.setattr(building, "_build", fail)
        with pytest.raises(BuildError):
            build(tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(building, "_build", lambda library, *_: library.write_bytes(b""))
    assert build(tmp_path).exists()
