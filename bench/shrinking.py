"""A student that has learned its scene, shrunk: four criteria at three sizes, before and after fine-tuning.

    python bench/shrinking.py run cnn [--seeds 0,1,2]
    python bench/shrinking.py run mobilenet [--seeds 0,1,2]
    python bench/shrinking.py draw

MNIST turned by 45 degrees, at 14 x 14 pixels. A teacher is trained for the scene; a student learns in float32 from what
it says of 12,000 images of the scene, and goes onto the device in 8 bits. 2,000 other images with the teacher's labels
are what its feedback store holds. What is measured goes into docs/shrinking, where docs/shrinking.md shows it; `draw`
makes the figure and prints the tables.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from insitu.arch.declaration import Declaration
from insitu.arch.files import write_whole
from insitu.arch.params import CoreParams
from insitu.host.compiler.compile import Compiled, compile_module
from insitu.host.compiler.trace import trace
from insitu.host.device import open_device
from insitu.host.errors import CompileError
from insitu.host.scaling import Budget, Search
from insitu.host.shrink import twin
from insitu.host.shrink.price import Price
from insitu.host.shrink.request import Shrink
from insitu.host.shrink.runner import Shrinking, shrink
from insitu.host.shrink.tuning import Feedback
from insitu.host.train import TrainPolicy, accuracy, train
from insitu.models import datasets, students, teachers, training
from insitu.models.mobile import initialised
from insitu.models.scaling import Coefficients, Size, resized
from insitu.models.shifts import Shift

FOLDER = Path(__file__).parents[1] / "docs/shrinking"
SHARES, CRITERIA = (0.25, 0.5, 0.75), ("thinet", "l1", "apoz", "random")
SCENE, TEMPERATURE = "rotate:3", 1.5
LEARNED, STORED, TESTED = 12_000, 2_000, 4_000
DECLARATION = Declaration.parse("w8a8e8g8")
#: As compound scaling's paper found them.
COEFFICIENTS = Coefficients(depth=1.2, width=1.1, resolution=1.15)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A student and how it is trained: in float32 before, with Adam, and on the device."""

    model: str
    side: int
    core: str
    batch: int = 16
    passes: int = 6
    lr: float = 0.05


