"""`insitu learn` from file to figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from insitu.host.learn import schema
from tests.system.command import Insitu

FILE = """
data = "digits"
student = "mlp:64-10"
core = "tiny4,act_depth=2048"
batch = 16
seeds = [0, 1]
baseline = "few"
[pools.few]
count = 30
[pools.more]
count = 200
[[arms.few.stages]]
pool = "few"
[[arms.more.stages]]
pool = "few + more"
lr = 0.3
"""
CURRICULA = sorted((Path(__file__).parents[2] / "examples/learn").glob("*.toml"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(FILE)
    return path


def test_learn(insitu: Insitu, file: Path, tmp_path: Path) -> None:
    ran = insitu("learn", file, "--seeds", "3", "--out", tmp_path / "out", "--json").json
    assert ran["seeds"] == [3]
    assert {(s["arm"], s["arithmetic"]) for s in ran["scores"]} == {
        (arm, arithmetic) for arm in ("few", "more") for arithmetic in ("device", "float")
    }
    assert json.loads((tmp_path / "out/tiny.json").read_text()) == ran
    assert (tmp_path / "out/tiny.svg").read_bytes().startswith(b"<?xml")


def test_learn_for_people(insitu: Insitu, file: Path) -> None:
    ran = insitu("learn", file, "--seeds", "0", "--no-float")
    assert ran.code == 0
    assert "gain over few" in ran.out
    assert "float" not in ran.out.replace("--float", "")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--seeds", "1,x"], "seeds '1,x'"),
        (["--seeds", "1,1"], "seeds [1, 1]"),
        (["--backend", "abacus"], "backend 'abacus'"),
        (["--data", "nowhere"], "'nowhere'"),
        (["--out", "tiny.toml"], "is a file"),
    ],
)
def test_errors_come_first(
    insitu: Insitu, file: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], says: str
) -> None:
    monkeypatch.chdir(file.parent)
    ran = insitu("learn", file, *options)
    assert ran.code == 2
    assert says in ran.err
    assert len(ran.err.strip().splitlines()) == 1


@pytest.mark.parametrize("path", CURRICULA, ids=lambda path: path.stem)
def test_examples_can_be_read(path: Path) -> None:
    plan = schema.load(path)
    assert len(plan.seeds) >= 3
    assert all(len(point.arms) >= 2 for point in plan.points)
