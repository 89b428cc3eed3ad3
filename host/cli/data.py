"""`insitu data`: which data sets there are, and fetching them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from insitu.host.cli.common import Json, Root, console, emit

app = typer.Typer(help="Data sets.", no_args_is_help=True)


@app.command("list")
def list_(root: Root = None, json: Json = False) -> None:
    """List the data sets that are here and those that can be fetched.

    Example: `insitu data list`
    """
    from insitu.models.datasets import available, data_root

    entries = available(root)
    if json:
        listed = [
            {
                "name": e.name,
                "where": e.where,
                "shape": e.shape,
                "train": None if e.counts is None else e.counts[0],
                "test": None if e.counts is None else e.counts[1],
                "problem": e.problem,
            }
            for e in entries
        ]
        emit({"root": str(data_root(root)), "data": listed})
        return
    table = Table("name", "images", "train", "test", "where")
    for e in entries:
        if e.counts is None or e.shape is None:
            table.add_row(e.name, "", "", "", e.problem or f"not here: insitu data fetch {e.name}")
        else:
            table.add_row(e.name, "x".join(map(str, e.shape)), *(f"{c:,}" for c in e.counts), e.where)
    console(False).print(table)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="`mnist` or `fashion-mnist`.")],
    root: Root = None,
    base_url: Annotated[str | None, typer.Option(help="Another server that has the files.")] = None,
    json: Json = False,
) -> None:
    """Fetch a data set and check its hashes.

    Example: `insitu data fetch mnist`
    """
    from insitu.models.fetch import fetch as get

    screen = console(json)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as progress:
        tasks: dict[str, int] = {}

        def update(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file, total=total or None)
            progress.update(progress.task_ids[tasks[file]], completed=done)

        folder = get(name, root, base_url=base_url, progress=update)
    if json:
        emit({"name": name, "where": str(folder)})
    else:
        screen.print(f"{name} is in {folder}")
