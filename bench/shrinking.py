"""A student that has learned its scene, shrunk: four criteria at three sizes, before and after fine-tuning.

    python bench/shrinking.py run cnn [--seeds 0,1,2]
    python bench/shrinking.py run mobilenet [--seeds 0,1,2]
    python bench/shrinking.py draw
    python bench/shrinking.py bits cnn [--seeds 0,1,2]

MNIST turned by 45 degrees, at 14 x 14 pixels. A teacher is trained for the scene; a student learns in float32 from what
it says of 12,000 images of the scene, and goes onto the device in 8 bits. 2,000 other images with the teacher's labels
are what its feedback store holds. What is measured goes into docs/shrinking, where docs/shrinking.md shows it; `draw`
makes the figure and prints the tables.
"""

from __future__ import annotations

import argparse
import copy
import io
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
from insitu.host.shrink.request import Shrink, bits
from insitu.host.shrink.runner import Shrinking, shrink
from insitu.host.shrink.tuning import Feedback
from insitu.host.train import TrainPolicy, accuracy, train
from insitu.models import datasets, students, teachers, training
from insitu.models.mobile import initialised
from insitu.models.scaling import Coefficients, Size, resized
from insitu.models.shifts import Shift

FOLDER = Path(__file__).parents[1] / "docs/shrinking"
SHARES, CRITERIA = (0.25, 0.5, 0.75), ("thinet", "l1", "apoz", "random")
WIDTHS = ("weight=6", "act=6", "act=5,weight=5", "act=4,weight=4")
SCENE, TEMPERATURE = "rotate:3", 1.5
LEARNED, STORED = 12_000, 2_000
DECLARATION = Declaration.parse("w8a8e8g8")
#: As compound scaling's paper found them.
COEFFICIENTS = Coefficients(depth=1.2, width=1.1, resolution=1.15)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A student and how it is trained: in float32 before, `passes` over the images with Adam, and on the device, from a
    learning rate, `tuning` times what is stored."""

    model: str
    side: int
    core: str
    batch: int = 16
    passes: int = 6
    lr: float = 0.05
    tuning: int = 1
    tested: int = 4_000


SETTINGS = {
    "cnn": Setting(model="cnn", side=14, core="n=8,act_depth=65536,err_depth=65536,wgt_depth=16384,scales=128"),
    "mobilenet": Setting(
        model="mobilenet-v1",
        side=14,
        core="n=8,act_depth=98304,err_depth=65536,wgt_depth=16384,scales=128,program_depth=512",
        lr=0.01,
        tested=2_000,
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


def scene_of(seed: int, tested: int) -> tuple[Scene, float]:
    """The scene's images, drawn by a seed; the teacher, one for all seeds, and how good it is."""
    dataset, shift = datasets.load("mnist"), Shift.parse(SCENE)
    file = FOLDER.parents[1] / "runs/shrinking/teacher.npz"
    if not file.exists():
        teachers.save_teacher(file, teachers.train_teacher(dataset, shift, seed=100))
    teacher = teachers.load_teacher(file)
    order = np.random.default_rng(seed).permutation(len(dataset.x_train))[: LEARNED + STORED + STORED // 4]
    x = shift.apply(dataset.x_train[order], seed=seed)
    taught = teachers.soft_labels(teacher, x, TEMPERATURE)
    x_test, y_test = shift.apply(dataset.x_test[:tested], seed=7919), dataset.y_test[:tested]
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
        train(
            driver,
            scene.feedback.x,
            scene.feedback.targets,
            TrainPolicy(epochs=setting.tuning, lr=setting.lr, seed=seed),
        )
        after = accuracy(driver, scene.x_test, scene.y_test)
    price = Price.of(made.program)
    return {"pruned": before, "after": after, "cycles": price.cycles, "parameters": price.parameters}


class Bench:
    """One student and seed: its arms, one after another."""

    def __init__(self, name: str, seed: int, lr: float | None = None) -> None:
        chosen = SETTINGS[name]
        self.setting = chosen if lr is None else Setting(**{**vars(chosen), "lr": lr})
        self.name, self.seed = name, seed
        self.full, self.teacher = scene_of(seed, self.setting.tested)
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

    def shrunk(self, share: float | None, by: str, measure: str = "channels", narrower: Any = None) -> dict[str, Any]:
        graph = trace(copy.deepcopy(self.module), self.shape)
        twin.load(graph, self.program, self.served)
        given: dict[str, Any] = {"to": share, "by": by, "measure": measure, "bits": narrower or {}}
        request = Shrink(folder=Path(), epochs=self.setting.tuning, **given)
        found = shrink(
            Shrinking(
                request=request,
                shape=self.shape,
                graph=graph,
                program=self.program,
                served=self.served,
                lr=self.setting.lr,
                stream_lr=self.setting.lr,
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
        widths = [Size(**one, width=w / 20, side=self.setting.side) for w in range(20, 4, -1)]
        sides = [Size(**one, width=1.0, side=s) for s in range(self.setting.side, 7, -1)]
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
        result |= {"base": bench.base, "rows": bench.criteria(), "sizes": []}
        write_whole(kept, (json.dumps(result, indent=1) + "\n").encode())
        result["sizes"] = [row for share in shares for row in bench.sizes(share)]
        write_whole(kept, (json.dumps(result, indent=1) + "\n").encode())


def widths(name: str, seeds: list[int]) -> None:
    """Widths brought down: accuracy before and after fine-tuning, and bits held, a line each."""
    for seed in seeds:
        bench = Bench(name, seed)
        print(seed, f"{bench.base['accuracy']:.3f}", f"{Price.of(bench.program).bits:,}", flush=True)
        for text in WIDTHS:
            row = bench.shrunk(None, "thinet", narrower=bits(text))
            print(seed, text, f"{row['pruned']:.3f} {row['after']:.3f} {row['bits']:,}", flush=True)


LABELS = {
    "thinet": ("ThiNet", "tab:blue", "o"),
    "l1": ("weight sum", "tab:orange", "s"),
    "apoz": ("APoZ", "tab:green", "^"),
    "random": ("random", "0.5", "D"),
    "scratch": ("new weights", "tab:red", "X"),
}
TITLES = {"cnn": "cnn, 16-32-128", "mobilenet": "MobileNet V1"}


def results() -> dict[str, list[dict[str, Any]]]:
    found = {name: sorted(FOLDER.glob(f"{name}-*.json")) for name in SETTINGS}
    return {name: [json.loads(path.read_bytes()) for path in paths] for name, paths in found.items() if paths}


def draw(found: dict[str, list[dict[str, Any]]]) -> bytes:
    """Accuracy against cycles, before and after fine-tuning, means of the seeds with their ranges."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "insitu", "font.size": 8, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.2, 2.9 * len(found)), layout="constrained")
        for row, (name, runs) in enumerate(found.items()):
            for column, when in enumerate(("pruned", "after")):
                axes = figure.add_subplot(len(found), 2, 2 * row + column + 1)
                curves(axes, runs, when)
                axes.set(
                    title=f"{TITLES[name]}, {'before' if when == 'pruned' else 'after'} fine-tuning", ylim=(0, 100)
                )
                axes.set(xlabel="cycles of a training step, thousands", ylabel="accuracy in the scene, %")
                axes.grid(alpha=0.3, linewidth=0.5)
                axes.legend(fontsize=6, loc="lower right")
        image = io.BytesIO()
        figure.savefig(image, format="svg", metadata={"Date": None})
    return b"".join(line.rstrip() + b"\n" for line in image.getvalue().splitlines())


def curves(axes: Any, runs: list[dict[str, Any]], when: str) -> None:
    base = [100 * run["base"]["accuracy"] for run in runs]
    axes.plot([runs[0]["base"]["cycles"] / 1e3], [np.mean(base)], "k*", label="before pruning")
    for arm, (label, colour, marker) in LABELS.items():
        if arm == "scratch" and when == "pruned":
            continue
        points = [accuracies(runs, arm, share, when) for share in SHARES]
        means = [float(np.mean(values)) for values in points]
        spread = [
            [m - min(v) for m, v in zip(means, points, strict=True)],
            [max(v) - m for m, v in zip(means, points, strict=True)],
        ]
        at = [rows(runs, arm, share)[0]["cycles"] / 1e3 for share in SHARES]
        axes.errorbar(at, means, yerr=spread, color=colour, marker=marker, ms=4, lw=1, elinewidth=0.7, label=label)


def rows(runs: list[dict[str, Any]], arm: str, share: float) -> list[dict[str, Any]]:
    """The rows of an arm at a share of the channels, one a seed."""
    every = (row for run in runs for row in run["rows"])
    return [r for r in every if (r["arm"], r["share"]) == (arm, share) and r.get("measure", "channels") == "channels"]


def accuracies(runs: list[dict[str, Any]], arm: str, share: float, when: str) -> list[float]:
    return [100 * row[when] for row in rows(runs, arm, share)]


def tables(name: str, runs: list[dict[str, Any]]) -> list[str]:
    """Markdown: a line a share and arm, accuracy of each seed's mean and range."""
    base = runs[0]["base"]
    accuracy = [100 * run["base"]["accuracy"] for run in runs]
    lines = [f"{name}: {span(accuracy)} %, {base['cycles']:,} cycles, {base['parameters']:,} parameters", ""]
    lines += ["| channels kept | cycles | " + " | ".join(label for label, _, _ in LABELS.values()) + " |"]
    lines += ["| --- " * (2 + len(LABELS)) + "|"]
    for share in SHARES:
        cells = []
        for arm in LABELS:
            before, after = (accuracies(runs, arm, share, when) for when in ("pruned", "after"))
            cells.append(span(after) if arm == "scratch" else f"{np.mean(before):.1f} / {span(after)}")
        cycles = rows(runs, "thinet", share)[0]["cycles"] / base["cycles"]
        lines.append(f"| {share:.0%} | {cycles:.0%} | " + " | ".join(cells) + " |")
    half = [row for run in runs for row in run["rows"] if row.get("measure") == "cycles"]
    lost = [a - 100 * row["after"] for a, row in zip(accuracy, half, strict=True)]
    lines += [
        "",
        f"half the cycles: {span([100 * r['pruned'] for r in half])} before, {span([100 * r['after'] for r in half])} ",
    ]
    lines += [f"after, {span(lost)} lost, {100 * half[0]['cycles'] / base['cycles']:.0f} % of the cycles"]
    for arm in dict.fromkeys(row["arm"] for run in runs for row in run["sizes"]):
        mine = [row for run in runs for row in run["sizes"] if row["arm"] == arm]
        lines.append(
            f"| {arm} | {mine[0].get('size', '')} | {mine[0]['cycles']:,} | {mine[0]['parameters']:,} | "
            f"{span([100 * r['pruned'] for r in mine])} | {span([100 * r['after'] for r in mine])} |"
        )
    return lines


def span(values: list[float]) -> str:
    """A mean, and how far the farthest is from it."""
    mean = float(np.mean(values))
    return f"{mean:.1f} ± {max(abs(value - mean) for value in values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "draw", "bits"])
    parser.add_argument("name", nargs="?", choices=sorted(SETTINGS), default="cnn")
    parser.add_argument("--seeds", default="0,1,2", help="of images, student and rounding")
    parser.add_argument("--sizes", default="", help="shares of the cycles at which MobileNet's sizes are compared: 0.5")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.what == "run":
        seeds, shares = chosen.seeds.split(","), filter(None, chosen.sizes.split(","))
        run(chosen.name, [int(seed) for seed in seeds], [float(share) for share in shares])
        return
    if chosen.what == "bits":
        widths(chosen.name, [int(seed) for seed in chosen.seeds.split(",")])
        return
    found = results()
    write_whole(FOLDER / "shrinking.svg", draw(found))
    for name, runs in found.items():
        print("\n".join(tables(name, runs)), end="\n\n")


if __name__ == "__main__":
    main()
