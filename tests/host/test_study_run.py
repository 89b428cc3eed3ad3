"""Running a study: the same numbers whatever the workers, the engine and the kills; nothing twice, nothing lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from insitu.arch.params import ARCH_VERSION
from insitu.host.errors import HostError, StudyError, StudyNotBegun
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


@pytest.mark.parametrize("first", [8, 11])
def test_more_trials_go_on_from_those_there(tmp_path: Path, first: int) -> None:
    text = toy.SEARCH.replace("trials = 14", "trials = 23").replace("together = 4", "together = 6")
    toy.run(toy.study(tmp_path, text.replace("trials = 23", f"trials = {first}")))
    large, fresh = (toy.study(tmp_path, text, name) for name in ("toy", "fresh"))
    toy.run(large)
    toy.run(fresh)
    assert toy.table(large) == toy.table(fresh)


def test_another_study_of_the_same_name_is_refused(tmp_path: Path) -> None:
    toy.run(toy.study(tmp_path, toy.GRID))
    other = toy.study(tmp_path, toy.GRID.replace("[4, 8]", "[4, 6]"))
    with pytest.raises(StudyError, match=r"begun with space.error = \[4, 8\], not \[4, 6\]"):
        toy.run(other)


def test_a_search_has_float32_beside_what_leads_it(tmp_path: Path) -> None:
    study = toy.study(tmp_path, toy.SEARCH)
    toy.run(study)
    rows = [row for row in toy.table(study) if row["seed"] == 0]
    rates = {row["lr"] for row in rows if row["arm"] == "float32"}
    for row in rows:
        if row["kind"] == "point" and not any(
            other["lut"] <= row["lut"] and other["held_out"] > row["held_out"] for other in rows if other["lut"]
        ):
            assert row["lr"] in rates
    assert 1 < len(rates) < 14
    alone = toy.study(tmp_path, toy.SEARCH.replace("float32 = true", "float32 = false"), "alone")
    toy.run(alone)
    assert {row["arm"] for row in toy.table(alone)} == {"insitu"}


AREA = '[area]\nsource = "model"\nsamples = 4\ntarget = '


def test_each_target_has_areas_and_a_model_of_its_own(tmp_path: Path) -> None:
    # Bits of gradient cost nothing here and bring nothing: half of the points are on no front.
    text = toy.GRID.replace("error", "gradient") + AREA
    toy.run(toy.study(tmp_path, text + '"xc7"'))
    changed, fresh = (toy.study(tmp_path, text + '"ecp5-25k"', name) for name in ("toy", "fresh"))
    toy.run(changed)
    toy.run(fresh)
    assert toy.table(changed) == toy.table(fresh)
    assert {row["area_source"] for row in toy.table(fresh) if row["arm"] == "insitu"} == {"model", "synthesis"}


def test_a_search_that_aims_at_an_area_keeps_to_it(tmp_path: Path) -> None:
    toy.run(toy.study(tmp_path, toy.SEARCH))
    with pytest.raises(StudyError, match=r"was begun with no area.target, now 'ecp5-25k'"):
        toy.run(toy.study(tmp_path, toy.SEARCH + 'target = "ecp5-25k"'))


def test_reading_writes_nothing(tmp_path: Path) -> None:
    study = toy.study(tmp_path, toy.GRID)
    toy.run(study)
    kept = tmp_path / "toy.db"
    before = kept.read_bytes()
    changed = toy.study(tmp_path, toy.GRID + '[area]\nsource = "model"')
    assert toy.table(changed) == toy.table(study)
    with pytest.raises(StudyNotBegun):
        toy.table(toy.study(tmp_path, f'storage = "sqlite:///{kept}"\n{toy.GRID}', "other"))
    assert kept.read_bytes() == before
    (tmp_path / "empty.db").touch()
    with pytest.raises(StudyNotBegun):
        toy.table(toy.study(tmp_path, toy.GRID, "empty"))
    assert (tmp_path / "empty.db").read_bytes() == b""


def test_records_of_another_layout_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = toy.study(tmp_path, toy.GRID)
    toy.run(study)
    before = store.RECORDS
    assert str(ARCH_VERSION) in before  # a core of another architecture is another core
    monkeypatch.setattr(store, "RECORDS", "of another time")
    for act in (toy.run, toy.table):
        with pytest.raises(StudyError, match=f"records of version {before}, not of another time; give this"):
            act(study)


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
    monkeypatch.undo()
    told: list[str] = []
    toy.run(study, told=lambda kind, line: told.append(kind))
    assert len(told) == 2  # what failed is tried again, and nothing else
    toy.run(fresh := toy.study(tmp_path, toy.GRID, "fresh"))
    assert toy.table(study) == toy.table(fresh)


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
    with pytest.raises(StudyNotBegun):
        toy.table(toy.study(tmp_path, f'name = "{name} not begun"\nstorage = "{url}"\n{toy.SEARCH}', "other"))
    toy.run(there)
    toy.run(here)
    assert toy.table(there) == toy.table(here)
