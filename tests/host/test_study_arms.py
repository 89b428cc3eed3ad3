"""What is compared: each arm trains the same student, the same way every time, and learns."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from insitu.host.errors import StudyError
from insitu.host.study import arms, fake, trial
from insitu.host.study.presets import PRESETS
from insitu.host.study.setting import Setting, make

BASE = {
    "student": "mlp:64-16-10",
    "core": "tiny4",
    "format": "w8a8e8g8",
    "epochs": 2,
    "batch": 32,
    "lr": 1.0,
    "schedule": "linear",
}


def setting(arm: Any, seeds: tuple[int, ...] = (0,), holdout: float = 0.0, **point: Any) -> Setting:
    return make(BASE, point, data="digits", holdout=holdout, seeds=seeds, arm=arm)


def record(wanted: Setting) -> dict[str, Any]:
    return trial.run({"setting": wanted.to_json(), "folder": ".", "root": None})


def timeless(found: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in found.items() if not k.endswith("seconds")}


@pytest.mark.parametrize("name", ["w8a8e8g8", *PRESETS])
def test_every_format_learns_and_is_the_same_again(name: str) -> None:
    wanted = setting("insitu", format=name, epochs=2 if name not in ("nitro-d", "q2.7") else 3)
    first = record(wanted)
    assert timeless(record(wanted)) == timeless(first)
    assert first["runs"][0]["accuracy"][-1] > 0.35  # of ten classes; the slow ones have just begun


def test_a_seed_is_a_run_of_its_own() -> None:
    both = record(setting("insitu", seeds=(0, 1)))["runs"]
    alone = record(setting("insitu", seeds=(1,)))["runs"]
    assert both[1] == alone[0]
    assert both[0]["accuracy"] != both[1]["accuracy"]


def test_images_held_out_are_not_trained_on() -> None:
    with_all, without = (record(setting("float32", holdout=share))["runs"][0] for share in (0.0, 0.25))
    assert with_all["held_out"] == []
    assert len(without["held_out"]) == 2
    assert with_all["accuracy"] != without["accuracy"]
    data = trial.held_out("digits", None, 0.25)
    assert len(data.y_held) == round(0.25 * 1437)
    assert len(data.dataset.y_train) + len(data.y_held) == 1437
    kept = {image.tobytes() for image in data.dataset.x_train}
    assert np.mean([image.tobytes() in kept for image in data.x_held]) < 0.05  # digits has a few twins


def test_a_holdout_of_no_image_is_refused() -> None:
    with pytest.raises(StudyError, match=r"holdout is 0.0003: none of 1437 training images; allowed are 0, 0.0007 to"):
        record(setting("float32", holdout=0.0003))


def test_statistics_are_of_the_first_steps_of_epochs_too() -> None:
    run = record(setting("insitu", core="edge8", batch=256))["runs"][0]
    steps = 2 * math.ceil(1437 / 256)
    assert steps == arms.STATISTICS_STEPS  # so that they are of every step
    assert run["statistics"]["1.weight"]["elements"] == steps * 16 * 65


def test_a_process_runs_one_trial_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)

    def meets(*_: Any) -> dict[str, Any]:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.2)
            return {"alone": False}
        return {"alone": True}

    monkeypatch.setitem(trial._ARMS, "float32", meets)  # type: ignore[arg-type]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(record, [setting("float32")] * 2))
    assert [f["runs"][0]["alone"] for f in found] == [True, True]


def test_a_float_student_that_diverges_is_a_result() -> None:
    run = record(setting("float32", lr=1e30))["runs"][0]
    assert run["diverged"].startswith("loss is")
    assert run["accuracy"][-1] < 0.3


def test_qpytorch_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qtorch", None)
    with pytest.raises(StudyError, match=r"qtorch, which is not installed: pip install 'insitu\[qpytorch\]'"):
        fake.check(setting("qpytorch"))


def test_qpytorch_learns_at_eight_bits() -> None:
    pytest.importorskip("qtorch")
    wanted = setting("qpytorch")
    fake.check(wanted)
    with pytest.raises(StudyError, match="error rounding FLOOR: QPyTorch rounds to nearest or stochastically"):
        fake.check(setting("qpytorch", **{"error.rounding": "floor"}))
    first = record(wanted)
    assert first["runs"][0]["accuracy"][-1] > 0.7
    assert timeless(record(wanted)) == timeless(first)
