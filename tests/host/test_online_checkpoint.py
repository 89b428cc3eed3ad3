"""What a checkpoint keeps: the run's identity, what it has cost so far, and what whoever runs it wants kept."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from insitu.host.online.checkpoint import canonical, differences
from insitu.host.online.loop import Chunk
from insitu.host.online.progress import Progress
from tests.host.looping import Stopped, looping, stop_after


def test_differences_name_fields_with_both_values() -> None:
    made = canonical({"lr": 0.1, "policy": {"guard": {"alpha": 0.05}, "audit": 0.1}, "store": None, "gone": [1]})
    assert differences(made, made) == ""
    wanted = canonical({"store": "s.db", "policy": {"audit": 0.1, "guard": {"alpha": 0.2}}, "lr": 0.1, "new": {}})
    said = {"gone [1], not unset", "policy.guard.alpha 0.05, not 0.2", "store None, not s.db", "new unset, not {}"}
    assert set(differences(made, wanted).split("; ")) == said


def test_an_ended_run_does_nothing_more(tmp_path: Path) -> None:
    with looping(tmp_path, samples=128) as loop:
        ended = loop.run()
        looks, whole = loop.guard.looks, (tmp_path / "checkpoint.npz").read_bytes()
    for samples in (128, 64):
        with looping(tmp_path, samples=samples) as loop:
            assert loop.run() == ended
            assert (loop.guard.looks, loop.progress.seconds) == (looks, ended.seconds)
    assert (tmp_path / "checkpoint.npz").read_bytes() == whole
    with looping(tmp_path, samples=160) as loop:
        progress = loop.run()
    assert (progress.samples, progress.ended) == (160, True)
    assert progress.cycles > ended.cycles
    assert progress.seconds > ended.seconds


def test_notes_are_kept_with_the_chunk_they_are_of(tmp_path: Path) -> None:
    def record(chunk: Chunk) -> None:
        loop.notes.setdefault("at", []).append(chunk.progress.samples)

    for stop in (stop_after(2), stop_after(1), None):
        with looping(tmp_path, samples=160) as loop:
            if stop is None:
                loop.run(record=record)
            else:
                with pytest.raises(Stopped):
                    loop.run(stop, record)
    assert loop.notes["at"] == [32, 64, 96, 128, 160]


def test_progress_as_json() -> None:
    progress = Progress(verdicts=[(3, "promoted")], asked=[(1, 2)], loss=0.5, seconds=1.5)
    again = Progress.of(json.loads(json.dumps(asdict(progress))))
    assert (again, again.seconds) == (progress, 1.5)
