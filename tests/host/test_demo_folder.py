"""The demo begins anew in a folder of its own, and in no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from insitu.arch.files import UNFINISHED
from insitu.host.cli.online import DEMO, begin_anew
from insitu.host.errors import HostError
from insitu.host.online.request import LOCK
from insitu.host.online.runner import locked


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {LOCK}


@pytest.mark.parametrize("there", [False, True])
def test_a_new_or_empty_folder_is_marked(tmp_path: Path, there: bool) -> None:
    out = tmp_path / "a" / "demo"
    if there:
        out.mkdir(parents=True)
    begin_anew(out)
    assert names(out) == {DEMO}


def test_a_demo_of_before_is_cleared_away(tmp_path: Path) -> None:
    begin_anew(tmp_path)
    for name in ("feedback.db", "feedback.db-wal", f".checkpoint.npz.0a1b2c3d{UNFINISHED}", "run.lock", "result.json"):
        (tmp_path / name).touch()
    (tmp_path / "scalars").mkdir()
    (tmp_path / "scalars" / "events").touch()
    begin_anew(tmp_path)
    assert names(tmp_path) == {DEMO}


@pytest.mark.parametrize(
    ("marked", "name", "said"),
    [
        (False, "feedback.db", "no demo made"),
        (True, "thesis.tex", r"other files \(thesis"),
        (True, "checkpoint.npz-good", r"other files \(checkpoint\.npz-good"),
        (True, "result.json-mine.txt", r"other files \(result\.json-mine"),
        (True, ".result.json.swp", r"other files \(\.result\.json\.swp"),
    ],
)
def test_what_is_not_the_demos_stays(tmp_path: Path, marked: bool, name: str, said: str) -> None:
    if marked:
        begin_anew(tmp_path)
    (tmp_path / name).touch()
    before = names(tmp_path)
    with pytest.raises(HostError, match=said):
        begin_anew(tmp_path)
    assert names(tmp_path) == before


def test_a_demo_that_runs_is_left_alone(tmp_path: Path) -> None:
    begin_anew(tmp_path)
    (tmp_path / "feedback.db").touch()
    with locked(tmp_path), pytest.raises(HostError, match="in use"):
        begin_anew(tmp_path)
    assert names(tmp_path) == {DEMO, "feedback.db"}
