"""The online fix in a scene that moves on: digits turned by 15 degrees more every so many samples, by two teachers, one
who knows every angle and one who knows upright digits alone.

    python bench/moving.py [--seeds 5,6,7]

Prints what is in docs/collapse.md, and writes it to docs/collapse/moving.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from insitu.arch.declaration import Declaration
from insitu.arch.files import write_whole
from insitu.arch.params import CoreParams
from insitu.host.collapse.trial import Setup
from insitu.host.device import open_device
from insitu.host.device.snapshot import Snapshot
from insitu.host.online.gold import Gold
from insitu.host.online.loop import Chunk, Images, Labels, OnlineLoop
from insitu.host.online.scene import Scene, prepare, test_images
from insitu.host.train import accuracy
from insitu.models import teachers
from insitu.models.shifts import Shift

FILE = Path(__file__).parents[1] / "docs/collapse/moving.json"
#: The scene's legs, and samples in each.
LEGS, LENGTH = ("none", "rotate:1", "rotate:2", "rotate:3", "rotate:4", "rotate:5"), 640


@dataclass(frozen=True)
class Moving:
    """A scene's stream, whose shift is another one in each leg."""

    scene: Scene

    def stream(self, first: int, count: int) -> tuple[Images, Labels]:
        return replace(self.scene, shift=Shift.parse(LEGS[first // LENGTH])).stream(first, count)

    def pictured(self, positions: Labels) -> Any:
        return self.scene.pictured(positions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="5,6,7", help="of student, teacher, stream and rounding")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for seed in map(int, chosen.seeds.split(",")):
        scene = prepare(data="digits", shift="rotate:5", model="mlp:64-24-10", seed=seed)
        upright = teachers.train_teacher(scene.dataset, seed=seed)
        for knows, teacher in (("every angle", scene.teacher), ("upright digits", upright)):
            runs.append({"seed": seed, "knows": knows, **run(replace(scene, teacher=teacher))})
            write_whole(FILE, (json.dumps(runs, indent=1) + "\n").encode())
    print("\n".join(table(runs)))


def run(scene: Scene) -> dict[str, Any]:
    """Accuracies in the scene as it is at the end of each leg, and what the guard did."""
    declaration = Declaration.parse("w8a8e8g8")
    core = CoreParams(n=8, act_depth=512, err_depth=256, wgt_depth=512).with_declaration(declaration)
    setup = Setup(scene=scene, core=core, declaration=declaration, seed=scene.seed)
    compiled, dataset = setup.compiled(), scene.dataset
    tests = [test_images(dataset, Shift.parse(leg), seed=scene.seed) for leg in LEGS]
    found: list[dict[str, float]] = []
    with open_device(core) as driver, open_device(core) as twin:
        setup.ship(compiled, driver, twin)
        loop = OnlineLoop(
            driver,
            Moving(scene),
            lambda x: teachers.soft_labels(scene.teacher, x, setup.temperature),
            setup.memory(compiled),
            policy=replace(setup.policy, samples=LENGTH * len(LEGS)),
            seed=scene.seed,
            identity="{}",
            gold=Gold.of(dataset, setup.gold),
        )

        def watch(chunk: Chunk) -> None:
            leg, left = divmod(chunk.progress.samples, LENGTH)
            if left:
                return
            x = tests[leg - 1]

            def of(snapshot: Snapshot) -> float:
                twin.restore(snapshot)
                return accuracy(twin, x, dataset.y_test)

            answers = teachers.soft_labels(scene.teacher, x, 1.0).argmax(axis=1)
            found.append(
                {
                    "teacher": float((answers == dataset.y_test).mean()),
                    "shipped": of(loop.guard.first),
                    "served": of(loop.guard.incumbent),
                    "trained": of(driver.snapshot()),
                }
            )

        progress = loop.run(watch)
    return {"legs": found, "verdicts": [list(one) for one in progress.verdicts], "refused": progress.refused}


def table(runs: list[dict[str, Any]]) -> list[str]:
    """Means over seeds, a line a leg and teacher."""
    lines = [
        "| the teacher knows | scene | teacher | as shipped | served | in training | served below shipped |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for knows in dict.fromkeys(one["knows"] for one in runs):
        mine = [one["legs"] for one in runs if one["knows"] == knows]
        for k, leg in enumerate(LEGS):
            mean = {name: 100 * np.mean([one[k][name] for one in mine]) for name in mine[0][k]}
            below = sum(one[k]["served"] < one[k]["shipped"] for one in mine)
            shown = " | ".join(f"{mean[name]:.1f}" for name in ("teacher", "shipped", "served", "trained"))
            lines.append(f"| {knows} | {leg} | {shown} | {below} of {len(mine)} |")
    return lines


if __name__ == "__main__":
    main()
