"""The compiler: a torch module and a number declaration become a program and its initial masters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from insitu.arch.declaration import Declaration, Role
from insitu.arch.errors import ArchError
from insitu.arch.isa import FIELDS, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.optimizer import Optimizer
from insitu.arch.params import CoreParams
from insitu.arch.program import Program, Tensor
from insitu.arch.timing import cost
from insitu.host.compiler import emit, rate, units
from insitu.host.compiler.allocate import MemoryTooSmall
from insitu.host.compiler.calibrate import Ranges, check_same, measure
from insitu.host.compiler.graph import Graph, Pool, Table
from insitu.host.compiler.lower import Lowering, activation
from insitu.host.compiler.plan import Plan
from insitu.host.compiler.trace import trace
from insitu.host.compiler.weights import Masters, Start
from insitu.host.errors import CompileError


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A program, the masters its student starts from, and the graph it came from.

    masters: weight tensor name -> int32 [outputs, taps * inputs (+ 1 for the bias)], the inputs of each tap together;
    of a depthwise layer [taps (+ 1 for the bias), outputs].
    """

    program: Program
    masters: Masters
    graph: Graph


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """A student traced, and what it is measured on: what compiling it for one core after another has in common.

    batch: samples whose gradients are summed, those of a training step or of a micro-batch. Samples, targets and
    sample_range are as `compile_module` takes them.
    """

    module: nn.Module
    graph: Graph
    batch: int
    samples: npt.NDArray[np.float32]
    targets: npt.NDArray[np.float32] | None
    sample_range: float

    @cached_property
    def ranges(self) -> Ranges:
        """Measured when first asked for, by a plan that fits: what does not fit is refused before. Raises CompileError
        where the graph does not give the module's logits."""
        found = measure(self.graph, self.samples, self.targets, self.batch)
        check_same(self.graph, self.module, self.samples)
        return replace(found, sample=max(found.sample, self.sample_range))


