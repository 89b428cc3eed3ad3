"""Options that several commands take, and the two ways a command speaks: to people and to machines."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else there.")]
Model = Annotated[str, typer.Option(help="`mlp:784-100-50-10`, or `path/to/file.py:factory` for your own.")]
Format = Annotated[
    str,
    typer.Option(help="Bits: w weight, a activation, e error, g gradient, m master, c accumulator, t target."),
]
Exponents = Annotated[str, typer.Option(help="Exponents of activations, errors, gradients: static, delayed or exact.")]
Core = Annotated[str, typer.Option(help="A preset (tiny4, edge8, edge16, wide32), fields (`n=16`), or both.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Batch = Annotated[int, typer.Option(min=1, help="Samples in a training step.")]
Root = Annotated[str | None, typer.Option(help="Folder of data sets; default INSITU_DATA, then your data folder.")]


def emit(result: Any) -> None:
    """One JSON object on standard output."""
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")


def console(quiet: bool) -> Console:
    """Where a command speaks to people: nowhere where it speaks JSON."""
    return Console(quiet=quiet)
