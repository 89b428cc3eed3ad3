"""`insitu study` from file to page, with students that are trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from insitu.host.study import schema, search
from tests.system.command import Insitu

FILE = """
data = "digits"
student = "mlp:64-10"
seeds = [0, 1]
[train]
epochs = 1
lr = 1.0
[search]
method = "grid"
[space]
bits = [2, 8]
[compare]
formats = ["niti"]
"""
STUDIES = sorted((Path(__file__).parents[2] / "examples/studies").glob("*.toml"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(FILE)
    return path


def test_run_report_and_list(insitu: Insitu, file: Path, tmp_path: Path) -> None:
    ran = insitu("study", "run", file, "--json").json
    assert ran["points"] == {"done": 2, "failed": 0, "left": 0}
    assert ran["compared"] == {"done": 2, "failed": 0, "left": 0}
    assert ran["run_now"] == 4
    for trial in ran["trials"]:
        record = trial["record"]
        assert record["versions"]["torch"]
        assert [run["seed"] for run in record["runs"]] == [0, 1]
        assert all(len(run["accuracy"]) == 1 for run in record["runs"])
    wide = next(t["record"] for t in ran["trials"] if t["point"] == {"bits": 8})
    assert wide["setting"]["declaration"]["weight"]["width"] == 8
    assert wide["cycles_per_step"] > 0
    assert set(wide["runs"][0]["statistics"]["1.weight"]) >= {"saturated_share", "stalled_share"}
    assert wide["runs"][0]["accuracy"][0] > 0.5
    assert wide["runs"][0]["accuracy"] != wide["runs"][1]["accuracy"]

    again = insitu("study", "run", file, "--json").json
    assert again["run_now"] == 0
    assert again["trials"] == ran["trials"]

    written = insitu("study", "report", file, "--out", tmp_path / "out", "--within", "30", "--json").json
    assert written["chosen"]["point"] == '{"bits": 8}'
    assert (tmp_path / "out/index.html").exists()

    listed = insitu("study", "list", tmp_path, "--json").json["studies"]
    assert [(s["study"], s["planned"], s["done"]) for s in listed] == [("tiny", 4, 4)]
    (tmp_path / "another.toml").write_text(f'storage = "sqlite:///{file.with_suffix(".db")}"\n{FILE}')
    listed = insitu("study", "list", tmp_path, "--json").json["studies"]
    assert [(s["study"], s["planned"], s["done"]) for s in listed] == [("another", 4, 0), ("tiny", 4, 4)]


def test_what_cannot_be_is_told_before_anything_runs(insitu: Insitu, file: Path) -> None:
    file.write_text(FILE.replace('student = "mlp:64-10"', 'student = "mlp:64-9"'))
    refused = insitu("study", "run", file)
    assert refused.code == 2
    assert "'mlp:64-9' has 9 outputs; the data has 10 classes" in refused.err
    file.write_text(FILE + '[area]\nsource = "none"\n' + 'core = "tiny4"')
    assert "area.core: no such key" in insitu("study", "run", file).err
    file.write_text("holdout = 0.0001\n" + FILE)
    assert "holdout is 0.0001: none of 1437 training images" in insitu("study", "run", file).err
    file.write_text(FILE.replace("seeds", 'core = "tiny4,wgt_depth=16"\nseeds'))
    refused = insitu("study", "run", file)
    assert refused.code == 2
    assert "insitu {'bits': 2}" in refused.err
    assert not file.with_suffix(".db").exists()


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_ready_studies_are_right(path: Path) -> None:
    study = schema.load(path)
    assert search.planned(study) > 1


def test_a_search_is_checked_value_by_value(insitu: Insitu, file: Path) -> None:
    search_ = 'holdout = 0.1\nseeds = [0]\nstudent = "mlp:64-10"\n[search]\nmethod = "optuna"\ntrials = 2\n[space]\n'
    file.write_text(search_ + 'student = ["mlp:64-10", "mlp:63-10"]')
    assert "takes 63 inputs" in insitu("study", "run", file).err
    file.write_text(search_ + 'core = ["tiny4", "tiny4,n=5"]')
    assert "n=5: the array's side is one of" in insitu("study", "run", file).err
    file.write_text(search_ + "batch = {low = 16, high = 60000}")
    refused = insitu("study", "run", file)
    assert refused.code == 2
    assert "{'batch': 60000}" in refused.err
    assert not file.with_suffix(".db").exists()
