"""`insitu shrink`: a served student made smaller between two stretches of its stream."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from insitu.host.cli.common import Json, Root, console, counting, emit, refuse_beside
from insitu.host.errors import HostError

#: What says how to shrink.
_HOW = ("--to", "--by", "--measure", "--bits", "--samples", "--epochs", "--lr", "--clock", "--seed", "--store")


def shrink(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="The folder of an online run.")] = Path("runs/mnist-rotate3-0"),
    to: Annotated[float | None, typer.Option(help="Share of what --measure counts that is left, such as 0.5.")] = None,
    by: Annotated[str, typer.Option(help="Which channels go: thinet, l1, apoz or random.")] = "thinet",
    measure: Annotated[
        str,
        typer.Option(
            help="cycles of a training step, inference (cycles of an answer), memory, parameters, traffic, channels."
        ),
    ] = "cycles",
    bits: Annotated[
        str | None, typer.Option(help="Widths to come down to: `activation=6,weight=4`, or `act=6`.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Stored samples to fine-tune on, at most, the newest.")] = 2000,
    epochs: Annotated[int, typer.Option(help="Passes over them; 0 for no fine-tuning.")] = 1,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of the mean loss at the beginning; default the run's.")
    ] = None,
    clock: Annotated[float, typer.Option(help="Clock of the device in MHz, for samples a second.")] = 100.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all that is drawn; default the run's.")] = None,
    store: Annotated[str | None, typer.Option(help="Database URL, where the run's store is not in its folder.")] = None,
    backend: Annotated[str, typer.Option(help="What the device is: emulator, rtl, pysim or pynq.")] = "emulator",
    undo: Annotated[bool, typer.Option("--undo", help="Go back to the checkpoint before the last shrinking.")] = False,
    root: Root = None,
    json: Json = False,
) -> None:
    """Shrink the student that an online run serves: prune channels, lower widths, fine-tune it on stored feedback.

    The run goes on with the smaller student. Example: `insitu shrink runs/mnist-rotate3-0 --to 0.5 --by thinet`
    """
    if undo:
        refuse_beside(context, "--undo", *_HOW)
        _undo(run, json)
        return
    import torch

    from insitu.host.device.backends import BACKENDS
    from insitu.host.shrink import request, runner

    if backend not in BACKENDS:
        raise HostError(f"backend {backend!r}: there are {', '.join(BACKENDS)}")
    asked = request.Shrink(
        folder=run,
        to=to,
        by=by,  # type: ignore[arg-type]  # checked there
        measure=measure,  # type: ignore[arg-type]  # checked there
        bits={} if bits is None else request.bits(bits),
        samples=samples,
        epochs=epochs,
        lr=lr,
        clock=clock,
        seed=seed,
        backend=backend,
        store=store,
        root=root,
    )
    torch.set_num_threads(1)  # small networks only lose time to more
    screen = console(json)
    with counting(screen) as progress:
        task = progress.add_task("fine-tuning", total=None)
        report = runner.run(
            asked,
            say=lambda text: progress.console.print(text, markup=False, highlight=False),
            on_step=lambda done, of: progress.update(task, completed=done, total=of),
        )
    if json:
        emit({"run": str(run), **report})
        return
    screen.print(_table(report))
    kept = ", ".join(f"{name} {after} of {before}" for name, (before, after) in report["channels"].items())
    screen.print(f"channels kept: {kept}", highlight=False, soft_wrap=True)
    screen.print(f"fine-tuned in {report['steps']:,} steps on {report['samples']:,} stored samples", highlight=False)
    screen.print(f"to go back: insitu shrink {run} --undo", highlight=False, soft_wrap=True)


def _undo(run: Path, json: bool) -> None:
    from insitu.host.shrink.undo import undo

    before = undo(run)
    if json:
        emit({"run": str(run), "samples": before.progress["samples"]})
        return
    console(False).print(
        f"{run} is back at the checkpoint before, {before.progress['samples']:,} samples into the stream",
        highlight=False,
        soft_wrap=True,
    )


def _table(report: dict[str, Any]) -> Table:
    before, pruned, after = report["before"], report["pruned"], report["after"]
    title = report["format_before"]
    if report["format"] != title:
        title = f"{title} -> {report['format']}"
    table = Table("", "before", "after", "", title=title)
    share = f"{pruned['accuracy']:.1%} before fine-tuning"
    table.add_row("accuracy in the scene", f"{before['accuracy']:.1%}", f"{after['accuracy']:.1%}", share)
    if before["agreement"] is not None:
        agreement = (f"{one['agreement']:.1%}" for one in (before, after))
        table.add_row("agreement, held out", *agreement, f"{pruned['agreement']:.1%} before fine-tuning")
    rows = [
        (f"cycles, training step of {before['batch']}", "cycles"),
        ("cycles, answer to as many", "inference"),
        (f"trained a second at {report['clock']:g} MHz", "trained_per_second"),
        ("answered a second", "answered_per_second"),
        ("words moved in a training step", "traffic"),
        ("parameters", "parameters"),
    ]
    for label, name in rows:
        table.add_row(label, *_change(before[name], after[name]))
    for memory, words in before["memory"].items():
        if words:
            table.add_row(f"{memory.upper()}, words", *_change(words, after["memory"][memory]))
    table.add_row("bits held", *_change(before["bits"], after["bits"]))
    return table


def _change(before: float, after: float) -> tuple[str, str, str]:
    return f"{before:,.0f}", f"{after:,.0f}", f"x {after / before:.2f}"
