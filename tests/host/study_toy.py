"""A study whose trials cost nothing: what is done with them is what is tested.

    python study_toy.py FILE.toml

runs one in a process of its own, to be killed, and tells `trial` or `core` on a line of its own after each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from insitu.arch.params import CoreParams
from insitu.host.study import engine, runner, schema, store
from insitu.host.study.schema import Study

#: A file whose trials no sampler chooses.
GRID = """
seeds = [0, 1]
[search]
method = "grid"
[space]
weight = [2, 4, 6, 8]
error = [4, 8]
"""
#: One whose trials depend on what came of those before.
SEARCH = """
seeds = [0, 1]
holdout = 0.1
[search]
method = "optuna"
trials = 14
together = 4
objectives = ["accuracy", "lut"]
[space]
weight = {low = 2, high = 8}
master = {low = 4, high = 16}
lr = {low = 0.01, high = 1.0, log = true}
[compare]
float32 = true
[area]
source = "synthesis"
"""


def execute(request: Mapping[str, Any]) -> dict[str, Any]:
    """A trial: accuracies that follow from the setting alone."""
    setting = request["setting"]
    widths = setting["declaration"] or {}
    bits = sum(widths[role]["width"] for role in ("weight", "error", "master")) if widths else 40
    runs = []
    for seed in setting["seeds"]:
        last = 1 - 1 / (bits + seed + setting["lr"])
        statistics = {"1.weight": {"saturated_share": 0.0, "underflowed_share": 0.0, "stalled_share": 0.0}}
        held = [last - 0.01] if setting["holdout"] else []
        runs.append(
            {"seed": seed, "accuracy": [last / 2, last], "held_out": held, "statistics": statistics, "cycles": 9}
        )
    return {
        "setting": setting,
        "versions": {},
        "runs": runs,
        "cycles_per_step": 100 * bits,
        "busy": 0.5,
        "seconds": 0.0,
    }


def synthesise(request: Mapping[str, Any]) -> dict[str, Any]:
    """A core: resources that follow from its widths, and the target."""
    core = CoreParams.from_json(request["core"])
    lut = len(request["target"]) * (100 * core.weight_bits + 20 * core.master_bits + 10 * core.error_bits)
    return {"lut": lut, "ff": 2 * lut, "dsp": core.n, "bram": core.master_bits, "mhz": None, "source": "synthesis"}


def study(folder: Path, text: str, name: str = "toy") -> Study:
    """A study of a file's content, in a folder."""
    path = folder / f"{name}.toml"
    path.write_text(text)
    return schema.load(path)


def run(wanted: Study, workers: int = 1, told: runner.Told = lambda kind, line: None) -> None:
    """Run what is not done."""
    with store.opened(wanted, write=True) as kept, engine.opened("processes", workers) as pool:
        runner.Runner(study=wanted, engine=pool, execute=execute, synthesise=synthesise, told=told).run(kept)


def table(wanted: Study) -> list[dict[str, Any]]:
    """All rows that came of it."""
    from insitu.host.study import table as tables

    with store.opened(wanted, write=False) as kept:
        return tables.rows(wanted, kept)


if __name__ == "__main__":
    run(schema.load(Path(sys.argv[1])), told=lambda kind, line: os.write(1, f"{kind}\n".encode()) and None)
