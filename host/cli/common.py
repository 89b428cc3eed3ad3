"""Options that several commands take, and the two ways a command speaks: to people and to machines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from insitu.arch.declaration import WIDTHS, Declaration, Role
from insitu.arch.optimizer import Optimizer
from insitu.host.errors import HostError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else there.")]
Model = Annotated[
    str,
    typer.Option(
        help="`mlp:784-100-50-10`, `lenet`, `lenet-wide`, `cnn`, `vgg`, `mobilenet-v1`, `mobilenet-v2`, `mobilenet-v3` "
        "(with `width=`, `blocks=`, and v1 `depth=`: `mobilenet-v1:width=0.5,blocks=2`), or `path/to/file.py:factory` "
        "for your own."
    ),
]
Format = Annotated[
    str,
    typer.Option(
        help="Bits: w weight, a activation, e error, g gradient, m master, c accumulator, t target, v momentum."
    ),
]
Exponents = Annotated[str, typer.Option(help="Exponents of activations, errors, gradients: static, delayed or exact.")]
Core = Annotated[str, typer.Option(help="A preset (tiny4, edge8, dense8, edge16, wide32), fields (`n=16`), or both.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 2, help="Seed of everything random.")]
Batch = Annotated[int, typer.Option(min=1, help="Samples in a training step.")]
Momentum = Annotated[float, typer.Option(min=0, help="What is kept of a step for the next one, below 1.")]
WeightDecay = Annotated[float, typer.Option(min=0, help="What weights decay by, times the learning rate.")]
MicroBatches = Annotated[
    int, typer.Option(min=1, help="Parts that a batch comes in where the core holds no whole one.")
]
Root = Annotated[str | None, typer.Option(help="Folder of data sets; default INSITU_DATA, then your data folder.")]


def declared(text: str, exponents: str, optimizer: Optimizer) -> Declaration:
    """The declaration of a format; velocities as wide as masters, 16 bits at most, where the optimiser needs some and
    the format has none. Raises ArchError where it is none."""
    declaration = Declaration.parse(text, exponent=exponents)
    if optimizer.plain or declaration.momentum.width:
        return declaration
    width = min(declaration.master.width, WIDTHS[Role.MOMENTUM][1])
    return declaration.with_roles(Role.MOMENTUM, width=width)


def counting(screen: Console) -> Progress:
    """A bar that counts, and says how long it will be, where someone watches."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=screen, disable=not screen.is_terminal)


def whole_numbers(name: str, given: str, example: str) -> tuple[int, ...]:
    """An option's numbers. Raises HostError where it is anything else."""
    with suppress(ValueError):
        return tuple(int(number) for number in given.split(","))
    raise HostError(f"{name} {given!r}: allowed are whole numbers joined by commas, such as {example}")


_kept: list[TextIO] = []


@contextmanager
def json_alone() -> Iterator[None]:
    """Keep standard output for `emit`: what a student's own file prints goes to standard error meanwhile."""
    _kept.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _kept.pop()


def emit(result: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(result, indent=2, allow_nan=False), file=_kept[-1] if _kept else sys.stdout)


def console(json: bool) -> Console:
    """Where a command speaks to people: where it speaks JSON, on standard error, and only if somebody sits there."""
    # What people named is shown as they wrote it: a folder may be called [red], or :smile:.
    plain: dict[str, Any] = {"markup": False, "emoji": False}
    return Console(stderr=True, quiet=not sys.stderr.isatty(), **plain) if json else Console(**plain)


def refuse_beside(context: typer.Context, what: str, *options: str) -> None:
    """Raise HostError where an option was given on the command line beside one that it means nothing to."""
    for option in options:
        source = context.get_parameter_source(option.removeprefix("--").replace("-", "_"))
        if source is not None and source.name == "COMMANDLINE":
            raise HostError(f"{what} and {option}: give one of them")


def check_writable(path: Path) -> None:
    """Raise HostError where no file `path` can be written: before the work whose result it is to hold."""
    if path.is_dir():
        raise HostError(f"cannot write {path}: it is a folder, the name of a file is wanted")
    if not path.parent.is_dir():
        raise HostError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise HostError(f"cannot write {path}: {path.parent} is read-only")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in an OSError that does not: a full disk is not told by a write which file it was."""
    try:
        yield
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror or error}") from error
