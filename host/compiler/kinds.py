"""What a node of a traced module is to the graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

DROPOUT = (F.dropout, F.dropout2d)
#: Modules by what they are to the graph, and functions and methods that are the same.
_MODULES: dict[type[nn.Module], str] = {
    nn.Conv2d: "conv",
    nn.BatchNorm2d: "norm",
    nn.ReLU: "relu",
    nn.MaxPool2d: "pool",
    nn.Flatten: "flatten",
    nn.Linear: "linear",
    nn.Dropout: "nothing",
    nn.Dropout2d: "nothing",
    nn.Identity: "nothing",
}
_FUNCTIONS: dict[Callable[..., Any], str] = {
    torch.relu: "relu",
    F.relu: "relu",
    F.max_pool2d: "pool",
    torch.max_pool2d: "pool",
    torch.flatten: "flatten",
    torch.reshape: "view",
    **dict.fromkeys(DROPOUT, "nothing"),
}
_METHODS = {"relu": "relu", "relu_": "relu", "flatten": "flatten", "view": "view", "reshape": "view"}


def kind(traced: fx.GraphModule, node: fx.Node) -> tuple[str, str]:
    """(what a node is, "" where it cannot be taken; its name for people)."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        return next((k for t, k in _MODULES.items() if isinstance(module, t)), ""), type(module).__name__
    if node.op == "call_function":
        found = _FUNCTIONS.get(node.target, "")  # type: ignore[arg-type]  # a function
        return found, getattr(node.target, "__name__", str(node.target))
    if node.op == "call_method":
        return _METHODS.get(str(node.target), ""), f".{node.target}"
    return "", node.op


def reads_size(node: fx.Node) -> bool:
    """x.size(), x.size(0), x.shape: no value of the student."""
    if node.op == "call_method" and node.target == "size":
        return node.args[1:] in ((), (0,)) and not node.kwargs
    return node.op == "call_function" and node.target is getattr and node.args[1:] == ("shape",)


def reads_batch(node: fx.Node) -> bool:
    """x.shape[0], x.size()[0]."""
    return node.op == "call_function" and node.target is operator.getitem and node.args[1:] == (0,)
