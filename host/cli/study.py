"""`insitu study`: run a file of points, report what came of it, list what is there."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from insitu.host.cli.common import Json, Root, console, counting, emit

app = typer.Typer(no_args_is_help=True, help="Studies: accuracy against bit-width, with the fabric's price.")
File = Annotated[Path, typer.Argument(help="The study's file (TOML).", metavar="FILE.toml")]


@app.command()
def run(
    file: File,
    workers: Annotated[int, typer.Option(min=1, help="Trials at a time; results do not depend on it.")] = 1,
    engine: Annotated[str, typer.Option(help="processes here, or `ray` or `dask` for a cluster.")] = "processes",
    root: Root = None,
    json: Json = False,
) -> None:
    """Run what of a study is not done; interrupted at any moment it goes on from there.

    Example: `insitu study run examples/studies/digits-roles.toml --workers 2`
    """
    from insitu.host.study import checking, runner, schema, search, store, table, trial
    from insitu.host.study import engine as engines

    study = schema.load(file)
    checking.check(study, root)
    screen = console(json)
    begun = time.monotonic()
    with store.opened(study, write=True) as kept, engines.opened(engine, workers) as pool:
        before = sum(table.counts(t)["done"] for t in (kept.points, kept.compared))
        with counting(screen) as progress:
            task = progress.add_task(study.name, total=search.planned(study, kept), completed=before)

            def told(kind: str, line: str) -> None:
                progress.console.print(f"{kind}: {line}", markup=False, highlight=False, soft_wrap=True)
                if kind == "trial":
                    progress.advance(task)

            runner.Runner(study=study, engine=pool, execute=trial.run, root=root, told=told).run(kept)
        seconds = time.monotonic() - begun
        result: dict[str, Any] = {
            "study": study.name,
            "storage": store.shown(study.storage),
            "points": table.counts(kept.points),
            "compared": table.counts(kept.compared),
            "run_now": sum(table.counts(t)["done"] for t in (kept.points, kept.compared)) - before,
            "cores": len(kept.areas()),
            "seconds": seconds,
        }
        if json:
            emit(result | {"trials": table.trials_json(study, kept)})
            return
    done, failed = (result["points"][k] + result["compared"][k] for k in ("done", "failed"))
    screen.print(f"{done} trials done, {failed} failed, {result['run_now']} of them now, in {seconds:.0f} s")
    screen.print(f"optuna-dashboard {result['storage']}", highlight=False, soft_wrap=True)
    screen.print(f"insitu study report {file} --out report", highlight=False, soft_wrap=True)


@app.command()
def report(
    file: File,
    out: Annotated[Path, typer.Option(help="Folder to write: index.html, figures, trials.csv, trials.parquet.")],
    within: Annotated[
        float, typer.Option(min=0.0, help="The cheapest core within this many points of float32 is the answer.")
    ] = 0.5,
    json: Json = False,
) -> None:
    """Write a study's page, its figures and its table.

    Example: `insitu study report examples/studies/digits-roles.toml --out report --within 0.5`
    """
    from insitu.host.study import schema, store, writing

    study = schema.load(file)
    with store.opened(study, write=False) as kept:
        written = writing.write(study, kept, out, within)
    if json:
        emit(written)
        return
    screen = console(json)
    for line in written["answer"]:
        screen.print(line, markup=False, highlight=False, soft_wrap=True)
    screen.print(f"written: {written['page']}", highlight=False, soft_wrap=True)


@app.command("list")
def list_(
    folder: Annotated[Path, typer.Argument(help="Folder of study files.")] = Path(),
    json: Json = False,
) -> None:
    """List the studies of a folder's files: what they vary, and how far they are.

    Example: `insitu study list examples/studies`
    """
    from insitu.host.errors import StudyError, StudyNotBegun
    from insitu.host.study import schema, search, store, table

    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder")
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.toml")):
        try:
            study = schema.load(path)
            row: dict[str, Any] = {
                "file": str(path),
                "study": study.name,
                "data": study.data,
                "method": study.search.method,
                "varies": [axis.name for axis in study.space],
                "planned": search.planned(study),
                "done": 0,
            }
            with contextlib.suppress(StudyNotBegun), store.opened(study, write=False) as kept:
                row["done"] = sum(table.counts(t)["done"] for t in (kept.points, kept.compared))
                row["planned"] = search.planned(study, kept)
        except StudyError as error:
            row = {"file": str(path), "problem": str(error)}
        found.append(row)
    if json:
        emit({"studies": found})
        return
    screen = console(json)
    shown = Table("file", "data", "method", "varies", "trials")
    for row in found:
        if "problem" in row:
            shown.add_row(row["file"], "", "", row["problem"], "")
        else:
            trials = f"{row['done']} of {row['planned']}"
            shown.add_row(row["file"], row["data"], row["method"], ", ".join(row["varies"]) or "nothing", trials)
    screen.print(shown)
