"""The command line in a folder of its own, with a teacher that is trained once; a program and a run to start from."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from insitu.host.cli import main
from insitu.models import teachers
from insitu.models.datasets import Dataset
from insitu.models.shifts import Shift
from insitu.models.teachers import Teacher
from tests.system.command import Insitu, Outcome, call

STUDENT = "mlp:64-32-10"
#: A run as short as it can be: the guard looks once.
ONLINE = ("online", "--data", "digits", "--shift", "rotate:2", "--model", STUDENT, "--seed", "3")

_train_teacher = teachers.train_teacher


@cache
def quick_teacher(shifts: tuple[str, ...], seed: int) -> Teacher:
    """A teacher of digits that has seen few of them: enough to teach, in half a second."""
    from insitu.models.datasets import load

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "IMAGES_SEEN", 30_000)
        return _train_teacher(load("digits"), *map(Shift.parse, shifts), seed=seed)


def _quickly(dataset: Dataset, *shifts: Shift, seed: int, epochs: int | None = None) -> Teacher:
    if dataset.name != "digits" or epochs is not None:
        return _train_teacher(dataset, *shifts, seed=seed, epochs=epochs)
    return quick_teacher(tuple(map(str, shifts)), seed)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # small networks only lose time to more


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and nothing from outside that changes what a command does or how it looks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSITU_DATA", str(tmp_path / "no-data"))
    for name in ("INSITU_TRACEBACK", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers come trained."""
    monkeypatch.setattr(teachers, "train_teacher", _quickly)


@pytest.fixture
def insitu(capfd: pytest.CaptureFixture[str], quick: None) -> Insitu:
    """`insitu("train", "--json")`: the command line in this process."""

    def run(*arguments: object) -> Outcome:
        return call(capfd, *arguments)

    return run


def _run(*arguments: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "train_teacher", _quickly)
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in arguments])
        assert left.value.code == 0


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `student.insitu` and `student.npz`, as `train --save` leaves them."""
    folder = tmp_path_factory.mktemp("trained")
    _run("train", "--data", "digits", "--model", STUDENT, "--save", folder / "student.insitu", "--json")
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short online run that came to its end."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    _run(*ONLINE, "--samples", "128", "--out", folder, "--json")
    return folder


@pytest.fixture
def program(trained: Path, tmp_path: Path) -> Path:
    """A program file of the test's own."""
    return Path(shutil.copy(trained / "student.insitu", tmp_path / "student.insitu"))


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path) -> Path:
    """The folder of a short online run, the test's own."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
