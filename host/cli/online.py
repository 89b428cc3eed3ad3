"""`insitu online` and `insitu demo`: the online-fix loop with a live table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from insitu.host.cli.common import Batch, Core, Exponents, Format, Json, Model, Root, Seed, console, emit

if TYPE_CHECKING:
    from insitu.host.online.progress import Progress
    from insitu.host.online.request import OnlineRun
    from insitu.host.online.runner import Status

Shift = Annotated[
    str, typer.Option(help="rotate, translate, blur, contrast, noise, occlude; severity 1 to 5; `rotate:1+noise:2`.")
]
Out = Annotated[Path | None, typer.Option(help="Folder of the run; default runs/<data>-<shift>-<seed>.")]
#: The file by which the demo knows a folder of its own.
DEMO = ".insitu-demo"
Samples = Annotated[int, typer.Option(min=1, help="Samples of the stream.")]


def online(
    data: Annotated[str, typer.Option(help="Data set: digits, mnist, or a folder's name.")] = "mnist",
    shift: Shift = "rotate:3",
    model: Model = "mlp:784-100-50-10",
    samples: Samples = 6000,
    labels: Annotated[int | None, typer.Option(min=1, help="Labels bought of the teacher in all.")] = None,
    pace: Annotated[float | None, typer.Option(help="Labels a sample of the stream so far, at most.")] = None,
    format: Format = "w8a8e8g8",  # the option's name
    exponents: Exponents = "delayed",
    core: Core = "edge16",
    batch: Batch = 32,
    lr: Annotated[float, typer.Option(help="Learning rate, of the mean loss.")] = 0.2,
    detector: Annotated[str, typer.Option(help="Who asks: margin, confidence or all.")] = "margin",
    threshold: Annotated[
        float | None, typer.Option(help="Below this margin or confidence a sample asks; default 0.9.")
    ] = None,
    flag_rate: Annotated[float, typer.Option(help="Share of wrong answers that a user flags.")] = 0.0,
    label_rate: Annotated[float, typer.Option(help="Share of asked samples whose true label arrives.")] = 0.0,
    gold: Annotated[int, typer.Option(min=0, help="Questions beside each batch that find out a teacher who lies.")] = 8,
    store: Annotated[str | None, typer.Option(help="Database URL; default a file in --out.")] = None,
    store_bytes: Annotated[int, typer.Option(min=1, help="Byte budget of the store.")] = 1_000_000,
    seed: Seed = 0,
    out: Out = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Fix a student in its scene: its feedback goes to a teacher, the emulated device trains on the answers.

    A run that was broken off goes on from its folder. Example: `insitu online --data mnist --shift rotate:3`
    """
    from insitu.arch.declaration import Declaration
    from insitu.arch.params import CoreParams
    from insitu.host.detector import Detector
    from insitu.host.online.policy import OnlinePolicy
    from insitu.host.online.request import OnlineRun

    declaration = Declaration.parse(format, exponent=exponents)
    if threshold is None and detector != "all":
        threshold = 0.9
    asks = Detector(kind=detector, threshold=threshold)  # type: ignore[arg-type]
    request = OnlineRun(
        data=data,
        shift=shift,
        model=model,
        out=out or Path("runs") / f"{data}-{shift.replace(':', '')}-{seed}",
        seed=seed,
        core=CoreParams.parse(core).with_declaration(declaration),
        declaration=declaration,
        batch=batch,
        lr=lr,
        policy=OnlinePolicy(samples=samples, label_budget=labels, pace=pace, detector=asks),
        flag_rate=flag_rate,
        label_rate=label_rate,
        gold=gold,
        store=store,
        store_bytes=store_bytes,
        root=root,
        curve=4,
    )
    _carry_out(request, json)


