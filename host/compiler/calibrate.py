"""Ranges of every tensor of a training step, measured on a batch in float32: what exponents start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from insitu.host.compiler.graph import Graph, Layer, Pool
from insitu.host.errors import CompileError


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Largest magnitudes: of a sample, and per layer of its output (after ReLU), of dL/dy, of dL/dw and of dL/db (0
    without a bias).

    The loss is the sum over the batch, as on the device: errors are per sample, gradients per batch. dL/dy is that of
    what pools after the layer give: they share one exponent, and pools only move elements.
    """

    sample: float
    activation: dict[str, float]
    error: dict[str, float]
    gradient: dict[str, float]
    bias: dict[str, float]


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
        seen = _magnitudes(graph, samples, wanted)
        parts = [slice(first, first + batch) for first in range(0, len(samples), batch)][:GRADIENT_BATCHES]
        whole = [part for part in parts if part.stop <= len(samples)] or parts[:1]
        batches = [_magnitudes(graph, samples[part], wanted[part]) for part in whole]
    finally:
        module.train(training)
        for p, requires in zip(parameters, frozen, strict=True):
            p.requires_grad_(requires)
    share = max(1.0, batch / len(samples))
    names = [layer.name for layer in graph.layers]
    return Ranges(
        sample=float(samples.abs().max()),
        activation=seen.activation,
        error=seen.error,
        gradient={name: share * max(b.gradient[name] for b in batches) for name in names},
        bias={name: share * max(b.bias[name] for b in batches) for name in names},
    )


def _targets(targets: npt.NDArray[np.float32] | None, count: int, classes: int) -> torch.Tensor:
    if targets is None:
        return F.one_hot(torch.arange(count) % classes, classes).float()
    if targets.shape != (count, classes):
        raise CompileError(f"calibration targets of shape {targets.shape}: expected ({count}, {classes})")
    return torch.from_numpy(np.ascontiguousarray(targets, dtype=np.float32))


def _magnitudes(graph: Graph, samples: torch.Tensor, wanted: torch.Tensor) -> Ranges:
    """Largest magnitudes of these samples together."""
    inputs: dict[str, torch.Tensor] = {}
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]:
        def hook(_module: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            inputs[name], outputs[name] = given[0], output
            return output.clone()  # what comes after may write over it

        return hook

    handles = [layer.module.register_forward_hook(keep(layer.name)) for layer in graph.layers]
    layers, names = graph.layers, [layer.name for layer in graph.layers]
    try:
        with torch.enable_grad():
            logits = graph.module(samples)
            loss = -(wanted * F.log_softmax(logits, dim=1)).sum()
            errors = [_pooled(graph, at, inputs, logits, outputs) for at in range(len(layers))]
            weights = [layer.module.weight for layer in layers]
            biases = [layer.module.bias for layer in layers if layer.module.bias is not None]
            found = torch.autograd.grad(loss, [*errors, *weights, *biases])
    finally:
        for handle in handles:
            handle.remove()
    largest = [float(t.detach().abs().max()) for t in found]
    biased = [layer.name for layer in layers if layer.bias]
    shown = [outputs[layer.name].detach() for layer in layers]
    return Ranges(
        sample=0.0,
        activation={
            layer.name: float(y.clamp(min=0).max() if layer.relu else y.abs().max())
            for layer, y in zip(layers, shown, strict=True)
        },
        error=dict(zip(names, largest, strict=False)),
        gradient=dict(zip(names, largest[len(names) :], strict=False)),
        bias=dict.fromkeys(names, 0.0) | dict(zip(biased, largest[2 * len(names) :], strict=True)),
    )


def _pooled(
    graph: Graph, at: int, inputs: dict[str, torch.Tensor], logits: torch.Tensor, outputs: dict[str, torch.Tensor]
) -> torch.Tensor:
    """What the error that the device narrows is the gradient of: a layer's output, or what a pool after it gives."""
    layer = graph.layers[at]
    following = graph.nodes[graph.nodes.index(layer) + 1 :]
    if not following or not isinstance(following[0], Pool):
        return outputs[layer.name]
    above = next((node for node in following if isinstance(node, Layer)), None)
    return logits if above is None else inputs[above.name]
