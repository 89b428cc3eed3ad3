"""`insitu synth`: what a core takes of an FPGA, and how fast it is."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from insitu.host.cli.building import Classes, InShape, build_program
from insitu.host.cli.common import Batch, Core, Json, Model, console, emit


def synth(
    core: Core = "edge8",
    target: Annotated[
        str,
        typer.Option(
            help="`ecp5-85k`, or with its speed grade, `ecp5-85k-6` to `-8` (the fastest, meant where none is given): "
            "place and route; `xc7`: yosys's estimate."
        ),
    ] = "ecp5-85k",
    model: Model = "mlp:784-100-50-10",
    batch: Batch = 64,
    in_shape: InShape = None,
    classes: Classes = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the placement.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Try so many seeds, from `--seed` on; the fastest counts.")] = 1,
    json: Json = False,
) -> None:
    """Synthesise a core: logic, multipliers, memories, clock, and what that makes of a student's training.

    Results are cached. Example: `insitu synth --core edge8 --target ecp5-85k`
    """
    from insitu.arch.params import CoreParams
    from insitu.fpga.synth import synthesise
    from insitu.fpga.targets import RESOURCES
    from insitu.sim import cycles

    params = CoreParams.parse(core)
    declaration = params.declaration
    compiled = build_program(
        model, core=params, declaration=declaration, batch=batch, in_shape=in_shape, classes=classes
    )
    screen = console(json)
    with screen.status("synthesising (minutes; then it is in the cache)"):
        cost = synthesise(params, target, seeds=range(seed, seed + seeds))
    report = cycles.report(compiled, "train")
    rate = None if cost.mhz is None else cost.mhz * 1e6 * compiled.batch / report.cycles
    peak = cost.peak_gops(params)
    if json:
        emit({**cost.to_json(), "gops": peak, "model": model, "samples_per_second": rate, "busy": report.busy})
        return
    table = Table("", "")
    for name in RESOURCES:
        table.add_row(name, f"{getattr(cost, name):,}")
    if cost.mhz is not None and rate is not None:
        table.add_row("clock", f"{cost.mhz:g} MHz (seed {cost.seed})")
        table.add_row("peak", f"{peak:.1f} G operations/s")
        table.add_row(f"training {model}, batch {batch}", f"{rate:,.0f} samples/s")
    table.add_row("busy cells in a training step", f"{report.busy:.1%}")
    screen.print(table)
    if cost.critical_path:
        path = " -> ".join(cost.critical_path)
        screen.print(f"critical path: {path}", highlight=False, soft_wrap=True)
