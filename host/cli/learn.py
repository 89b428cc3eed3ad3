"""`insitu learn`: a curriculum's file, its arms on the device and in float32, beside their baseline."""

from __future__ import annotations

import json as text
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from insitu.host.cli.common import Json, Root, check_writable, console, counting, emit, whole_numbers, writing
from insitu.host.errors import HostError


def learn(
    file: Annotated[Path, typer.Argument(help="The curriculum's file (TOML).", metavar="CURRICULUM.toml")],
    seeds: Annotated[str | None, typer.Option(help="Seeds in place of the file's: `0,1,2`.")] = None,
    data: Annotated[str | None, typer.Option(help="A data set in place of the file's.")] = None,
    float_: Annotated[bool, typer.Option("--float/--no-float", help="The float32 twin beside the device.")] = True,
    backend: Annotated[str, typer.Option(help="What the device is: emulator, rtl, pysim or pynq.")] = "emulator",
    out: Annotated[Path | None, typer.Option(help="Folder for NAME.json and NAME.svg.")] = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Train students by the stages of a file, in fixed point and in float32, from the same mini-batches.

    Example: `insitu learn examples/learn/self-training.toml`
    """
    from insitu.arch.files import write_whole
    from insitu.host.device.backends import BACKENDS
    from insitu.host.learn import drawing, experiment, results, schema

    plan = schema.load(file, data)
    if seeds is not None:
        plan = schema.with_seeds(plan, whole_numbers("seeds", seeds, "0,1,2"))
    if backend not in BACKENDS:
        raise HostError(f"backend {backend!r}: there are {', '.join(BACKENDS)}")
    if out is not None:
        _check_folder(out)
        for suffix in (".json", ".svg"):
            check_writable(out / f"{plan.name}{suffix}")
    screen = console(json)
    with counting(screen) as progress:
        task = progress.add_task(plan.name)

        def watch(now: experiment.Progress) -> None:
            at = f"{plan.varied} {now.point.value}, " if plan.varied else ""
            where = f"{at}seed {now.seed}, {now.arm} ({now.arithmetic}), stage {now.stage + 1}"
            progress.update(task, description=where, completed=now.done, total=now.of)
            if now.outcome is not None:
                progress.console.print(f"{where}: {now.outcome.accuracy:.2%}", markup=False, highlight=False)

        result: dict[str, Any] = experiment.run(
            plan,
            root=root,
            backend=backend,
            arithmetics=experiment.ARITHMETICS if float_ else ("device",),
            watch=watch,
        )
    found = results.scores(result)
    result["scores"] = [score.to_json() for score in found]
    if out is not None:
        for suffix, content in ((".svg", drawing.to_svg(result)), (".json", text.dumps(result, indent=1).encode())):
            with writing(out / f"{plan.name}{suffix}"):
                write_whole(out / f"{plan.name}{suffix}", content)
    if json:
        emit(result)
        return
    shown = Table(plan.varied or "", "arm", "", "accuracy", f"gain over {plan.baseline}", title=plan.title)
    for score in found:
        value = "" if score.value is None else str(score.value)
        gain = "" if score.arm == plan.baseline else results.signed(score)
        shown.add_row(value, score.arm, score.arithmetic, f"{score.mean:.2f}", gain)
    screen.print(shown)
    if out is not None:
        screen.print(f"written: {out / plan.name}.json, .svg", markup=False, highlight=False, soft_wrap=True)


def _check_folder(out: Path) -> None:
    """Make a folder to write into, or see that there is one."""
    if out.exists() and not out.is_dir():
        raise HostError(f"out {str(out)!r} is a file: a folder is wanted")
    out.mkdir(parents=True, exist_ok=True)
