"""Ranges of every tensor of a training step, measured on a batch in float32: what exponents start from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from insitu.host.compiler.graph import Graph


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Largest magnitudes: of a sample, and per layer of its output (after ReLU), of dL/dy and of dL/dw.

    The loss is the sum over the batch, as on the device: errors are per sample, gradients per batch.
    """

    sample: float
    activation: dict[str, float]
    error: dict[str, float]
    gradient: dict[str, float]


def measure(
    module: nn.Module,
    graph: Graph,
    x: npt.NDArray[np.float32],
    targets: npt.NDArray[np.float32] | None,
    batch: int,
) -> Ranges:
    """Run x [n, ...] through the module, forward and backward. Without targets [n, classes] classes are cycled
    through, which gives errors as large as they come. Gradients are scaled to `batch` samples."""
    module = module.eval()
    samples = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    if targets is None:
        cycle = torch.arange(len(samples)) % graph.classes
        wanted = F.one_hot(cycle, graph.classes).float()
    else:
        wanted = torch.from_numpy(np.ascontiguousarray(targets, dtype=np.float32))
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            output.retain_grad()
            outputs[name] = output

        return hook

    handles = [layer.module.register_forward_hook(keep(layer.name)) for layer in graph.layers]  # type: ignore[arg-type]
    trained = [p for layer in graph.layers for p in layer.module.parameters()]
    frozen = [p.requires_grad for p in trained]
    try:
        for p in trained:
            p.requires_grad_(True)
        with torch.enable_grad():
            loss = -(wanted * F.log_softmax(module(samples), dim=1)).sum()
            gradients = torch.autograd.grad(loss, [*outputs.values(), *(layer.module.weight for layer in graph.layers)])
    finally:
        for handle in handles:
            handle.remove()
        for p, requires in zip(trained, frozen, strict=True):
            p.requires_grad_(requires)
    count = len(graph.layers)
    names = [layer.name for layer in graph.layers]
    share = batch / len(samples)
    return Ranges(
        sample=float(samples.abs().max()),
        activation={
            layer.name: float(
                (outputs[layer.name].clamp(min=0) if layer.relu else outputs[layer.name]).detach().abs().max()
            )
            for layer in graph.layers
        },
        error={name: float(g.abs().max()) for name, g in zip(names, gradients[:count], strict=True)},
        gradient={name: float(g.abs().max()) * share for name, g in zip(names, gradients[count:], strict=True)},
    )
