"""The compiler: a traced student and a number declaration become a program and its initial masters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from insitu.arch.check import WIDTH_ROLE
from insitu.arch.declaration import Declaration, ExponentPolicy, Role, RoleFormat
from insitu.arch.errors import ArchError
from insitu.arch.isa import FIELDS, Instruction, Opcode
from insitu.arch.layout import Matrix, Memory
from insitu.arch.numbers import FixedFormat, bias_operand, clamp
from insitu.arch.params import SCALES, CoreParams
from insitu.arch.program import Program, Tensor
from insitu.host.compiler import rate
from insitu.host.compiler.allocate import Planner
from insitu.host.compiler.calibrate import Ranges, measure
from insitu.host.compiler.graph import Graph, Linear, trace
from insitu.host.errors import CompileError

Masters = dict[str, npt.NDArray[np.int32]]

#: Names of the tensors that are no layer's.
SAMPLE, TARGET = "sample", "target"
#: Bits above what calibration saw, where an exponent stays as calibrated.
STATIC_HEADROOM = 1
#: The largest operand is 2**(activation bits - 2); one step is kept to spare.
BIAS_SHIFT_MARGIN = -3
#: Bits above the largest initial weight: weights grow as they train, and their exponent cannot follow.
WEIGHT_HEADROOM = 2


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A program, the masters its student starts from, and the graph it came from.

    masters: weight tensor name -> int32 [outputs, inputs (+ 1 for the bias)].
    """

    program: Program
    masters: Masters
    graph: Graph


