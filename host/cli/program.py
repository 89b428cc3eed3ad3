"""`insitu simulate` and `insitu disasm`: programs, their cycles and their words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from insitu.arch.isa import Instruction
from insitu.arch.layout import Memory
from insitu.arch.optimizer import Optimizer
from insitu.arch.params import CoreParams
from insitu.arch.program import Program
from insitu.host.cli.building import Classes, InShape, build_program
from insitu.host.cli.common import (
    Batch,
    Core,
    Exponents,
    Format,
    Json,
    MicroBatches,
    Model,
    Momentum,
    WeightDecay,
    check_writable,
    console,
    declared,
    emit,
    refuse_beside,
    writing,
)
from insitu.host.errors import HostError, TwoPasses

#: What a program file says itself.
_OF_A_MODEL = (
    *("--model", "--core", "--batch", "--format", "--exponents", "--in-shape", "--classes"),
    *("--momentum", "--weight-decay", "--micro-batches"),
)
_SGD = Optimizer()
ProgramFile = Annotated[Path | None, typer.Option("--program", help="A program file instead of a model.")]


def simulate(
    context: typer.Context,
    model: Model = "mlp:784-256-128-10",
    core: Core = "edge16",
    batch: Batch = 64,
    format: Format = "w8a8e8g8",  # the option's name
    exponents: Exponents = "delayed",
    momentum: Momentum = 0.0,
    weight_decay: WeightDecay = 0.0,
    micro_batches: MicroBatches = 1,
    entry: Annotated[str, typer.Option(help="Entry of the program: train, infer, train_host, ...")] = "train",
    in_shape: InShape = None,
    classes: Classes = None,
    program: ProgramFile = None,
    timeline: Annotated[Path | None, typer.Option(help="Write a timeline for ui.perfetto.dev here.")] = None,
    json: Json = False,
) -> None:
    """Count the cycles of a training step, instruction by instruction.

    Example: `insitu simulate --model mlp:784-256-128-10 --core n=16 --batch 64`
    """
    from insitu.sim import cycles
    from insitu.sim import timeline as perfetto

    if timeline is not None:
        check_writable(timeline)
    if program is not None:
        refuse_beside(context, f"program {program}", *_OF_A_MODEL)
    optimizer = Optimizer(momentum=momentum, weight_decay=weight_decay, micro_batches=micro_batches)
    compiled = _program(program, model, core, batch, format, exponents, in_shape, classes, optimizer)
    if compiled.exact:
        raise TwoPasses
    report = cycles.report(compiled, entry)
    if timeline is not None:
        with writing(timeline):
            perfetto.save(report, timeline)
    if json:
        emit(
            {
                "model": compiled.meta.get("model"),
                "batch": compiled.batch,
                "optimizer": compiled.optimizer.to_json(),
                "core": compiled.core.to_json(),
                "entry": entry,
                **report.to_json(),
            }
        )
        return
    screen = console(False)
    table = Table("", "instruction", "size", "cycles", "array busy", "array", "drain waits", "overhead")
    for t in report.instructions:
        i = t.instruction
        size = " x ".join(str(v) for v in (i.rows, i.cols, i.depth) if v) + _window(i)
        busy = f"{t.cost.macs / (report.core.cells * t.cost.cycles):.0%}" if t.cost.macs else ""
        row = (t.index, i.opcode.name, size, f"{t.cost.cycles:,}", busy, t.cost.issue, t.cost.wait, t.cost.overhead)
        table.add_row(*map(str, row))
    screen.print(table)
    screen.print(
        f"{entry}: {report.cycles:,} cycles, {report.busy:.1%} of {report.core.cells} cells busy, "
        f"{report.cycles / compiled.batch:,.0f} cycles a sample"
    )
    if (parts := compiled.optimizer.micro_batches) > 1 and entry.startswith("train"):
        screen.print(f"a step of {compiled.step_samples} samples is {parts} of these: {parts * report.cycles:,} cycles")
    if timeline is not None:
        screen.print(f"timeline: {timeline} (open in ui.perfetto.dev)")


def disasm(
    context: typer.Context,
    program: Annotated[Path | None, typer.Argument(help="A program file; without one, a model is compiled.")] = None,
    model: Model = "mlp:784-100-50-10",
    core: Core = "edge16",
    batch: Batch = 64,
    format: Format = "w8a8e8g8",  # the option's name
    exponents: Exponents = "delayed",
    momentum: Momentum = 0.0,
    weight_decay: WeightDecay = 0.0,
    micro_batches: MicroBatches = 1,
    in_shape: InShape = None,
    classes: Classes = None,
    map_: Annotated[bool, typer.Option("--map", help="Show what lies where in each memory instead.")] = False,
    draw: Annotated[
        Path | None, typer.Option(help="Draw what lies where as a training step goes on (.svg, .pdf, .png).")
    ] = None,
    json: Json = False,
) -> None:
    """List a program: its tensors and its instructions.

    Example: `insitu disasm student.insitu`
    """
    from insitu.host import memory_map

    if json and map_:
        raise HostError("--json and --map: give one of them, tensors and their places are in the JSON")
    if program is not None:
        refuse_beside(context, f"program {program}", *_OF_A_MODEL)
    if draw is not None:
        check_writable(draw)
        memory_map.check_format(draw)
    optimizer = Optimizer(momentum=momentum, weight_decay=weight_decay, micro_batches=micro_batches)
    compiled = _program(program, model, core, batch, format, exponents, in_shape, classes, optimizer)
    if draw is not None:
        with writing(draw):
            memory_map.draw(compiled, draw)
    if json:
        emit(
            {
                "core": compiled.core.to_json(),
                "hash": f"{compiled.core.hash:016x}",
                "batch": compiled.batch,
                "optimizer": compiled.optimizer.to_json(),
                "format": compiled.declaration.short,
                "entries": dict(compiled.entries),
                "tensors": {name: t.to_json() for name, t in compiled.tensors.items()},
                "scales": list(compiled.scales),
                "instructions": [str(i) for i in compiled.instructions],
                "words": [[f"{w:08x}" for w in words] for words in compiled.words.tolist()],
            }
        )
        return
    screen = console(False)
    if map_:
        for memory in compiled.core.memories:
            screen.print(_memory_map(compiled, memory))
        return
    table = Table("tensor", "role", "memory", "words", "size", "bits", "exponent")
    for name, t in compiled.tensors.items():
        m = t.matrix
        place = f"{m.base:#x}..{m.end(compiled.core.n):#x}"
        exponent = str(compiled.scales[t.scale])
        table.add_row(name, t.role.value, m.memory.name, place, f"{m.rows} x {m.width}", str(t.width), exponent)
    screen.print(table)
    screen.print(compiled.disassemble(), highlight=False, soft_wrap=True)


def _window(instruction: Instruction) -> str:
    """The window of a pass, for people: ", 3 x 3 on 28 x 28"; "" where it has none."""
    w = instruction.window
    if w.map_pixels == w.taps == 1:
        return ""
    kernel = f", {w.kernel_height} x {w.kernel_width}" if w.taps > 1 else ""
    return f"{kernel} on {w.map_height} x {w.map_width}" if w.map_pixels > 1 else kernel


def _memory_map(program: Program, memory: Memory) -> Table:
    """The tensors of a memory from its first word to its last; those not needed at the same time may overlap."""
    n, depth = program.core.n, program.core.depth(memory)
    placed = sorted(
        ((name, t) for name, t in program.tensors.items() if t.matrix.memory is memory), key=lambda p: p[1].matrix.base
    )
    table = Table(
        "words",
        "tensor",
        "role",
        "size",
        "share",
        title=f"{memory.name}: {program.used(memory):,} of {depth:,} words of {n}",
    )
    for name, t in placed:
        m = t.matrix
        words = m.words(n)
        place = f"{m.base:#x}..{m.end(n):#x}"
        table.add_row(place, name, t.role.value, f"{m.rows} x {m.width}", f"{words / depth:.1%}")
    return table


def _program(
    path: Path | None,
    model: str,
    core: str,
    batch: int,
    format_: str,
    exponents: str,
    in_shape: str | None,
    classes: int | None,
    optimizer: Optimizer = _SGD,
) -> Program:
    """A program from a file, or of a model."""
    if path is not None:
        return Program.load(path)
    declaration = declared(format_, exponents, optimizer)
    params = CoreParams.parse(core).with_declaration(declaration)
    return build_program(
        model,
        core=params,
        declaration=declaration,
        batch=batch,
        in_shape=in_shape,
        classes=classes,
        optimizer=optimizer,
    )