SETTINGS = {
    "cnn": Setting(model="cnn", side=14, core="n=8,act_depth=65536,err_depth=65536,wgt_depth=16384,scales=128"),
    "mobilenet": Setting(
        model="mobilenet-v1:width=2",
        side=14,
        core="n=8,act_depth=98304,err_depth=65536,wgt_depth=16384,scales=128,program_depth=512",
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """x, taught: what a student learns from; the rest as a shrinking takes it. Images have the student's side."""

    x: Any
    taught: Any
    feedback: Feedback
    x_test: Any
    y_test: Any

    def at(self, side: int) -> Scene:
        f = self.feedback
        held = resized(f.held_out, side)
        stored = Feedback(x=resized(f.x, side), targets=f.targets, held_out=held, classes=f.classes)
        return Scene(
            x=resized(self.x, side),
            taught=self.taught,
            feedback=stored,
            x_test=resized(self.x_test, side),
            y_test=self.y_test,
        )


def scene_of(seed: int) -> tuple[Scene, float]:
    """The scene's images, drawn by a seed; the teacher, one for all seeds, and how good it is."""
    dataset, shift = datasets.load("mnist"), Shift.parse(SCENE)
    file = FOLDER.parents[1] / "runs/shrinking/teacher.npz"
    if not file.exists():
        teachers.save_teacher(file, teachers.train_teacher(dataset, shift, seed=100))
    teacher = teachers.load_teacher(file)
    order = np.random.default_rng(seed).permutation(len(dataset.x_train))[: LEARNED + STORED + STORED // 4]
    x = shift.apply(dataset.x_train[order], seed=seed)
    taught = teachers.soft_labels(teacher, x, TEMPERATURE)
    x_test, y_test = shift.apply(dataset.x_test[:TESTED], seed=7919), dataset.y_test[:TESTED]
    stored = slice(LEARNED, LEARNED + STORED)
    held = slice(LEARNED + STORED, None)
    feedback = Feedback(x=x[stored], targets=taught[stored], held_out=x[held], classes=taught[held].argmax(axis=1))
    found = Scene(x=x[:LEARNED], taught=taught[:LEARNED], feedback=feedback, x_test=x_test, y_test=y_test)
    return found, float((teachers.soft_labels(teacher, x_test, 1).argmax(axis=1) == y_test).mean())


def learn(module: nn.Module, scene: Scene, setting: Setting, seed: int) -> nn.Module:
    training.train(
        module,
        scene.x,
        scene.taught,
        epochs=setting.passes,
        batch=32,
        lr=2e-3,
        schedule="cosine",
        optimizer="adam",
        seed=seed,
    )
    return module


def compiled(module: nn.Module, scene: Scene, setting: Setting) -> Compiled:
    return compile_module(
        module,
        core=CoreParams.parse(setting.core).with_declaration(DECLARATION),
        declaration=DECLARATION,
        batch=setting.batch,
        calibration=scene.feedback.x[:256],
        targets=scene.feedback.targets[:256],
        learning_rate=setting.lr,
        sample_range=1.0,
    )


def tuned(made: Compiled, scene: Scene, setting: Setting, seed: int) -> dict[str, Any]:
    """A student on the device as it is, and after fine-tuning."""
    with open_device(made.program.core) as driver:
        driver.load(made.program)
        driver.write_weights(made.masters)
        before = accuracy(driver, scene.x_test, scene.y_test)
        train(driver, scene.feedback.x, scene.feedback.targets, TrainPolicy(lr=setting.lr, seed=seed))
        after = accuracy(driver, scene.x_test, scene.y_test)
    price = Price.of(made.program)
    return {"pruned": before, "after": after, "cycles": price.cycles, "parameters": price.parameters}


class Bench:
    """One student and seed: its arms, one after another."""

    def __init__(self, name: str, seed: int, lr: float | None = None) -> None:
        chosen = SETTINGS[name]
        self.setting = chosen if lr is None else Setting(**{**vars(chosen), "lr": lr})
        self.name, self.seed = name, seed
        self.full, self.teacher = scene_of(seed)
        self.scene = self.full.at(self.setting.side)
        self.shape = self.scene.x.shape[1:]
        self.module = learn(self.build(self.setting.model, self.setting.side), self.scene, self.setting, seed)
        made = compiled(self.module, self.scene, self.setting)
        self.program = made.program
        with open_device(made.program.core) as driver:
            driver.load(made.program)
            driver.write_weights(made.masters)
            self.served = driver.snapshot()
            self.base = {
                "accuracy": accuracy(driver, self.scene.x_test, self.scene.y_test),
                "float": training.accuracy(self.module, self.scene.x_test, self.scene.y_test),
                "cycles": Price.of(made.program).cycles,
                "parameters": Price.of(made.program).parameters,
            }

    def build(self, model: str, side: int) -> nn.Module:
        return students.build(model, in_shape=(1, side, side), classes=10, seed=self.seed)

    def shrunk(self, share: float, by: str, measure: str = "channels", bits: Any = None) -> dict[str, Any]:
        graph = trace(copy.deepcopy(self.module), self.shape)
        twin.load(graph, self.program, self.served)
        request = Shrink(folder=Path(), to=share, by=by, measure=measure, bits=bits or {})  # type: ignore[arg-type]
        found = shrink(
            Shrinking(
                request=request,
                shape=self.shape,
                graph=graph,
                program=self.program,
                served=self.served,
                lr=self.setting.lr,
                seed=self.seed,
                feedback=self.scene.feedback,
                x_test=self.scene.x_test,
                y_test=self.scene.y_test,
            )
        ).report
        return {
            "arm": by,
            "share": share,
            "measure": measure,
            "pruned": found["pruned"]["accuracy"],
            "after": found["after"]["accuracy"],
            "channels": found["channels"],
            **{k: found["after"][k] for k in ("cycles", "inference", "memory", "parameters", "traffic", "bits")},
        }

    def scratch(self, share: float, kept: dict[str, list[int]]) -> dict[str, Any]:
        """The same shape with new weights, and the same fine-tuning."""
        stage = {name: list(range(after, before)) for name, (before, after) in kept.items()}
        graph = twin.rebuilt(self.module, self.shape, [stage])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            made = compiled(initialised(graph.module), self.scene, self.setting)
        return {"arm": "scratch", "share": share, **tuned(made, self.scene, self.setting, self.seed)}

    def criteria(self) -> list[dict[str, Any]]:
        rows = []
        for share in SHARES:
            for by in CRITERIA:
                rows.append(self.shrunk(share, by))
                print(self.name, self.seed, share, by, f"{rows[-1]['pruned']:.3f} {rows[-1]['after']:.3f}", flush=True)
            rows.append(self.scratch(share, rows[-1]["channels"]))
            print(self.name, self.seed, share, "scratch", f"{rows[-1]['after']:.3f}", flush=True)
        rows.append(self.shrunk(0.5, "thinet", "cycles"))
        print(self.name, self.seed, "half the cycles", f"{rows[-1]['pruned']:.3f} {rows[-1]['after']:.3f}", flush=True)
        return rows

    def sizes(self, share: float) -> list[dict[str, Any]]:
        """MobileNet's multipliers and compound scaling within a share of the cycles, each trained as the student was,
        beside pruning to as many."""
        budget = int(share * self.base["cycles"])
        one = {"phi": 0.0, "depth": 1.0}
        widths = [Size(**one, width=w / 20, side=self.setting.side) for w in range(40, 4, -1)]
        sides = [Size(**one, width=2.0, side=s) for s in range(self.setting.side, 7, -1)]
        compound = Search(
            core=self.program.core,
            declaration=DECLARATION,
            batch=self.setting.batch,
            budget=Budget(cycles=budget),
            side=self.setting.side,
        )
        chosen = {"width": widths, "resolution": sides, "compound": [compound.largest(COEFFICIENTS).size]}
        rows = [self.shrunk(share, "thinet", "cycles")]
        for arm, sizes in chosen.items():
            row = self.within(arm, sizes, budget)
            if row is not None:
                rows.append({**row, "share": share, "measure": "cycles"})
                print(self.name, self.seed, share, arm, row, flush=True)
        return rows

    def within(self, arm: str, sizes: list[Size], budget: int) -> dict[str, Any] | None:
        """The largest of some sizes within a budget of cycles, trained and fine-tuned; None where none is."""
        for size in sizes:
            scene, module = self.full.at(size.side), self.build(size.spec, size.side)
            try:
                if Price.of(compiled(module, scene, self.setting).program).cycles > budget:
                    continue
            except CompileError:
                continue
            made = compiled(learn(module, scene, self.setting, self.seed), scene, self.setting)
            return {"arm": arm, "size": str(size), **tuned(made, scene, self.setting, self.seed)}
        return None


def run(name: str, seeds: list[int], shares: list[float]) -> None:
    FOLDER.mkdir(exist_ok=True)
    for seed in seeds:
        kept = FOLDER / f"{name}-{seed}.json"
        if kept.exists():
            continue
        bench = Bench(name, seed)
        print(name, seed, bench.base, f"teacher {bench.teacher:.3f}", flush=True)
        result: dict[str, Any] = {"name": name, "seed": seed, "setting": vars(bench.setting), "teacher": bench.teacher}
        result |= {"base": bench.base, "rows": bench.criteria()}
        result["sizes"] = [row for share in shares for row in bench.sizes(share)] if name == "mobilenet" else []
        write_whole(kept, (json.dumps(result, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "draw"])
    parser.add_argument("name", nargs="?", choices=sorted(SETTINGS), default="cnn")
    parser.add_argument("--seeds", default="0,1,2", help="of images, student and rounding")
    parser.add_argument("--sizes", default="0.5", help="shares of the cycles at which sizes are compared")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.what == "run":
        seeds, shares = chosen.seeds.split(","), chosen.sizes.split(",")
        run(chosen.name, [int(seed) for seed in seeds], [float(share) for share in shares])


if __name__ == "__main__":
    main()
