"""`insitu fleet`: devices in their scenes, one teacher; what it costs as the fleet grows."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from insitu.host.cli.common import (
    Batch,
    Core,
    Exponents,
    Format,
    Json,
    Model,
    Root,
    Seed,
    console,
    counting,
    emit,
    whole_numbers,
)


def fleet(
    devices: Annotated[str, typer.Option(help="Devices; several sizes joined by commas: `10,50,200`.")] = "10",
    data: Annotated[str, typer.Option(help="Data set: digits, mnist, or a folder's name.")] = "digits",
    scenes: Annotated[
        str, typer.Option(help="Scenes joined by commas, given out in turn: `rotate:2,noise:1+blur:2`.")
    ] = "rotate:2,rotate:3,translate:3,contrast:4",
    model: Model = "mlp:64-24-10",
    samples: Annotated[int, typer.Option(min=1, help="Samples of each device's stream.")] = 320,
    chunk: Annotated[int, typer.Option(min=1, help="Samples a device answers between two rounds.")] = 32,
    labels: Annotated[int | None, typer.Option(min=1, help="Labels bought of the teacher for the whole fleet.")] = None,
    pace: Annotated[float | None, typer.Option(help="Labels a sample of the streams so far, at most.")] = None,
    sharing: Annotated[str, typer.Option(help="`equal` parts, or `lent`: what some leave, others may have.")] = "lent",
    peers: Annotated[int, typer.Option(min=0, help="Devices of its scene asked when the teacher has none left.")] = 0,
    teacher_batch: Annotated[int, typer.Option(min=1, help="Samples the teacher takes at a time.")] = 256,
    gold: Annotated[int, typer.Option(min=0, help="Questions beside each round that find out a teacher who lies.")] = 8,
    memory_bytes: Annotated[int, typer.Option(min=1, help="Feedback that a device keeps.")] = 50_000,
    format: Format = "w8a8e8g8",  # the option's name
    exponents: Exponents = "delayed",
    core: Core = "n=8,act_depth=512,err_depth=256,wgt_depth=512",
    batch: Batch = 16,
    lr: Annotated[float, typer.Option(help="Learning rate, of the mean loss.")] = 0.1,
    engine: Annotated[str, typer.Option(help="processes here, or `ray` or `dask` for a cluster.")] = "processes",
    workers: Annotated[int, typer.Option(min=1, help="Devices take turns on so many emulators.")] = 1,
    seed: Seed = 0,
    root: Root = None,
    json: Json = False,
) -> None:
    """Fix a fleet of students, each in its scene, by one teacher that answers all of them in batches.

    Example: `insitu fleet --devices 200 --labels 20000`
    """
    import torch

    from insitu.arch.declaration import Declaration
    from insitu.arch.params import CoreParams
    from insitu.host.fleet.request import FleetRun, check
    from insitu.host.fleet.runner import run
    from insitu.host.online.policy import OnlinePolicy
    from insitu.host.study import engine as engines

    declaration = Declaration.parse(format, exponent=exponents)
    request = FleetRun(
        data=data,
        scenes=tuple(scene.strip() for scene in scenes.split(",")),
        model=model,
        devices=whole_numbers("devices", devices, "10,50,200"),
        seed=seed,
        core=CoreParams.parse(core).with_declaration(declaration),
        declaration=declaration,
        batch=batch,
        lr=lr,
        labels=labels,
        pace=pace,
        sharing=sharing,  # type: ignore[arg-type]  # checked there
        peers=peers,
        teacher_batch=teacher_batch,
        gold=gold,
        memory_bytes=memory_bytes,
        policy=OnlinePolicy(samples=samples, chunk=chunk, rehearsals=2, audit=0.2),
        root=root,
    )
    check(request)
    if request.data == "digits":
        # Images this small gain nothing by more threads, and on a busy machine they lose minutes to them.
        torch.set_num_threads(1)
    screen = console(json)
    with (
        engines.opened(engine, workers) as pool,
        counting(screen) as progress,
    ):
        task = progress.add_task("fleet")

        def watch(size: int, done: int, of: int) -> None:
            progress.update(task, description=f"{size} devices", completed=done, total=of)

        result = run(request, pool, watch, progress.console.print)
    result |= {"engine": engine, "workers": workers}
    if json:
        emit(result)
        return
    screen.print(_table(result))
    for one in result["fleets"]:
        if one["teacher"]["lies"]:
            screen.print(
                f"{one['devices']:,} devices: {one['teacher']['lies']:,} labels refused, the teacher answered gold "
                "questions wrongly (--gold)"
            )
        for device in (each for each in one["each"] if each["fault"]):
            screen.print(f"{one['devices']:,} devices: device {device['device']} was set aside: {device['fault']}")


def _table(result: dict[str, Any]) -> Table:
    """A line a fleet; means over devices, but for the labels bought, gold questions among them."""
    table = Table("devices", "teacher", "bought", "labels", "up", "down", "cycles", "accuracy", "below", "time")
    for one in result["fleets"]:
        load = one["teacher"]
        table.add_row(
            f"{one['devices']:,}",
            f"{load['batches']} x {load['mean_batch']:.0f}, {load['seconds']:.1f} s",
            f"{load['samples']:,}",
            f"{one['labels']['mean']:.0f} of {one['labels']['mean'] + one['refused']['mean']:.0f}",
            f"{one['bytes_up']['mean'] / 1000:.1f} kB",
            f"{one['bytes_down']['mean'] / 1000:.1f} kB",
            f"{one['cycles']['mean']:,.0f}",
            f"{one['accuracy_before']['mean']:.1%} -> {one['accuracy_after']['mean']:.1%}",
            f"{one['below_before']}",
            f"{one['seconds']:.1f} s",
        )
    return table