def compile_module(
    module: nn.Module,
    *,
    core: CoreParams,
    declaration: Declaration,
    batch: int,
    calibration: npt.NDArray[np.float32],
    targets: npt.NDArray[np.float32] | None = None,
    learning_rate: float = 0.1,
    sample_range: float | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Compiled:
    """Compile a student.

    calibration: samples [n, ...] as the module takes them, n >= 1, from which exponents start; targets [n, classes]
    their target distributions. learning_rate: of the mean loss over a batch, as in PyTorch. sample_range: largest
    magnitude a sample can have, if larger than calibration shows.
    Raises CompileError where the module has parts no instruction covers, a tensor does not fit, or the core lacks a
    width; nothing is run then.
    """
    graph = trace(module)
    if batch < 1:
        raise CompileError(f"batch {batch}: must be at least 1")
    unknown = sorted(set(declaration.layers) - {layer.name for layer in graph.layers})
    if unknown:
        names = ", ".join(layer.name for layer in graph.layers)
        raise CompileError(f"the declaration overrides layers {unknown}: this student's are {names}")
    _check_widths(graph, core, declaration)
    if calibration.ndim < 2 or len(calibration) == 0 or calibration[0].size != graph.features:
        raise CompileError(
            f"calibration of shape {calibration.shape}: expected at least one sample of {graph.features} features"
        )
    plan = _Plan(graph, core, declaration, batch)
    ranges = measure(graph, calibration, targets, batch)
    if sample_range is not None:
        ranges = replace(ranges, sample=max(ranges.sample, sample_range))
    try:
        return _Emitter(plan, ranges, rate.encode(learning_rate / batch), dict(meta or {})).compiled()
    except ArchError as error:
        raise CompileError(str(error)) from error


def _check_widths(graph: Graph, core: CoreParams, declaration: Declaration) -> None:
    problems = [
        f"layer {layer.name!r}: {role} of {asked} bits, this core's has {core.width(role)}"
        for layer in graph.layers
        for role in Role
        if (asked := declaration.at(layer.name).role(role).width) > core.width(role)
    ]
    if problems:
        raise CompileError("; ".join(problems) + " (give a core with wider datapaths, or declare fewer bits)")
    accumulator = declaration.accumulator.width
    if accumulator != core.accumulator_bits:
        raise CompileError(f"accumulator of {accumulator} bits: this core's has {core.accumulator_bits}")


@dataclass(frozen=True, kw_only=True)
class _LayerTensors:
    layer: Linear
    formats: Declaration
    x: str
    y: str
    weight: str
    error: str
    gradient_scale: int


class _Plan:
    """Tensors, their places and scale registers."""

    def __init__(self, graph: Graph, core: CoreParams, declaration: Declaration, batch: int) -> None:
        self.graph, self.core, self.declaration, self.batch = graph, core, declaration, batch
        self.tensors: dict[str, Tensor] = {}
        self.scales = 0
        self._planner = Planner(core)
        self.layers: list[_LayerTensors] = []
        first = graph.layers[0].name
        self._add(SAMPLE, Memory.ACT, batch, graph.features, Role.ACTIVATION, declaration.at(first))
        self._add(TARGET, Memory.ERR, batch, graph.classes, Role.TARGET, declaration)
        x = SAMPLE
        for layer in graph.layers:
            formats = declaration.at(layer.name)
            y, weight, error = f"{layer.name}.y", f"{layer.name}.weight", f"{layer.name}.error"
            self._add(y, Memory.ACT, batch, layer.outputs, Role.ACTIVATION, formats, layer.name)
            cols = layer.inputs + layer.bias
            self._add(weight, Memory.WGT, layer.outputs, cols, Role.MASTER, formats, layer.name, bias=layer.bias)
            self._add(error, Memory.ERR, batch, layer.outputs, Role.ERROR, formats, layer.name)
            self.layers.append(
                _LayerTensors(
                    layer=layer,
                    formats=formats,
                    x=x,
                    y=y,
                    weight=weight,
                    error=error,
                    gradient_scale=self._scale(),
                )
            )
            x = y
        if self.scales > SCALES:
            raise CompileError(f"{len(graph.layers)} layers take {self.scales} scale registers: there are {SCALES}")
        self._planner.finish()

    def _scale(self) -> int:
        self.scales += 1
        return self.scales - 1

    def _add(
        self,
        name: str,
        memory: Memory,
        rows: int,
        cols: int,
        role: Role,
        formats: Declaration,
        layer: str = "",
        bias: bool = False,
    ) -> None:
        matrix = self._planner.place(name, memory, rows, cols)
        width = formats.role(role).width
        self.tensors[name] = Tensor(matrix=matrix, role=role, width=width, scale=self._scale(), layer=layer, bias=bias)


class _Emitter:
    """Exponents, masters and instructions of a plan."""

    def __init__(self, plan: _Plan, ranges: Ranges, lr: tuple[int, int], meta: dict[str, Any]) -> None:
        self.plan, self.ranges, self.lr, self.meta = plan, ranges, lr, meta
        self.scales = [0] * plan.scales
        self.bias_exponents: dict[str, int] = {}
        self.masters: Masters = {}
        self._exponents()

    def compiled(self) -> Compiled:
        plan = self.plan
        entries: dict[str, int] = {}
        words: list[Instruction] = []
        halt = Instruction(opcode=Opcode.HALT)
        sample, target = self._load(SAMPLE), self._load(TARGET)
        logits, last = self._store(plan.layers[-1].y), plan.layers[-1]
        forward, backward = self._forward(train=True), self._backward()
        weights = [t.weight for t in plan.layers]
        for name, body in {
            "infer": [sample, *self._forward(train=False), logits],
            "train": [sample, target, *forward, logits, self._loss(), *backward],
            "train_host": [sample, *forward, logits, self._load(last.error), *backward],
            "load_weights": [self._load(w) for w in weights],
            "store_weights": [self._store(w) for w in weights],
        }.items():
            entries[name] = len(words)
            words += [*body, halt]
        program = Program(
            core=plan.core,
            declaration=plan.declaration,
            instructions=tuple(words),
            entries=entries,
            tensors=plan.tensors,
            scales=tuple(self.scales),
            batch=plan.batch,
            bias_exponents=self.bias_exponents,
            meta=self.meta,
        )
        return Compiled(program=program, masters=self.masters, graph=plan.graph)

    # Exponents.

    def _exponents(self) -> None:
        plan, ranges = self.plan, self.ranges
        self._calibrate(SAMPLE, ranges.sample, headroom=0)
        # A target of 1 saturates by one step rather than halving the resolution of all others.
        self._calibrate(TARGET, 1.0, headroom=0)
        for t in plan.layers:
            name = t.layer.name
            self._calibrate(t.y, ranges.activation[name], headroom=_headroom(t.formats.activation))
            self._calibrate(t.error, ranges.error[name], headroom=_headroom(t.formats.error))
            gradient = t.formats.gradient
            self.scales[t.gradient_scale] = FixedFormat.covering(
                ranges.gradient[name], width=gradient.width, headroom=_headroom(gradient)
            ).exponent
        for t in plan.layers:
            self._weights(t)

    def _calibrate(self, tensor: str, magnitude: float, *, headroom: int) -> None:
        t = self.plan.tensors[tensor]
        self.scales[t.scale] = FixedFormat.covering(magnitude, width=t.width, headroom=headroom).exponent

    def _weights(self, t: _LayerTensors) -> None:
        """Masters [outputs, inputs + bias], the bias in units of its operand."""
        layer, tensor = t.layer, self.plan.tensors[t.weight]
        weight = layer.module.weight.detach().numpy().astype(np.float64)
        if layer.bias:
            bias = layer.module.bias.detach().numpy().astype(np.float64) / self._bias_operand(t)
            weight = np.column_stack([weight, bias])
        fmt = FixedFormat.covering(float(np.abs(weight).max()), width=tensor.width, headroom=WEIGHT_HEADROOM)
        self.scales[tensor.scale] = fmt.exponent
        self.masters[t.weight] = fmt.quantise(weight).astype(np.int32)

    def _bias_operand(self, t: _LayerTensors) -> float:
        """Choose the layer's bias operand; its real value beside activations of the exponent they start from.

        1.0 where the activation format holds it with one step to spare, so that a moving exponent does not move the
        bias; else 0.5, which the device brings to the nearest power of two that the format holds.
        """
        exponent, bits = self.scales[self.plan.tensors[t.x].scale], self.plan.core.activation_bits
        wanted = max(exponent, clamp(exponent + BIAS_SHIFT_MARGIN + bits, -1, 0))
        field = FIELDS["bias_exponent"]
        self.bias_exponents[t.layer.name] = clamp(wanted, field.minimum, field.maximum)
        return float(bias_operand(self.bias_exponents[t.layer.name], exponent, bits) * 2.0**exponent)

    # Instructions.

    def _at(self, **operands: str) -> dict[str, Any]:
        """a="fc1.y" -> a_base, a_pitch and sa."""
        fields: dict[str, Any] = {}
        for operand, name in operands.items():
            tensor = self.plan.tensors[name]
            fields |= {f"{operand}_base": tensor.matrix.base, f"{operand}_pitch": tensor.matrix.pitch}
            if operand != "m":
                fields[f"s{operand}"] = tensor.scale
        return fields

    def _matrix(self, name: str) -> Matrix:
        return self.plan.tensors[name].matrix

    def _load(self, name: str) -> Instruction:
        m = self._matrix(name)
        return Instruction(
            opcode=Opcode.LOAD, memory=m.memory, d_base=m.base, d_pitch=m.pitch, rows=m.rows, cols=m.cols
        )

    def _store(self, name: str) -> Instruction:
        m = self._matrix(name)
        return Instruction(
            opcode=Opcode.STORE, memory=m.memory, a_base=m.base, a_pitch=m.pitch, rows=m.rows, cols=m.cols
        )

    def _narrowing(self, opcode: Opcode, formats: Declaration, *, train: bool = True) -> dict[str, Any]:
        fmt = formats.role(WIDTH_ROLE[opcode])
        return {
            "width": fmt.width,
            "rounding": fmt.rounding,
            "overflow": fmt.overflow,
            "track": int(train and fmt.exponent is ExponentPolicy.DELAYED),
            "exact": int(train and fmt.exponent is ExponentPolicy.EXACT),
        }

    def _reading(self, formats: Declaration) -> dict[str, Any]:
        return {
            "weight_width": formats.weight.width,
            "weight_shift": formats.master.width - formats.weight.width,
            "weight_rounding": formats.weight.rounding,
        }

    def _forward(self, *, train: bool) -> list[Instruction]:
        return [
            Instruction(
                opcode=Opcode.FORWARD,
                rows=self.plan.batch,
                cols=t.layer.outputs,
                depth=t.layer.inputs + t.layer.bias,
                bias=int(t.layer.bias),
                bias_exponent=self.bias_exponents.get(t.layer.name, 0),
                relu=int(t.layer.relu),
                **self._at(a=t.x, b=t.weight, d=t.y),
                **self._reading(t.formats),
                **self._narrowing(Opcode.FORWARD, t.formats, train=train),
            )
            for t in self.plan.layers
        ]

    def _loss(self) -> Instruction:
        last = self.plan.layers[-1]
        return Instruction(
            opcode=Opcode.LOSS,
            rows=self.plan.batch,
            cols=last.layer.outputs,
            **self._at(a=last.y, b=TARGET, d=last.error),
            **self._narrowing(Opcode.LOSS, last.formats),
        )

    def _backward(self) -> list[Instruction]:
        """From the last layer's error to every update; an error goes back through a weight before it changes."""
        words: list[Instruction] = []
        layers = self.plan.layers
        for index in reversed(range(len(layers))):
            t = layers[index]
            if index > 0:
                below = layers[index - 1]
                words.append(
                    Instruction(
                        opcode=Opcode.BACKWARD,
                        rows=self.plan.batch,
                        cols=t.layer.inputs,
                        depth=t.layer.outputs,
                        mask=int(below.layer.relu),
                        **self._at(a=t.error, b=t.weight, d=below.error, **({"m": t.x} if below.layer.relu else {})),
                        **self._reading(t.formats),
                        **self._narrowing(Opcode.BACKWARD, below.formats),
                    )
                )
            words.append(self._update(t))
        return words

    def _update(self, t: _LayerTensors) -> Instruction:
        m, k = self.lr
        at = self._at(a=t.error, b=t.x, d=t.weight)
        at["sm"], at["sd"] = at["sd"], t.gradient_scale
        return Instruction(
            opcode=Opcode.UPDATE,
            rows=t.layer.outputs,
            cols=t.layer.inputs + t.layer.bias,
            depth=self.plan.batch,
            bias=int(t.layer.bias),
            bias_exponent=self.bias_exponents.get(t.layer.name, 0),
            lr_mul=m,
            lr_shift=k,
            master_width=t.formats.master.width,
            update_rounding=t.formats.master.rounding,
            **at,
            **self._narrowing(Opcode.UPDATE, t.formats),
        )


def _headroom(fmt: RoleFormat) -> int:
    return STATIC_HEADROOM if fmt.exponent is ExponentPolicy.STATIC else 0
