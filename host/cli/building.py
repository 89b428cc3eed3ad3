"""A student's program, from the options of the commands that need no data: what `--model`, `--in-shape` and
`--classes` come to."""

from __future__ import annotations

from typing import Annotated

import typer

from insitu.arch.declaration import Declaration
from insitu.arch.optimizer import Optimizer
from insitu.arch.params import CoreParams
from insitu.arch.program import Program
from insitu.host.errors import CompileError

InShape = Annotated[
    str | None,
    typer.Option(help="Shape of a sample; an `mlp:` model says it itself, students by name take 1x28x28."),
]
Classes = Annotated[
    int | None, typer.Option(min=2, help="Classes of the student; an `mlp:` model says them itself, others have 10.")
]
#: What students by name are given without a data set: MNIST's.
IMAGE, CLASSES = (1, 28, 28), 10
#: Samples of noise that a program is calibrated on.
NOISE = 32
_SGD = Optimizer()


def build_program(
    model: str,
    *,
    core: CoreParams,
    declaration: Declaration,
    batch: int,
    in_shape: str | None = None,
    classes: int | None = None,
    optimizer: Optimizer = _SGD,
) -> Program:
    """A model's program, calibrated on noise. Raises ModelsError or CompileError for what is none or does not fit."""
    import numpy as np

    from insitu.host.compiler.compile import compile_module
    from insitu.models import students

    shape, outputs = sample_shape(model, in_shape, classes)
    module = students.build(model, in_shape=shape, classes=outputs, seed=0)
    noise = np.random.default_rng(0).random((NOISE, *shape), dtype=np.float32)
    return compile_module(
        module,
        core=core,
        declaration=declaration,
        batch=batch,
        calibration=noise,
        **optimizer.to_json(),
        meta={"model": model},
    ).program


def sample_shape(model: str, in_shape: str | None, classes: int | None) -> tuple[tuple[int, ...], int]:
    """(shape of a sample, classes) of a model: what is asked for, or else what it says itself, or MNIST's. Raises
    CompileError for a shape that is none, or classes that the model has not."""
    from insitu.models.convolutional import CONVOLUTIONAL
    from insitu.models.students import mlp_sizes

    sizes = mlp_sizes(model)
    if sizes and classes not in (None, sizes[-1]):
        raise CompileError(f"classes {classes}: model {model!r} has {sizes[-1]} outputs, leave --classes out")
    outputs = sizes[-1] if sizes else CLASSES if classes is None else classes
    if in_shape is not None:
        parts = in_shape.split("x")
        if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
            raise CompileError(f"in-shape {in_shape!r}: expected sizes of at least 1, such as 1x28x28")
        return tuple(map(int, parts)), outputs
    if sizes:
        return (sizes[0],), outputs
    if model.partition(":")[0] in CONVOLUTIONAL:
        return IMAGE, outputs
    if not model.rpartition(":")[0].endswith(".py"):
        return (1,), outputs  # no model at all: who builds it says what is wrong
    raise CompileError(f"model {model!r}: give the shape of a sample with --in-shape, such as 1x28x28")