def demo(
    seed: Seed = 0,
    shift: Shift = "rotate:2",
    samples: Samples = 3000,
    out: Annotated[Path, typer.Option(help="Folder of the run; begun anew each time.")] = Path("runs/demo"),
    json: Json = False,
) -> None:
    """Under a minute: a student trained on clean digits meets a turned scene and learns it on the device.

    Example: `insitu demo`
    """

    from insitu.host.online.policy import OnlinePolicy
    from insitu.host.online.request import OnlineRun, check

    request = OnlineRun(
        data="digits", shift=shift, model="mlp:64-48-10", out=out, seed=seed, policy=OnlinePolicy(samples=samples)
    )
    check(request)
    begin_anew(out)
    _carry_out(request, json)


def begin_anew(out: Path) -> None:
    """Make the demo's folder, or empty it: only one that a demo has marked as its own and that holds nothing else."""
    import shutil

    from insitu.host.errors import HostError
    from insitu.host.online.request import LOCK, is_part
    from insitu.host.online.runner import locked

    out.mkdir(parents=True, exist_ok=True)
    marker = out / DEMO
    found = sorted(path for path in out.iterdir() if path not in (marker, out / LOCK))
    others = [path.name for path in found if not is_part(path)]
    if others or (found and not marker.exists()):
        what = f"other files ({others[0]})" if others else f"a run that no demo made (there is no {DEMO})"
        raise HostError(f"{out} holds {what}: give the demo another folder with --out")
    marker.touch()
    with locked(out):
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _carry_out(request: OnlineRun, json: bool) -> None:
    import torch

    from insitu.host.online.runner import run

    if request.data == "digits":
        # Images this small gain nothing by more threads, and on a busy machine they lose minutes to them.
        torch.set_num_threads(1)
    screen = console(json)
    with Live(console=screen, refresh_per_second=8, transient=False) as live:
        result = run(request, watch=lambda status: live.update(_table(status)), say=live.console.print)
    if json:
        emit(result)
        return
    if not screen.is_terminal:
        screen.print()  # a live table that is printed once ends without a newline
    gain = 100 * (result["accuracy_after"] - result["accuracy_before"])
    screen.print(
        f"{result['accuracy_before']:.1%} -> {result['accuracy_after']:.1%} ({gain:+.1f} points) "
        f"with {result['bought']:,} labels of the teacher, {result['questions']:,} of them to gold questions; "
        f"{result['stored']:,} samples kept"
    )
    if result["refused"]:
        screen.print(f"{result['refused']:,} labels were refused: the teacher answered gold questions wrongly (--gold)")
    screen.print(f"picture: {request.out / 'accuracy.png'}", soft_wrap=True)
    screen.print(f"scalars: tensorboard --logdir {request.out / 'scalars'}", soft_wrap=True)


def _table(status: Status) -> Any:
    progress = status.chunk.progress
    table = Table(show_header=False, box=None, padding=(0, 2))
    rows = [
        ("accuracy before", f"{status.before:.1%}"),
        ("accuracy now, served", f"{status.served:.1%}"),
        ("accuracy now, in training", f"{status.now:.1%}"),
        ("teacher", f"{status.teacher:.1%}"),
        ("samples", f"{progress.samples:,} of {status.run.policy.samples:,}"),
        ("labels bought", _bought(progress)),
        ("training steps", f"{progress.steps:,}"),
        ("device cycles", f"{progress.cycles:,}"),
        ("busy cells", f"{status.busy:.1%} of {status.run.core.cells}"),
        ("guard", ", ".join(f"{what} at {at:,}" for at, what in progress.verdicts) or "watching"),
        ("wall time", f"{status.seconds:.1f} s"),
    ]
    for name, value in rows:
        table.add_row(name, value)
    return Group(table, ProgressBar(total=status.run.policy.samples, completed=progress.samples, width=60))


def _bought(progress: Progress) -> str:
    """How many labels, and what became of those that taught nothing."""
    parts = ((progress.questions, "to gold questions"), (progress.refused, "refused"))
    return ", ".join([f"{progress.bought:,}"] + [f"{count:,} {what}" for count, what in parts if count])
