"""Ranges of every tensor of a training step, measured on a batch in float32: what exponents start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from insitu.host.compiler.graph import Graph
from insitu.host.errors import CompileError


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Largest magnitudes: of a sample, and per layer of its output (after ReLU), of dL/dy and of dL/dw.

    The loss is the sum over the batch, as on the device: errors are per sample, gradients per batch.
    """

    sample: float
    activation: dict[str, float]
    error: dict[str, float]
    gradient: dict[str, float]


#: Batches whose gradients are measured.
GRADIENT_BATCHES = 8


def measure(
    graph: Graph,
    x: npt.NDArray[np.float32],
    targets: npt.NDArray[np.float32] | None,
    batch: int,
) -> Ranges:
    """Run x [n, ...] through the student, forward and backward, as it will be deployed.

    Without targets [n, classes] classes are cycled through, which gives errors as large as they come. Gradients are of
    batches of `batch` samples: the largest of a few, or scaled up where x has fewer. The module is left as it was.
    """
    wanted = _targets(targets, len(x), graph.classes)
    samples = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    module = graph.module
    parameters = [p for layer in graph.layers for p in layer.module.parameters()]
    frozen, training = [p.requires_grad for p in parameters], module.training
    try:
        module.eval()
        for p in parameters:
            p.requires_grad_(True)
        activation, error, _ = _magnitudes(graph, samples, wanted)
        parts = [slice(first, first + batch) for first in range(0, len(samples), batch)][:GRADIENT_BATCHES]
        whole = [part for part in parts if part.stop <= len(samples)] or parts[:1]
        gradients = [_magnitudes(graph, samples[part], wanted[part])[2] for part in whole]
    finally:
        module.train(training)
        for p, requires in zip(parameters, frozen, strict=True):
            p.requires_grad_(requires)
    share = max(1.0, batch / len(samples))
    return Ranges(
        sample=float(samples.abs().max()),
        activation=activation,
        error=error,
        gradient={layer.name: share * max(g[layer.name] for g in gradients) for layer in graph.layers},
    )


def _targets(targets: npt.NDArray[np.float32] | None, count: int, classes: int) -> torch.Tensor:
    if targets is None:
        return F.one_hot(torch.arange(count) % classes, classes).float()
    if targets.shape != (count, classes):
        raise CompileError(f"calibration targets of shape {targets.shape}: expected ({count}, {classes})")
    return torch.from_numpy(np.ascontiguousarray(targets, dtype=np.float32))


def _magnitudes(
    graph: Graph, samples: torch.Tensor, wanted: torch.Tensor
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Largest magnitudes by layer: of outputs, of dL/dy, of dL/dw of these samples together."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            outputs[name] = output

        return hook

    handles = [layer.module.register_forward_hook(keep(layer.name)) for layer in graph.layers]
    try:
        with torch.enable_grad():
            loss = -(wanted * F.log_softmax(graph.module(samples), dim=1)).sum()
            weights = [layer.module.weight for layer in graph.layers]
            found = torch.autograd.grad(loss, [*(outputs[layer.name] for layer in graph.layers), *weights])
    finally:
        for handle in handles:
            handle.remove()
    names = [layer.name for layer in graph.layers]
    shown = [outputs[layer.name].clamp(min=0) if layer.relu else outputs[layer.name] for layer in graph.layers]
    largest = [float(t.detach().abs().max()) for t in (*shown, *found)]
    count = len(names)
    return tuple(  # type: ignore[return-value]
        dict(zip(names, largest[k * count : (k + 1) * count], strict=True)) for k in range(3)
    )
