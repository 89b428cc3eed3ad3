"""What the compiler sees of a torch module: its layers in order, named as in the module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from insitu.host.errors import CompileError

SUPPORTED = "Flatten, Linear, ReLU, Dropout, Identity (and their functional forms)"


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A fully connected layer, its ReLU included.

    name: as in the module. module: holds weight [outputs, inputs] and bias [outputs] or None.
    """

    name: str
    module: nn.Linear
    relu: bool

    @property
    def inputs(self) -> int:
        return self.module.in_features

    @property
    def outputs(self) -> int:
        return self.module.out_features

    @property
    def bias(self) -> bool:
        return self.module.bias is not None


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The layers of a student, first to last; the last gives the logits.

    module: the student as it is deployed, its layers shared with the user's own, functional dropout taken out.
    """

    layers: tuple[Linear, ...]
    module: nn.Module

    @property
    def features(self) -> int:
        """Elements of a sample."""
        return self.layers[0].inputs

    @property
    def classes(self) -> int:
        return self.layers[-1].outputs


_FLATTEN = (torch.flatten,)
_RELU = (torch.relu, F.relu)
_DROPOUT = (F.dropout,)


def trace(module: nn.Module) -> Graph:
    """The graph of a module. Raises CompileError that names every part no instruction covers."""
    try:
        traced = fx.symbolic_trace(module)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CompileError(f"torch.fx cannot trace {type(module).__name__}: {reason}") from error
    found: list[Linear] = []
    unsupported: list[str] = []
    uses = [n for n in traced.graph.nodes if len(n.users) > 1]
    if uses:
        unsupported.append(f"{uses[0].name} (its value is used {len(uses[0].users)} times: no branches yet)")
    for node in traced.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        kind, detail = _kind(traced, node)
        if kind == "linear":
            found.append(Linear(name=str(node.target), module=detail, relu=False))
        elif kind == "relu":
            if not found or found[-1].relu:
                unsupported.append(f"{node.name} (a ReLU follows a Linear)")
            else:
                found[-1] = Linear(name=found[-1].name, module=found[-1].module, relu=True)
        elif kind == "flatten" and found:
            unsupported.append(f"{node.name} (Flatten comes before the first Linear)")
        elif kind == "unsupported":
            unsupported.append(f"{node.name} ({detail})")
    names = [layer.name for layer in found]
    shared = [n for i, n in enumerate(names) if n in names[:i]]
    weights = [layer.module.weight for layer in found]
    shared += [names[i] for i, w in enumerate(weights) if any(w is v for v in weights[:i]) and names[i] not in shared]
    unsupported += [f"{name} (its weights are used twice: each layer has its own)" for name in shared]
    if sum(n.op == "placeholder" for n in traced.graph.nodes) != 1:
        unsupported.append("the module's signature (one input tensor)")
    if unsupported:
        raise CompileError(
            f"{type(module).__name__} has parts no instruction covers: {', '.join(unsupported)}; supported: {SUPPORTED}"
        )
    if not found:
        raise CompileError(f"{type(module).__name__} has no Linear layer: nothing to train")
    if found[-1].relu:
        raise CompileError(f"layer {found[-1].name!r}: a ReLU follows the last Linear, which gives the logits")
    for before, after in zip(found, found[1:], strict=False):
        if before.outputs != after.inputs:
            raise CompileError(
                f"layer {after.name!r} takes {after.inputs} features, {before.name!r} before it gives {before.outputs}"
            )
    return Graph(layers=tuple(found), module=_without_dropout(traced))


def _without_dropout(traced: fx.GraphModule) -> nn.Module:
    """F.dropout drops whatever the module's mode is: the device has none."""
    for node in [n for n in traced.graph.nodes if n.op == "call_function" and n.target in _DROPOUT]:
        node.replace_all_uses_with(node.args[0] if node.args else node.kwargs["input"])
        traced.graph.erase_node(node)
    traced.recompile()
    return traced


def _kind(traced: fx.GraphModule, node: fx.Node) -> tuple[str, Any]:
    if node.op == "call_module":
        layer = traced.get_submodule(str(node.target))
        match layer:
            case nn.Linear():
                return "linear", layer
            case nn.ReLU():
                return "relu", None
            case nn.Dropout() | nn.Identity():
                return "nothing", None
            case nn.Flatten() if layer.start_dim == 1 and layer.end_dim == -1:
                return "flatten", None
        return "unsupported", type(layer).__name__
    if node.op == "call_function":
        if node.target in _RELU:
            return "relu", None
        if node.target in _DROPOUT:
            return "nothing", None
        if node.target in _FLATTEN and _flattens_samples(node):
            return "flatten", None
        return "unsupported", getattr(node.target, "__name__", str(node.target))
    if node.op == "call_method":
        if node.target == "relu":
            return "relu", None
        if node.target == "flatten" and _flattens_samples(node):
            return "flatten", None
    return "unsupported", f".{node.target}" if node.op == "call_method" else node.op


def _flattens_samples(node: fx.Node) -> bool:
    start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
    end = node.args[2] if len(node.args) > 2 else node.kwargs.get("end_dim", -1)
    return (start, end) == (1, -1)
