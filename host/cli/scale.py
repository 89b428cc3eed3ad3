"""`insitu scale`: the largest student of a family within a budget of cycles, memory or cells."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from insitu.host.cli.common import Batch, Core, Exponents, Format, Json, Root, Seed, console, counting, emit
from insitu.host.errors import HostError, TwoPasses

if TYPE_CHECKING:
    from insitu.models.scaling import Coefficients


def scale(
    budget: Annotated[
        str,
        typer.Option(
            help="`cycles=200000` of a training step, `act=`, `err=`, `wgt=` words of N elements instead of the core's "
            "memories, `cells=` of the array; several joined by commas."
        ),
    ],
    data: Annotated[str, typer.Option(help="Data set: digits, mnist, or a folder's name.")] = "digits",
    core: Core = "edge8",
    batch: Batch = 16,
    format: Format = "w8a8e8g8",  # the option's name
    exponents: Exponents = "delayed",
    side: Annotated[
        int | None, typer.Option(min=8, max=255, help="Side of the base's images, at phi = 0; default the data's own.")
    ] = None,
    coefficients: Annotated[
        str | None, typer.Option(help="`depth=1.2,width=1.1,resolution=1.15`: fitted before, no grid is trained.")
    ] = None,
    grid_step: Annotated[float, typer.Option(help="Step of the grid over the coefficients.")] = 0.1,
    grid_epochs: Annotated[int, typer.Option(min=1, help="Passes over the images for each candidate.")] = 10,
    grid_images: Annotated[
        int, typer.Option(min=10, help="Training images that candidates see, a fifth of them to be judged by.")
    ] = 2000,
    seed: Seed = 0,
    root: Root = None,
    json: Json = False,
) -> None:
    """Scale depth, width and resolution of mobilenet-v1 together, up to a budget.

    Example: `insitu scale --data digits --core edge8 --batch 8 --budget cycles=150000`
    """
    import torch

    from insitu.arch.declaration import Declaration, ExponentPolicy
    from insitu.arch.params import CoreParams
    from insitu.host.scaling import Budget, Fitted, Search, best, fit
    from insitu.models import datasets
    from insitu.models.scaling import grid

    if exponents == ExponentPolicy.EXACT:
        raise TwoPasses
    allowed = Budget.parse(budget)
    declaration = Declaration.parse(format, exponent=exponents)
    params = CoreParams.parse(core).with_declaration(declaration)
    candidates = grid(grid_step) if coefficients is None else (_coefficients(coefficients),)
    dataset = datasets.load(data, root)
    channels, height, width = dataset.in_shape
    if height != width and side is None:
        raise HostError(f"data set {data!r} has images of {height} x {width}: say with --side what square they become")
    base = height if side is None else side
    search = Search(
        core=params,
        declaration=declaration,
        batch=batch,
        budget=allowed,
        side=base,
        channels=channels,
        classes=dataset.classes,
    )
    affordable = search.affordable(candidates)
    screen = console(json)
    fitted: list[Fitted] = []
    if coefficients is None:
        torch.set_num_threads(1)  # small networks only lose time to more
        with counting(screen) as progress:
            task = progress.add_task("grid at phi = 1", total=len(affordable))
            fitted = fit(
                dataset,
                affordable,
                base,
                epochs=grid_epochs,
                images=grid_images,
                seed=seed,
                on_candidate=lambda _: progress.advance(task),
            )
    chosen = best(fitted).coefficients if fitted else affordable[0]
    found = search.largest(chosen)
    unlimited = search.unlimited()
    by_candidate = [f.to_json() | {"cycles": getattr(unlimited.cost(f.size), "cycles", None)} for f in fitted]
    module = found.size.build(channels=channels, classes=dataset.classes, seed=seed)
    result: dict[str, Any] = {
        "data": data,
        "core": search.core.to_json(),
        "format": declaration.short,
        "batch": batch,
        "budget": {name: value for name, value in asdict(allowed).items() if value is not None},
        "grid": by_candidate,
        "coefficients": asdict(chosen),
        "model": found.size.spec,
        "in_shape": [channels, found.size.side, found.size.side],
        "size": {**asdict(found.size), "parameters": sum(p.numel() for p in module.parameters())},
        "cost": asdict(found.cost),
        "limit": found.limit,
    }
    if json:
        emit(result)
        return
    if fitted:
        screen.print(_grid_table(by_candidate, asdict(chosen)))
    screen.print(_size_table(result, str(allowed)))
    screen.print(f"next: {found.limit}", highlight=False, soft_wrap=True)
    shape = "x".join(map(str, result["in_shape"]))
    screen.print(f"--model {found.size.spec} --in-shape {shape}", highlight=False, soft_wrap=True)


def _grid_table(rows: list[dict[str, Any]], chosen: dict[str, float]) -> Table:
    table = Table("depth", "width", "resolution", "side", "parameters", "cycles", "held out", title="at phi = 1")
    for row in rows:
        mark = " *" if chosen.items() <= row.items() else ""
        cycles = f"{row['cycles']:,}" if row["cycles"] else "-"
        numbers = (f"{row[name]:g}" for name in ("depth", "width", "resolution"))
        sizes = (str(row["side"]), f"{row['parameters']:,}")
        table.add_row(*numbers, *sizes, cycles, f"{row['accuracy']:.1%}{mark}")
    return table


def _size_table(result: dict[str, Any], budget: str) -> Table:
    size, cost = result["size"], result["cost"]
    table = Table("", f"phi = {size['phi']:g}", title=f"largest within {budget}")
    table.add_row("depth, width", f"x {size['depth']:g}, x {size['width']:g}")
    table.add_row("images", f"{size['side']} x {size['side']}")
    table.add_row("parameters", f"{size['parameters']:,}")
    table.add_row(f"cycles, training step of {result['batch']}", f"{cost['cycles']:,}")
    for name, words in cost["memory"].items():
        if words:
            table.add_row(f"{name.upper()}, words of {result['core']['n']}", f"{words:,}")
    return table


def _coefficients(text: str) -> Coefficients:
    """Read "depth=1.2,width=1.1,resolution=1.15"."""
    from insitu.models.scaling import Coefficients

    items = [item.partition("=") for item in text.split(",")]
    try:
        values = {name: float(value) for name, _, value in items}
    except ValueError:
        values = {}
    if len(items) != 3 or set(values) != {"depth", "width", "resolution"}:
        raise HostError(f"coefficients {text!r}: give depth=, width= and resolution= once each, numbers of at least 1")
    return Coefficients(**values)
