"""What a node of a traced module is to the graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

#: Layers with parameters.
LAYERS: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
DROPOUT = (F.dropout, F.dropout2d)
#: Activations that are looked up: modules, and functions that are the same.
TABLES: tuple[type[nn.Module], ...] = (
    *(nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh),
    *(nn.SiLU, nn.Mish, nn.GELU, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Softsign, nn.LogSigmoid),
)
_TABLE_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    *(F.relu6, F.hardswish, F.hardsigmoid, F.hardtanh, F.sigmoid, torch.sigmoid, F.tanh, torch.tanh),
    *(F.silu, F.mish, F.gelu, F.elu, F.leaky_relu, F.softplus, F.softsign, F.logsigmoid),
)
#: Modules by what they are to the graph, and functions and methods that are the same.
_MODULES: dict[type[nn.Module], str] = {
    nn.Conv2d: "conv",
    nn.BatchNorm2d: "norm",
    nn.ReLU: "relu",
    nn.MaxPool2d: "pool",
    nn.AvgPool2d: "mean",
    nn.AdaptiveAvgPool2d: "adaptive",
    nn.Flatten: "flatten",
    nn.Linear: "linear",
    nn.Dropout: "nothing",
    nn.Dropout2d: "nothing",
    nn.Identity: "nothing",
    **dict.fromkeys(TABLES, "table"),
}
_FUNCTIONS: dict[Callable[..., Any], str] = {
    torch.relu: "relu",
    F.relu: "relu",
    F.max_pool2d: "pool",
    torch.max_pool2d: "pool",
    F.avg_pool2d: "mean",
    F.adaptive_avg_pool2d: "adaptive",
    torch.mean: "average",
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    operator.mul: "multiply",
    operator.imul: "multiply",
    torch.mul: "multiply",
    torch.flatten: "flatten",
    torch.reshape: "view",
    **dict.fromkeys(_TABLE_FUNCTIONS, "table"),
    **dict.fromkeys(DROPOUT, "nothing"),
}
_METHODS = {
    "relu": "relu",
    "relu_": "relu",
    "flatten": "flatten",
    "view": "view",
    "reshape": "view",
    "add": "add",
    "add_": "add",
    "mul": "multiply",
    "mul_": "multiply",
    "mean": "average",
    "sigmoid": "table",
    "tanh": "table",
}


def kind(traced: fx.GraphModule, node: fx.Node) -> tuple[str, str]:
    """(what a node is, "" where it cannot be taken; its name for people)."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        # The nearest class counts: ReLU6 is derived from Hardtanh. What is derived from a layer may compute anything.
        nearest = next((t for t in type(module).__mro__ if t in _MODULES), None)
        if nearest is None or (nearest in LAYERS and type(module) is not nearest):
            return "", type(module).__name__
        return _MODULES[nearest], type(module).__name__
    if node.op == "call_function":
        found = _FUNCTIONS.get(node.target, "")  # type: ignore[arg-type]  # a function
        return found, getattr(node.target, "__name__", str(node.target))
    if node.op == "call_method":
        return _METHODS.get(str(node.target), ""), f".{node.target}"
    return "", node.op


def elementwise(traced: fx.GraphModule, node: fx.Node) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function of one tensor that a node of kind "table" is."""
    if node.op == "call_module":
        return traced.get_submodule(str(node.target))
    rest = node.args[1:]
    options = {k: v for k, v in node.kwargs.items() if k not in ("input", "inplace")}
    called: Callable[..., torch.Tensor]
    called = getattr(torch.Tensor, str(node.target)) if node.op == "call_method" else node.target  # type: ignore[assignment]
    return lambda x: called(x, *rest, **options)


def reads_size(node: fx.Node) -> bool:
    """x.size(), x.size(0), x.shape: no value of the student."""
    if node.op == "call_method" and node.target == "size":
        return node.args[1:] in ((), (0,)) and not node.kwargs
    return node.op == "call_function" and node.target is getattr and node.args[1:] == ("shape",)


def reads_batch(node: fx.Node) -> bool:
    """x.shape[0], x.size()[0]."""
    return node.op == "call_function" and node.target is operator.getitem and node.args[1:] == (0,)
