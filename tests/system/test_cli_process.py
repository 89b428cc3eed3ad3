"""What only a process of its own can show: a full disk, an install without the extras, a reader that leaves early."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from insitu.arch.program import Program
from insitu.host.cli.app import EXTRAS
from insitu.host.device.snapshot import Snapshot
from tests.system.command import Insitu, Outcome, contents
from tests.system.conftest import ONLINE, STUDENT
from tests.system.test_cli_errors import refused

#: No file grows beyond argv[1] bytes; then the command line. Python itself turns SIGXFSZ into an OSError.
FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from insitu.host.cli import main
main(sys.argv[2:])
"""
#: The base install: what the extras bring cannot be imported.
BASE = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))
from insitu.host.cli import main
main(sys.argv[2:])
"""


def python(code: str, *arguments: object) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return Outcome(code=done.returncode, out=done.stdout, err=done.stderr)


# A full disk.


def test_train_on_a_full_disk(trained: Path, tmp_path: Path) -> None:
    for name in ("student.insitu", "student.npz"):
        shutil.copy(trained / name, tmp_path)
    before = contents(tmp_path)
    save = tmp_path / "student.insitu"
    limit = (tmp_path / "student.npz").stat().st_size - 1
    asked = ("train", "--data", "digits", "--model", STUDENT, "--seed", "1", "--save", save, "--json")
    refused(python(FULL_DISK, limit, *asked), tmp_path / "student.npz", "File too large")
    assert contents(tmp_path) == before


def test_timeline_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text("[]")
    asked = ("simulate", "--model", STUDENT, "--timeline", path, "--json")
    refused(python(FULL_DISK, 1000, *asked), path, "File too large")
    assert contents(tmp_path) == {"old.json": b"[]"}


@pytest.mark.parametrize("doing", ["open", "append to"])
def test_online_on_a_full_disk(insitu: Insitu, run_folder: Path, doing: str) -> None:
    """The run is refused, keeps what it had, and goes on once there is room."""
    before = json.loads((run_folder / "result.json").read_text())
    asked = (*ONLINE, "--samples", "512", "--out", run_folder, "--json")
    store = run_folder / "feedback.db"
    limit = 4096 if doing == "open" else store.stat().st_size
    refused(python(FULL_DISK, limit, *asked), f"cannot {doing} {store}")
    assert not list(run_folder.glob(".*"))
    assert json.loads((run_folder / "result.json").read_text()) == before
    program = Program.load(run_folder / "student.insitu")
    Snapshot.load(run_folder / "checkpoint.npz", program)
    after = insitu(*asked).json
    assert after["samples"] == 512
    assert after["stored"] == after["labels"] > before["labels"]


def test_a_checkpoint_on_a_full_disk(finished: Path, tmp_path: Path) -> None:
    """A student whose checkpoint is larger than all else: its first one is not written, and nothing in its place."""
    folder = tmp_path / "new"
    folder.mkdir()
    shutil.copy(finished / "teacher.npz", folder)
    identity = json.loads((finished / "run.json").read_text()) | {"model": "mlp:64-512-10"}
    (folder / "run.json").write_text(json.dumps(identity))
    asked = (*ONLINE, "--model", "mlp:64-512-10", "--samples", "64", "--out", folder, "--json")
    refused(python(FULL_DISK, 150_000, *asked), folder, "file too large")
    left = {path.name for path in folder.iterdir()} - {"run.lock"}
    assert left == {"run.json", "teacher.npz", "feedback.db", "student.insitu", "scalars"}


# The base install.


def test_a_program_file_needs_no_extras(program: Path) -> None:
    extras = ",".join(EXTRAS)
    told = python(BASE, extras, "simulate", "--program", program, "--json")
    assert told.err == ""
    assert told.json["cycles"] > 0
    refused(python(BASE, extras, "disasm", "nowhere.insitu"), "nowhere.insitu")


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [("torch", "simulate", "insitu[models]"), ("sqlalchemy", "demo", "insitu[online]")],
)
def test_missing_extra(tmp_path: Path, missing: str, command: str, extra: str) -> None:
    refused(python(BASE, missing, command, "--json"), missing, f"pip install '{extra}'")
    assert contents(tmp_path) == {}


# As a shell runs it.


def test_console_script(program: Path) -> None:
    script = Path(sysconfig.get_path("scripts")) / "insitu"
    command = [script, "disasm", program, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert json.loads(done.stdout)["batch"] == 64


def test_reader_that_leaves(program: Path) -> None:
    code = "from insitu.host.cli import main; import sys; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "disasm", str(program), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == ""