def compile_module(
    module: nn.Module,
    *,
    core: CoreParams,
    declaration: Declaration,
    batch: int,
    calibration: npt.NDArray[np.float32],
    targets: npt.NDArray[np.float32] | None = None,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    micro_batches: int = 1,
    sample_range: float | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Compiled:
    """Compile a student.

    calibration: samples [n, ...] as the module takes them, n >= 1, from which exponents start; targets [n, classes]
    their target distributions. batch: samples of a training step. learning_rate: of the mean loss over a batch, as in
    PyTorch. momentum, weight_decay: see arch/optimizer.py. micro_batches: equal parts that a batch comes in, where the
    memories do not hold a whole one; the program's batch is one part. The three need a core with velocities and a
    declaration of their bits. sample_range: largest magnitude a sample can have, if larger than calibration shows.
    Raises CompileError where the module has parts no instruction covers, does not give the logits that it gives in
    evaluation, a tensor does not fit, or the core lacks a width; nothing is run on a device then.
    """
    if not isinstance(batch, int | np.integer):
        raise CompileError(f"batch {batch!r}: must be an integer")
    if batch < 1:
        raise CompileError(f"batch {batch}: must be at least 1")
    try:
        optimizer = Optimizer(momentum=momentum, weight_decay=weight_decay, micro_batches=micro_batches)
    except ArchError as error:
        raise CompileError(str(error)) from error
    part, rest = divmod(batch, micro_batches)
    if rest:
        raise CompileError(f"batch {batch} in {micro_batches} micro-batches: it must divide")
    student = calibrate(module, batch=part, calibration=calibration, targets=targets, sample_range=sample_range)
    return compile_calibrated(
        student, core=core, declaration=declaration, learning_rate=learning_rate, optimizer=optimizer, meta=meta
    )


def calibrate(
    module: nn.Module,
    *,
    batch: int,
    calibration: npt.NDArray[np.float32],
    targets: npt.NDArray[np.float32] | None = None,
    sample_range: float | None = None,
) -> Calibration:
    """Trace a student; `batch` as in `Calibration`, the rest as `compile_module` takes it. Raises CompileError
    likewise."""
    if sample_range is not None and not (math.isfinite(sample_range) and sample_range >= 0):
        raise CompileError(f"sample_range {sample_range!r}: must be finite and not negative")
    if batch < 1:
        raise CompileError(f"batch {batch}: must be at least 1")
    if calibration.ndim < 2 or calibration.size == 0:
        raise CompileError(f"calibration of shape {calibration.shape}: expected at least one sample, [n, ...]")
    try:
        graph = trace(module, calibration.shape[1:])
    except ArchError as error:
        raise CompileError(str(error)) from error
    return Calibration(
        module=module,
        graph=graph,
        batch=batch,
        samples=calibration,
        targets=targets,
        sample_range=sample_range or 0.0,
    )


def compile_calibrated(
    student: Calibration,
    *,
    core: CoreParams,
    declaration: Declaration,
    learning_rate: float,
    optimizer: Optimizer | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Compiled:
    """Compile a traced student, as `compile_module` does: a training step takes `batch` samples for each of the
    optimizer's micro-batches. Raises CompileError likewise."""
    graph, batch, optimizer = student.graph, student.batch, optimizer or Optimizer()
    try:
        narrowing = [node.name for node in graph.nodes if not isinstance(node, Pool | Table)]
        unknown = sorted(set(declaration.layers) - set(narrowing))
        if unknown:
            names = ", ".join(narrowing)
            raise CompileError(f"the declaration overrides layers {unknown}: this student's are {names}")
        rates = _rates(learning_rate, batch, optimizer)
        _check_widths(graph, core, declaration)
        if not optimizer.plain:
            _check_velocities(graph, declaration)
        plans = _plans(graph, core, declaration, batch, optimizer)
        made = [_compiled(plan, Start(plan, student.ranges, learning_rate), rates, dict(meta or {})) for plan in plans]
        return min(made, key=_cycles)
    except ArchError as error:
        raise CompileError(str(error)) from error


def _rates(learning_rate: float, batch: int, optimizer: Optimizer) -> rate.Rates:
    """Rates at the start of training. Raises CompileError where the device has none of them."""
    rates = rate.Rates.of(learning_rate, batch, optimizer)
    share = learning_rate * optimizer.weight_decay
    if share and not rates.decay[0]:
        least = 2.0 ** -FIELDS["decay_shift"].maximum
        raise CompileError(
            f"weight decay {optimizer.weight_decay:g} at learning rate {learning_rate:g} is {share:.3g} of a weight a "
            f"step: the device has {least:.3g} to 1, or 0"
        )
    return rates


def _check_velocities(graph: Graph, declaration: Declaration) -> None:
    for layer in graph.layers:
        if not declaration.at(layer.name).momentum.width:
            raise CompileError(
                f"layer {layer.name!r}: momentum, weight decay and micro-batches need velocities: declare their bits, "
                "such as v16"
            )


def _check_widths(graph: Graph, core: CoreParams, declaration: Declaration) -> None:
    problems = [
        f"layer {layer.name!r}: {role} of {asked} bits, this core's has {core.width(role)}"
        for layer in graph.nodes
        for role in Role
        if (asked := declaration.at(layer.name).role(role).width) > core.width(role)
    ]
    if problems:
        raise CompileError("; ".join(problems) + " (give a core with wider datapaths, or declare fewer bits)")
    accumulator = declaration.accumulator.width
    if accumulator != core.accumulator_bits:
        raise CompileError(f"accumulator of {accumulator} bits: this core's has {core.accumulator_bits}")


def _plans(graph: Graph, core: CoreParams, declaration: Declaration, batch: int, optimizer: Optimizer) -> list[Plan]:
    """The plans that fit: samples sent as they are, or as the patches that the first layer goes over. Raises
    CompileError where none does."""
    graphs = [g for g in (graph, graph.unfolded()) if g is not None]
    lacking = [units.problems(Lowering(g, declaration, batch), core) for g in graphs]
    if all(lacking):
        raise CompileError(lacking[0])
    graphs = [g for g, problem in zip(graphs, lacking, strict=True) if not problem]
    plans, problems = _fitting(graphs, core, declaration, batch, optimizer)
    if not plans:
        raise CompileError(f"{problems[0]}; {_remedy(graphs, core, declaration, batch, optimizer)}")
    return plans


def _fitting(
    graphs: Sequence[Graph], core: CoreParams, declaration: Declaration, batch: int, optimizer: Optimizer
) -> tuple[list[Plan], list[MemoryTooSmall]]:
    plans, problems = [], []
    for graph in graphs:
        try:
            plans.append(Plan(graph, core, declaration, batch, optimizer))
        except MemoryTooSmall as error:
            problems.append(error)
    return plans, problems


def _remedy(
    graphs: Sequence[Graph], core: CoreParams, declaration: Declaration, batch: int, optimizer: Optimizer
) -> str:
    """The largest batch that fits, in as many parts as the one that does not, in words."""
    fits, fails = 0, batch
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if _fitting(graphs, core, declaration, middle, optimizer)[0]:
            fits = middle
        else:
            fails = middle
    parts = optimizer.micro_batches
    largest = f"{fits * parts} in {parts} micro-batches" if parts > 1 else f"{fits}"
    return f"the largest batch that fits is {largest}" if fits else "no smaller batch fits"


def _compiled(plan: Plan, start: Start, rates: rate.Rates, meta: dict[str, Any]) -> Compiled:
    words: list[Instruction] = []
    entries: dict[str, int] = {}
    for name, body in emit.entries(plan, start, rates).items():
        entries[name] = len(words)
        words += [*body, Instruction(opcode=Opcode.HALT)]
    program = Program(
        core=plan.core,
        declaration=plan.declaration,
        instructions=tuple(words),
        entries=entries,
        tensors=plan.tensors | _tables(plan, start),
        scales=tuple(start.scales),
        batch=plan.batch,
        bias_exponents=start.bias_exponents,
        tables={name: table.words for name, table in emit.tables(start).items()},
        optimizer=plan.optimizer,
        meta=meta,
    )
    return Compiled(program=program, masters=start.masters, graph=plan.graph)


def _tables(plan: Plan, start: Start) -> dict[str, Tensor]:
    """The tensors that hold tables. Those of values are of the scale of what their node gives."""
    scales = {
        table.name: plan.tensors[activation(node)].scale if what == "table" else plan.slopes.get(node, 0)
        for (node, what), table in start.tables.items()
    }
    return {
        name: Tensor(
            matrix=table.matrix(plan.core.n),
            role=Role.ACTIVATION,
            width=plan.core.word_bits(Memory.TAB),
            scale=scales[name],
        )
        for name, table in emit.tables(start).items()
    }


def _cycles(compiled: Compiled) -> int:
    """Cycles of a training step."""
    program = compiled.program
    return sum(cost(instruction, program.core.n).cycles for instruction in program.entry("train"))
