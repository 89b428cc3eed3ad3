"""A whole run: broken off it comes to the same, ended it stays as it is, and nothing but its own request goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from insitu.arch.declaration import Declaration
from insitu.arch.files import UNFINISHED
from insitu.arch.params import CoreParams
from insitu.host.batches import BatchError
from insitu.host.detector import Detector
from insitu.host.errors import CheckpointError, HostError
from insitu.host.online import runner
from insitu.host.online.guard import GuardPolicy
from insitu.host.online.policy import OnlinePolicy
from insitu.host.online.request import OnlineRun, claim
from insitu.host.online.runner import Status, locked
from insitu.host.store import FeedbackStore, StoreError, StoreMismatchError
from insitu.models import teachers
from tests.host.looping import Stopped


@pytest.fixture
def request_in(tmp_path: Path) -> Callable[[str], OnlineRun]:
    """Makes a request in a new folder, with a teacher who has learned nothing: it is there at once."""
    torch.set_num_threads(1)  # small networks only lose time to more

    def make(name: str) -> OnlineRun:
        (tmp_path / name).mkdir()
        teachers.save_teacher(tmp_path / name / "teacher.npz", teachers.Teacher((1, 8, 8), 10))
        asked = OnlineRun(
            data="digits",
            shift="rotate:2",
            model="mlp:64-16-10",
            out=tmp_path / name,
            policy=OnlinePolicy(samples=192, chunk=32),
            flag_rate=0.5,
            label_rate=0.5,
            gold=0,  # none would believe such a teacher
            curve=2,
        )
        claim(asked)
        return asked

    return make


def stop_after(chunks: int) -> Callable[[Status], None]:
    seen: list[Status] = []

    def watch(status: Status) -> None:
        seen.append(status)
        if len(seen) == chunks:
            raise Stopped

    return watch


def timeless(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in ("seconds", "folder")}


def curve(request: OnlineRun) -> Any:
    with np.load(request.out / "checkpoint.npz") as file:
        return json.loads(file["state"].tobytes())["notes"]["curve"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_broken_run_comes_to_the_same_and_stays(request_in: Callable[[str], OnlineRun]) -> None:
    whole, broken = request_in("whole"), request_in("broken")
    shutil.copy(whole.out / "teacher.npz", broken.out)
    wanted = runner.run(whole)
    for chunks in (1, 2):
        with pytest.raises(Stopped):
            runner.run(broken, stop_after(chunks))
    result = runner.run(broken)
    assert timeless(result) == timeless(wanted)
    assert curve(broken) == curve(whole)
    assert curve(whole)["samples"][:2] == [0, 64]
    assert result["cycles"] > 0
    assert 0 < result["busy"] == result["macs"] / (broken.core.cells * result["cycles"]) < 1
    assert 0 < result["flagged"] <= 192 * (1 - result["stream_accuracy"])
    assert 0 < result["true_labels"] < result["labels"]
    # Ended: not a byte changes, and nobody trains anything.
    before, said = contents(broken.out), list[str]()
    assert runner.run(broken, stop_after(1), said.append) == result
    assert contents(broken.out) == before
    assert not said
    # An end that was not written down, for the process was killed, is written now.
    (broken.out / "result.json").write_text("{")
    assert timeless(runner.run(broken)) == timeless(result)
    # More samples are asked for: it goes on.
    more = replace(broken, policy=replace(broken.policy, samples=224))
    assert runner.run(more)["cycles"] > result["cycles"]


def test_only_the_same_request_goes_on(request_in: Callable[[str], OnlineRun]) -> None:
    asked = request_in("run")
    with pytest.raises(Stopped):
        runner.run(asked, stop_after(1))
    before, policy = contents(asked.out), asked.policy
    static = Declaration.parse("w8a8e8g8", exponent="static")
    for other, said in [
        (replace(asked, lr=0.3), "lr 0.2, not 0.3"),
        (replace(asked, temperature=1.0), "temperature 1.5, not 1.0"),
        (replace(asked, label_rate=0.0), "label_rate 0.5, not 0.0"),
        (replace(asked, store="s.db"), "store None, not s.db"),
        (replace(asked, gold=8), f"{asked.out} holds a run of gold 0, not 8: give this one another folder"),
        (replace(asked, declaration=static), "declaration.activation.exponent delayed, not static"),
        (replace(asked, policy=replace(policy, chunk=16)), "policy.chunk 32, not 16"),
        (replace(asked, policy=replace(policy, rehearsals=1)), "policy.rehearsals 4, not 1"),
        (replace(asked, policy=replace(policy, label_budget=9)), "policy.label_budget None, not 9"),
        (replace(asked, policy=replace(policy, pace=0.5)), "policy.pace None, not 0.5"),
        (replace(asked, policy=replace(policy, detector=Detector(kind="all"))), "policy.detector.kind margin, not all"),
        (replace(asked, policy=replace(policy, guard=GuardPolicy(alpha=0.2))), "policy.guard.alpha 0.05, not 0.2"),
    ]:
        with pytest.raises(CheckpointError) as refusal:
            runner.run(other)
        assert said in str(refusal.value)
        assert "\n" not in str(refusal.value)
        assert contents(asked.out) == before
    runner.run(replace(asked, store_bytes=500_000, curve=1))


def test_a_password_is_not_written_down(tmp_path: Path) -> None:
    url = "postgresql://reader:hunter2@127.0.0.1/feedback"
    request = OnlineRun(data="digits", shift="none", model="mlp:64-10", out=tmp_path, store=url)
    assert "127.0.0.1" in request.identity
    assert "hunter2" not in request.identity


def test_one_process_has_the_folder(request_in: Callable[[str], OnlineRun]) -> None:
    asked = request_in("run")
    with locked(asked.out):
        before = contents(asked.out)
    with locked(asked.out), pytest.raises(HostError, match=f"{asked.out} is in use by another process"):
        runner.run(asked)
    assert contents(asked.out) == before


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    mine = {".mine", ".result.json.swp", ".checkpoint.npz.abc"}
    left = {f".checkpoint.npz.0a1b2c3d{UNFINISHED}", f".result.json.77777777{UNFINISHED}"}
    for name in ("run.lock", *mine, *left):
        (tmp_path / name).touch()
    for _ in range(2):
        with locked(tmp_path):
            assert {path.name for path in tmp_path.iterdir()} == {"run.lock", *mine}


def test_a_run_broken_off_before_its_first_chunk_keeps_its_folder(request_in: Callable[[str], OnlineRun]) -> None:
    """Its teacher and its samples are for its scene alone."""
    asked = request_in("run")

    def stop(said: str) -> None:
        if said.startswith("the scene"):
            raise Stopped

    with pytest.raises(Stopped):
        runner.run(asked, say=stop)
    before = contents(asked.out)
    assert {"teacher.npz", "feedback.db"} <= before.keys()
    assert "checkpoint.npz" not in before
    with pytest.raises(CheckpointError, match="holds a run of shift rotate:2, not rotate:3: give this one another"):
        runner.run(replace(asked, shift="rotate:3"))
    (asked.out / "run.json").unlink()
    with pytest.raises(CheckpointError, match=r"run/feedback\.db is there, and no run\.json that says whose"):
        runner.run(asked)
    (asked.out / "run.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"run\.json: no online run's identity, or a damaged one"):
        runner.run(asked)
    claim(asked)
    assert contents(asked.out) == before
    assert runner.run(asked)["samples"] == 192


def test_a_batch_without_room_for_what_arrives(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(BatchError, match=r"batch is 1 and replay_share 0\.5: no fresh sample finds a place"):
        runner.run(OnlineRun(data="digits", shift="none", model="mlp:64-10", out=out, batch=1))
    assert not out.exists()


def test_a_folder_made_for_nothing_is_gone_again(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/none/feedback.db"
    asked = OnlineRun(data="digits", shift="none", model="mlp:64-10", out=tmp_path / "a" / "run", store=store)
    with pytest.raises((StoreError, OSError)):
        runner.run(asked)
    assert not list(tmp_path.iterdir())


def test_a_teacher_who_has_learned_nothing_is_not_believed(request_in: Callable[[str], OnlineRun]) -> None:
    asked = replace(request_in("run"), gold=8, flag_rate=0.0, label_rate=0.0)
    claim(asked)
    found = runner.run(asked)
    assert found["labels"] == found["steps"] == found["stored"] == 0
    assert 0 < found["refused"] <= 192
    assert found["accuracy_after"] == found["accuracy_before"]


@pytest.mark.parametrize("gold", [-1, 17])
def test_gold_questions_there_cannot_be(tmp_path: Path, gold: int) -> None:
    with pytest.raises(HostError, match=f"gold is {gold}: must lie from 0 to 16"):
        OnlineRun(data="digits", shift="none", model="mlp:64-10", out=tmp_path, gold=gold)


def test_wide_logits_are_kept_whole(request_in: Callable[[str], OnlineRun]) -> None:
    declaration = Declaration.parse("w8a12e8g8")
    asked = replace(
        request_in("run"),
        declaration=declaration,
        core=CoreParams.parse("edge16").with_declaration(declaration),
        policy=OnlinePolicy(samples=64, chunk=32),
    )
    claim(asked)
    assert runner.run(asked)["samples"] == 64
    settings: dict[str, Any] = {"shape": (1, 8, 8), "classes": 10}
    with FeedbackStore.open(asked.out / "feedback.db", **settings, logits_encoding="int16") as store:
        assert np.abs(store.fetch([1, 2, 3]).student_logits).max() > 127
    with pytest.raises(StoreMismatchError):
        FeedbackStore.open(asked.out / "feedback.db", **settings)


@pytest.mark.parametrize("name", ["flag_rate", "label_rate"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_bad_rates(tmp_path: Path, name: str, value: float) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(HostError, match=f"{name} is {value}: must lie from 0 to 1"):
        OnlineRun(data="digits", shift="none", model="mlp:64-10", out=tmp_path, **given)
