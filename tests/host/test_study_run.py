"""Running a study: the same numbers whatever the workers, the engine and the kills; nothing twice, nothing lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from insitu.host.errors import HostError, StudyError
from insitu.host.study import engine, store
from insitu.host.study import table as tables
from tests.host import study_toy as toy

KILLS = 6


@pytest.mark.parametrize("text", [toy.GRID, toy.SEARCH], ids=["grid", "search"])
def test_the_same_on_any_number_of_workers(tmp_path: Path, text: str) -> None:
    one, two = (toy.study(tmp_path, text, name) for name in ("one", "two"))
    toy.run(one)
    toy.run(two, workers=2)
    assert toy.table(one) == toy.table(two)
    assert len(toy.table(one)) > 16


def killed(path: Path, after: int) -> int:
    """Run a study in a process of its own, killed once it has told `after` lines; how many it had told."""
    with subprocess.Popen(
        [sys.executable, toy.__file__, str(path)],
        stdout=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, "PYTHONPATH": "."},
    ) as process:
        assert process.stdout is not None
        told = 0
        while told < after and process.stdout.readline():
            told += 1
        process.kill()
        told += len(process.stdout.read().splitlines())
        status = process.wait()
    assert status == -signal.SIGKILL, "the child ended by itself"
    return told


def test_kills_change_nothing(tmp_path: Path) -> None:
    whole, broken = (toy.study(tmp_path, toy.SEARCH, name) for name in ("whole", "broken"))
    toy.run(whole)
    moments = random.Random(3)
    told = 0
    for _ in range(KILLS):
        told += killed(broken.path, moments.randint(0, 3))
    rest = []
    toy.run(broken, told=lambda kind, line: rest.append(kind))
    assert toy.table(broken) == toy.table(whole)
    # Whatever was told was kept: it is not done again. What was kept and not yet told is done as well.
    with store.opened(broken, write=False) as kept:
        done = sum(tables.counts(t)["done"] for t in (kept.points, kept.compared))
        assert told + len(rest) <= done + len(kept.areas())


def test_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    study = toy.study(tmp_path, toy.GRID)
    toy.run(study)
    told: list[str] = []
    toy.run(study, told=lambda kind, line: told.append(kind))
    assert told == []


def test_more_trials_go_on_from_those_there(tmp_path: Path) -> None:
    small = toy.study(tmp_path, toy.SEARCH.replace("trials = 14", "trials = 8"))
    toy.run(small)
    large = toy.study(tmp_path, toy.SEARCH)
    fresh = toy.study(tmp_path, toy.SEARCH, "fresh")
    toy.run(large)
    toy.run(fresh)
    assert toy.table(large) == toy.table(fresh)


def test_another_study_of_the_same_name_is_refused(tmp_path: Path) -> None:
    toy.run(toy.study(tmp_path, toy.GRID))
    other = toy.study(tmp_path, toy.GRID.replace("[4, 8]", "[4, 6]"))
    with pytest.raises(StudyError, match=r"begun with space.error = \[4, 8\], not \[4, 6\]"):
        toy.run(other)


def test_two_do_not_write_one_study(tmp_path: Path) -> None:
    study = toy.study(tmp_path, toy.GRID)
    with (
        store.opened(study, write=True),
        pytest.raises(StudyError, match="is being run by another process"),
        store.opened(study, write=True),
    ):
        pass


def test_a_study_that_was_not_run_has_no_table(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="run the study first"):
        toy.table(toy.study(tmp_path, toy.GRID))
    assert list(tmp_path.glob("*.db")) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("oracle", "not a URL"),
        ("mysql://user:secret@host/db", "allowed are sqlite and postgresql"),
        ("sqlite:///none/here.db", "there is no folder"),
        ("sqlite://", "kept in a file"),
    ],
)
def test_a_storage_that_cannot_be(tmp_path: Path, url: str, words: str) -> None:
    study = toy.study(tmp_path, f'storage = "{url}"\n{toy.GRID}')
    with pytest.raises(StudyError, match=words) as refused:
        toy.run(study)
    assert "secret" not in str(refused.value)


def test_a_trial_that_fails_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = toy.execute

    def wrong(request: dict[str, dict[str, dict[str, dict[str, int]]]]) -> object:
        if (request["setting"]["declaration"] or {}).get("weight", {}).get("width") == 4:
            raise ValueError("four")
        return right(request)

    monkeypatch.setattr(toy, "execute", wrong)
    study = toy.study(tmp_path, toy.GRID)
    toy.run(study)
    failed = [row for row in toy.table(study) if row["problem"]]
    assert [(row["point"], row["problem"]) for row in failed] == [
        ('{"error": 4, "weight": 4}', "ValueError: four"),
        ('{"error": 8, "weight": 4}', "ValueError: four"),
    ]
    with store.opened(study, write=False) as kept:
        assert tables.counts(kept.points) == {"done": 6, "failed": 2, "left": 0}


def test_a_point_of_a_search_that_is_no_declaration_fails_alone(tmp_path: Path) -> None:
    text = toy.SEARCH.replace("master = {low = 4, high = 16}", "master = [2, 3, 16]")
    study = toy.study(tmp_path, text)
    toy.run(study)
    problems = [row["problem"] for row in toy.table(study) if row["problem"]]
    assert problems
    assert all("a master is at least as wide as its weight" in problem for problem in problems)


def test_a_core_that_cannot_be_synthesised_stops_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(request: object) -> object:
        raise ValueError("no such part")

    monkeypatch.setattr(toy, "synthesise", wrong)
    with pytest.raises(HostError, match="could not be synthesised: ValueError: no such part"):
        toy.run(toy.study(tmp_path, toy.SEARCH))


def test_an_engine_there_is_not() -> None:
    with (
        pytest.raises(StudyError, match="engine 'threads': there are processes, ray, dask"),
        engine.opened("threads", 1),
    ):
        pass


@pytest.mark.parametrize("name", ["dask", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_cluster_gives_the_same(tmp_path: Path, name: str) -> None:
    pytest.importorskip({"dask": "distributed", "ray": "ray"}[name])
    here, there = toy.study(tmp_path, toy.GRID, "here"), toy.study(tmp_path, toy.GRID, "there")
    toy.run(here)
    with store.opened(there, write=True) as kept, engine.opened(name, 2) as pool:
        from insitu.host.study import runner

        runner.Runner(study=there, engine=pool, execute=toy.execute, synthesise=toy.synthesise).run(kept)
    assert toy.table(there) == toy.table(here)


@pytest.mark.skipif("INSITU_TEST_POSTGRES" not in os.environ, reason="INSITU_TEST_POSTGRES is not set")
def test_postgresql_gives_the_same(tmp_path: Path) -> None:
    name = f"toy {os.getpid()}"
    url = os.environ["INSITU_TEST_POSTGRES"]
    there = toy.study(tmp_path, f'name = "{name}"\nstorage = "{url}"\n{toy.SEARCH}', "there")
    here = toy.study(tmp_path, toy.SEARCH, "here")
    with (
        store.opened(there, write=True),
        pytest.raises(StudyError, match="is being run by another process"),
        store.opened(there, write=True),
    ):
        pass
    toy.run(there)
    toy.run(here)
    assert toy.table(there) == toy.table(here)
