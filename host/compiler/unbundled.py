"""Tracing by torch.fx, with modules derived from torch's layers brought back to those."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn

from insitu.host.compiler.deployed import evaluating
from insitu.host.compiler.kinds import LAYERS


class _Tracer(fx.Tracer):
    """Does not look into what is derived from a layer: its forward reads parameters one by one, and asks for shapes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LAYERS) or super().is_leaf_module(m, module_qualified_name)


def traced(module: nn.Module) -> fx.GraphModule:
    """A module as torch.fx sees it. What is derived from a layer becomes that layer with the same parameters, and its
    own children after it (image models' libraries have normalisations with dropout and an activation), where in
    evaluation these together give what it gives; else it stays. Raises what tracing raises."""
    found = fx.GraphModule(module, _Tracer().trace(module))
    for node in list(found.graph.nodes):
        if node.op == "call_module":
            part = found.get_submodule(str(node.target))
            if isinstance(part, LAYERS) and type(part) not in LAYERS:
                _take_apart(found, node, part)
    found.recompile()
    return found


def _take_apart(found: fx.GraphModule, node: fx.Node, part: nn.Module) -> None:
    plain, target = _plain(part), str(node.target)
    children = [(name, child) for name, child in part.named_children() if not isinstance(child, nn.Identity)]
    if not _same(part, nn.Sequential(plain, *(child for _, child in children))):
        return
    last = node
    for name, child in children:
        found.add_submodule(f"{target}_{name}", child)
        with found.graph.inserting_after(last):
            following = found.graph.call_module(f"{target}_{name}", (last,))
        last.replace_all_uses_with(following)
        following.update_arg(0, last)  # it was among those uses
        last = following
    found.add_submodule(target, plain)  # in the traced module alone: the user's keeps its own


def _plain(part: nn.Module) -> nn.Module:
    """The layer that a module is derived from, with its very parameters and statistics."""
    layer: Any = next(t for t in type(part).__mro__ if t in LAYERS)
    plain = copy.copy(part)
    plain.__class__ = layer
    plain._modules = {}
    return plain


def _same(part: nn.Module, other: nn.Module) -> bool:
    """Whether two modules give the same in evaluation, of numbers of both signs and many sizes."""
    shape = (2, part.in_features) if isinstance(part, nn.Linear) else (2, _channels(part), 16, 16)
    x = torch.linspace(-99, 99, torch.Size(shape).numel()).reshape(shape).sin() * 9
    try:
        with torch.no_grad(), evaluating(part), evaluating(other):
            return torch.allclose(part(x), other(x), rtol=1e-5, atol=1e-6)
    except RuntimeError:  # a kernel larger than what it was shown
        return False


def _channels(part: nn.Module) -> int:
    channels: Any = part.in_channels if isinstance(part, nn.Conv2d) else part.num_features
    return int(channels)
