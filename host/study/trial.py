"""One trial: a setting becomes a record. A pure function, wherever and beside whatever it runs."""

from __future__ import annotations

import importlib.metadata
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from insitu.host.errors import StudyError
from insitu.host.study import arms
from insitu.host.study.setting import Setting
from insitu.models import datasets

Record = dict[str, Any]
#: A cluster's worker may have several threads: torch's generator and number of threads are a process's.
_ALONE = threading.Lock()
#: Packages whose versions a record holds.
PACKAGES = ("insitu", "numpy", "numba", "torch", "optuna")
_ARMS: Mapping[str, Callable[[Setting, arms.Data, str, int], Record]] = {
    "insitu": arms.insitu,
    "float32": arms.float32,
    "qpytorch": arms.qpytorch,
}


def run(request: Mapping[str, Any]) -> Record:
    """Train a setting once with each of its seeds.

    request: `setting`, a `Setting.to_json`; `folder`, where paths of students begin; `root` of the data, or None.
    The record holds the request's setting, versions, a run for each seed (`arms`), cycles and memory where the arm has
    some; `seconds` and `cpu_seconds` are all in it that is not the same every time.
    """
    setting = Setting.from_json(request["setting"])
    begun, used = time.monotonic(), time.process_time()
    with _ALONE, _one_thread():
        data = held_out(setting.data, request["root"], setting.holdout)
        runs = [_ARMS[setting.arm](setting, data, request["folder"], seed) for seed in setting.seeds]
    common: Record = {key: runs[0].pop(key) for key in ("cycles_per_step", "busy") if key in runs[0]}
    for one in runs[1:]:
        for key in common:
            one.pop(key)
    return {
        "setting": setting.to_json(),
        "versions": versions(),
        "runs": runs,
        **common,
        "seconds": time.monotonic() - begun,
        "cpu_seconds": time.process_time() - used,
    }


def versions() -> dict[str, str]:
    """What a record was made with."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


@lru_cache(maxsize=1)
def held_out(name: str, root: str | None, holdout: float) -> arms.Data:
    """A data set with a share of its training images held out. Raises StudyError where that is not one image."""
    dataset = datasets.load(name, root)
    count = len(dataset.y_train)
    held = round(count * holdout)
    if holdout and not held:
        raise StudyError(
            f"holdout is {holdout:g}: none of {count} training images; allowed are 0, {1 / count:.2g} to 0.5"
        )
    order = np.random.default_rng(0).permutation(len(dataset.y_train))
    kept, out = np.sort(order[held:]), np.sort(order[:held])
    x, y = dataset.x_train, dataset.y_train
    if held:
        dataset = replace(dataset, x_train=x[kept], y_train=y[kept])
    return arms.Data(dataset=dataset, x_held=x[out], y_held=y[out])


@contextmanager
def _one_thread() -> Iterator[None]:
    """float32 sums depend on how many share them; small students only lose time to more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
