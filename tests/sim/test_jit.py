"""A kernel is compiled anew when any file it may have taken in has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import insitu.arch
import insitu.sim
from insitu.arch import loss
from insitu.sim.jit import sources_digest

SHOW = """
import numpy as np
from insitu.sim import losses
acc = np.zeros((1, 3), np.int64)
losses.loss_accumulators(np.array([[3, 5, -20]], np.int16), np.array([[0, 127, 0]], np.int16), -3, 8, acc)
print(acc.tolist())
"""


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """A copy of arch/ and sim/ that a child process imports instead of the installed ones."""
    for module in (insitu.arch, insitu.sim):
        folder = Path(next(iter(module.__path__)))
        shutil.copytree(folder, tmp_path / "insitu" / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def shown(rooms: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(rooms), "NUMBA_CACHE_DIR": str(rooms / "cache")}
    found = subprocess.run(
        [sys.executable, "-S", "-c", _site() + SHOW], env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def _site() -> str:
    # -S leaves out the editable install's finder; the libraries are named by hand.
    paths = [p for p in sys.path if p.endswith("site-packages")]
    return f"import sys; sys.path += {paths!r}\n"


def test_a_changed_rule_is_compiled_anew(rooms: Path) -> None:
    before = shown(rooms)
    assert shown(rooms) == before
    rule = rooms / "insitu" / "arch" / "loss.py"
    text = rule.read_text()
    changed = text.replace(f"LOG2E, LOG2E_BITS = {loss.LOG2E}", f"LOG2E, LOG2E_BITS = {2 * loss.LOG2E}")
    assert changed != text
    rule.write_text(changed)
    assert shown(rooms) != before


def test_digest_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    first = sources_digest(tmp_path)
    (tmp_path / "a.py").write_text("2")
    second = sources_digest(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, sources_digest(tmp_path)}) == 3
