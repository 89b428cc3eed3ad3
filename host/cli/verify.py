"""`insitu verify`: the core's RTL beside the emulator, instruction by instruction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from insitu.host.cli.building import Classes, InShape, sample_shape
from insitu.host.cli.common import (
    Batch,
    Core,
    Exponents,
    Format,
    Json,
    MicroBatches,
    Model,
    Momentum,
    Seed,
    WeightDecay,
    console,
    declared,
    emit,
    refuse_beside,
)
from insitu.host.errors import TwoPasses

if TYPE_CHECKING:
    from insitu.arch.program import Program
    from insitu.host.compiler.weights import Masters


#: What a run's program says itself.
_OF_A_MODEL = (
    *("--model", "--core", "--format", "--exponents", "--batch", "--in-shape", "--classes"),
    *("--momentum", "--weight-decay", "--micro-batches"),
)


def verify(
    context: typer.Context,
    model: Model = "mlp:784-100-50-10",
    core: Core = "edge8",
    format: Format = "w8a8e8g8",  # the option's name
    exponents: Exponents = "delayed",
    batch: Batch = 20,
    momentum: Momentum = 0.0,
    weight_decay: WeightDecay = 0.0,
    micro_batches: MicroBatches = 1,
    steps: Annotated[int, typer.Option(min=0, help="Training steps.")] = 3,
    engine: Annotated[str, typer.Option(help="`rtl`, compiled, or `pysim`, Amaranth's simulator.")] = "rtl",
    stalls: Annotated[float, typer.Option(min=0, max=0.95, help="Probability that a stream waits, each cycle.")] = 0.0,
    waves: Annotated[Path | None, typer.Option(help="Write waveforms here, VCD or, by its name, FST; slow.")] = None,
    in_shape: InShape = None,
    classes: Classes = None,
    run: Annotated[
        Path | None, typer.Option(help="The student that an online run serves, shrunk or not, in place of a model.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Run a student's training on emulator and RTL and compare everything after every instruction.

    Exit code 1 where something differs. Example: `insitu verify --model mlp:64-32-10 --core n=4 --batch 10`
    """
    import numpy as np

    from insitu.arch.optimizer import Optimizer
    from insitu.arch.params import CoreParams
    from insitu.host import verify as verification
    from insitu.host.compiler.compile import compile_module
    from insitu.models import students

    screen = console(json)
    rng = np.random.default_rng(seed)

    def drawn(samples: int, shape: tuple[int, ...], outputs: int) -> tuple[Any, Any]:
        """As many random samples as the steps take, and target distributions."""
        x = rng.random((samples * max(steps, 1), *shape), dtype=np.float32)
        return x, rng.dirichlet(np.full(outputs, 0.3), len(x)).astype(np.float32)

    if run is not None:
        refuse_beside(context, f"run {run}", *_OF_A_MODEL)
        program, masters = _served(run)
        sample, target = program.tensors["sample"].samples, program.tensors["target"].matrix
        assert sample is not None
        x, targets = drawn(program.step_samples, sample.shape, target.cols)
        model = str(run)
    else:
        optimizer = Optimizer(momentum=momentum, weight_decay=weight_decay, micro_batches=micro_batches)
        declaration = declared(format, exponents, optimizer)
        params = CoreParams.parse(core).with_declaration(declaration)
        shape, outputs = sample_shape(model, in_shape, classes)
        x, targets = drawn(batch, shape, outputs)
        compiled = compile_module(
            students.build(model, in_shape=shape, classes=outputs, seed=seed),
            core=params,
            declaration=declaration,
            batch=batch,
            calibration=x[:256],
            targets=targets[:256],
            **optimizer.to_json(),
        )
        program, masters = compiled.program, compiled.masters
    if program.exact:
        raise TwoPasses
    params = program.core
    with screen.status("compiling the core (once; then it is in the cache)"):
        running = verification.open_engine(params, engine, waves=waves)
    try:
        with screen.status("comparing") as status:
            result = verification.verify(
                program,
                verification.training(program, masters, x, targets, steps=steps),
                running,
                seed=seed + 1,
                stalls=(seed + 1, stalls) if stalls else None,
                progress=lambda run, report: status.update(f"{run.entry}: instruction {report.index}"),
            )
    finally:
        running.close()
    if json:
        emit(result.to_json())
    else:
        if result.first is not None:
            screen.print(str(result.first), highlight=False, soft_wrap=True)
        screen.print(
            f"{model} on n={params.n}, batch {program.step_samples}: {result.steps} steps, "
            f"{result.instructions:,} instructions, {result.mismatches} mismatches, "
            f"RTL {result.rtl_cycles:,} cycles, model {result.model_cycles:,}"
        )
    if result.mismatches:
        raise typer.Exit(1)


def _served(run: Path) -> tuple[Program, Masters]:
    """The program that a run's folder goes on with, and the masters that it serves."""
    from insitu.arch.program import Program
    from insitu.host.online.checkpoint import Checkpoint
    from insitu.host.online.request import CHECKPOINT, PROGRAM, check_begun

    check_begun(run, PROGRAM, CHECKPOINT)
    program = Program.load(run / PROGRAM)
    kept = Checkpoint.own(run / CHECKPOINT, program)
    return kept.program or program, kept.served.masters
