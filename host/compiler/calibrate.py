"""Ranges of every tensor of a training step, measured on a batch in float32: what exponents start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from insitu.host.compiler.deployed import evaluating, without_dropout
from insitu.host.compiler.graph import SAMPLE, Graph, Node, Pool, Product
from insitu.host.compiler.lower import part
from insitu.host.errors import CompileError


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Largest magnitudes: of a sample, and per node of what it gives (after ReLU) and of dL/dy, per layer of dL/dw and
    of dL/db (0 without a bias), and of what each node gives back to those that it reads (host/compiler/lower.part).

    The loss is the sum over the batch, as on the device: errors are per sample, gradients per batch. dL/dy is before
    the ReLU, but of what a pool reads that of what the pool gives: they share one exponent, and pools only move
    elements.
    """

    sample: float
    activation: dict[str, float] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)
    part: dict[str, float] = field(default_factory=dict)
    gradient: dict[str, float] = field(default_factory=dict)
    bias: dict[str, float] = field(default_factory=dict)


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
    frozen = [p.requires_grad for p in parameters]
    try:
        for p in parameters:
            p.requires_grad_(True)
        with evaluating(module):
            seen = _magnitudes(graph, samples, wanted)
            parts = [slice(first, first + batch) for first in range(0, len(samples), batch)][:GRADIENT_BATCHES]
            whole = [part for part in parts if part.stop <= len(samples)] or parts[:1]
            batches = [_magnitudes(graph, samples[part], wanted[part]) for part in whole]
    finally:
        for p, requires in zip(parameters, frozen, strict=True):
            p.requires_grad_(requires)
    share = max(1.0, batch / len(samples))
    names = [layer.name for layer in graph.layers]
    return Ranges(
        sample=float(samples.abs().max()),
        activation=seen.activation,
        error=seen.error,
        part=seen.part,
        gradient={name: share * max(b.gradient[name] for b in batches) for name in names},
        bias={name: share * max(b.bias[name] for b in batches) for name in names},
    )


def check_same(graph: Graph, module: nn.Module, x: npt.NDArray[np.float32]) -> None:
    """That a graph gives the logits which its module gives in evaluation, of samples x [n, ...]. Raises CompileError
    where not: tracing sees operations, not that two of them may share memory that one writes in place."""
    samples = torch.from_numpy(np.array(x, dtype=np.float32))
    with torch.no_grad(), evaluating(graph.module), evaluating(module), without_dropout():
        ours = _Watching(graph).run(samples.clone())
        wanted = module(samples)
    largest = float(wanted.nan_to_num().abs().max())  # what is not finite is refused by the formats
    if torch.allclose(ours, wanted, rtol=0, atol=1e-3 * largest, equal_nan=True):
        return
    raise CompileError(
        f"{type(module).__name__} as the device would run it gives other logits than module.eval()(x), by up to "
        f"{float((ours - wanted).abs().max()):.3g}: does it write in place (inplace=True, +=, relu_) over what is read "
        "again?"
    )


def _targets(targets: npt.NDArray[np.float32] | None, count: int, classes: int) -> torch.Tensor:
    if targets is None:
        return F.one_hot(torch.arange(count) % classes, classes).float()
    if targets.shape != (count, classes):
        raise CompileError(f"calibration targets of shape {targets.shape}: expected ({count}, {classes})")
    return torch.from_numpy(np.ascontiguousarray(targets, dtype=np.float32))


class _Watching(fx.Interpreter):
    """Runs a student and keeps what its nodes give, and what each of them reads as a tensor of its own, so that its
    gradient is that reader's part."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.module)
        self._readers = {node.value: node for node in graph.nodes}
        self.given: dict[str, torch.Tensor] = {}
        self.read: dict[str, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        node = self._readers.get(n.name)
        if node is None:
            return super().run_node(n)
        # What is written over in place is a copy: neither what was kept, nor what others read.
        env, tensors = dict(self.env), [a for a in (*n.args, *n.kwargs.values()) if isinstance(a, fx.Node)]
        for source in tensors:
            self.env[source] = self.env[source].clone()
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        self._keep(node, n, args, kwargs)
        found = getattr(self, n.op)(n.target, args, kwargs)
        self.env.update(env)
        self.given[node.name] = found
        return found.clone()

    def _keep(self, node: Node, n: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        names = [*n.args, *n.kwargs.values()]
        values = [v for a, v in zip(names, [*args, *kwargs.values()], strict=True) if isinstance(a, fx.Node)]
        if isinstance(node, Product) and values[0].numel() < values[1].numel():
            values = values[::-1]  # the node's order: the map, then the pixel
        for at, value in enumerate(values):
            self.read[part(node.name, at)] = value


def _magnitudes(graph: Graph, samples: torch.Tensor, wanted: torch.Tensor) -> Ranges:
    """Largest magnitudes of these samples together."""
    watching = _Watching(graph)
    layers = graph.layers
    with torch.enable_grad():
        logits = watching.run(samples)
        loss = -(wanted * F.log_softmax(logits, dim=1)).sum()
        given = {name: value for name, value in watching.given.items() if value.requires_grad}
        read = {name: value for name, value in watching.read.items() if value.requires_grad}
        parameters = [layer.module.weight for layer in layers]
        parameters += [layer.module.bias for layer in layers if layer.module.bias is not None]
        found = torch.autograd.grad(loss, [*given.values(), *read.values(), *parameters], allow_unused=True)
    largest = [0.0 if t is None else float(t.detach().abs().max()) for t in found]
    errors = dict(zip(given, largest, strict=False))
    parts = dict(zip(read, largest[len(given) :], strict=False))
    gradients = largest[len(given) + len(read) :]
    biased = [layer.name for layer in layers if layer.bias]
    names = [layer.name for layer in layers]
    for node in reversed(graph.nodes):  # a pool's error comes as those that read it give it, its ReLU not yet masked
        if isinstance(node, Pool) and graph.readers(node.name):
            errors[node.name] = sum(parts.get(part(r.name, at), 0.0) for r, at in graph.readers(node.name))
            source = node.sources[0]
            if source != SAMPLE and len(graph.readers(source)) == 1:
                errors[source] = errors[node.name]
    return Ranges(
        sample=0.0,
        activation={
            node.name: float((y.clamp(min=0) if node.relu else y.abs()).detach().max())
            for node in graph.nodes
            for y in [watching.given[node.name]]
        },
        error=errors,
        part=parts,
        gradient=dict(zip(names, gradients, strict=False)),
        bias=dict.fromkeys(names, 0.0) | dict(zip(biased, gradients[len(names) :], strict=True)),
    )
