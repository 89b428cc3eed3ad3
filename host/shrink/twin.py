"""A device's student in torch: its graph, with the masters that the device has now."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import nn

from insitu.arch.numbers import bias_operand
from insitu.arch.program import Program
from insitu.host.compiler.graph import Graph
from insitu.host.compiler.lower import given, masters
from insitu.host.compiler.trace import trace
from insitu.host.device.snapshot import Snapshot
from insitu.host.errors import CheckpointError
from insitu.host.shrink.channels import drop

#: What was dropped, stage by stage: of each set of channels, by the layer that names it, those that went.
Stages = Sequence[Mapping[str, Sequence[int]]]


def rebuilt(student: nn.Module, shape: tuple[int, ...], stages: Stages) -> Graph:
    """The graph of a student, for samples of a shape, after all that was dropped from it; its weights mean nothing.
    Raises CompileError for a module that is no student, CheckpointError where stages are not its own."""
    graph = trace(copy.deepcopy(student), shape)
    for stage in stages:
        try:
            drop(graph, shape, stage)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise CheckpointError(f"what was dropped from the student does not fit it ({error!r})") from error
        graph = trace(graph.module, shape)
    return graph


def load(graph: Graph, program: Program, snapshot: Snapshot) -> None:
    """Put a device's masters into the layers of its graph, as the real numbers that they stand for now."""
    scales = snapshot.scales[:, 0].tolist()
    for layer in graph.layers:
        tensor = program.tensors[masters(layer.name)]
        read = program.tensors[given(layer.sources[0])]
        exponent = scales[read.scale]
        operand = 0.0
        if layer.bias:
            bits = program.core.activation_bits
            operand = bias_operand(program.bias_exponents[layer.name], exponent, bits) * 2.0**exponent
        layer.take(snapshot.masters[masters(layer.name)] * 2.0 ** scales[tensor.scale], operand)
