"""A student's layers: which of them move, and a new head where it is to tell other classes apart."""

from __future__ import annotations

import torch
from torch import nn

from insitu.models.curricula.stage import Trainable
from insitu.models.errors import InvalidInputError


def layers(module: nn.Module) -> list[nn.Module]:
    """Parts with parameters of their own, in the order of their definition, the head last."""
    return [part for part in module.modules() if any(True for _ in part.parameters(recurse=False))]


def freeze(module: nn.Module, trainable: Trainable) -> None:
    """Have all layers but those trainable require no gradient.

    Raises:
        InvalidInputError: more layers than there are.
    """
    found = layers(module)
    if trainable.layers is not None and trainable.layers > len(found):
        raise InvalidInputError(f"the last {trainable.layers} layers of a student that has {len(found)}")
    first = 0 if trainable.layers is None else len(found) - trainable.layers
    for number, layer in enumerate(found):
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(number >= first)


def outputs(module: nn.Module) -> int:
    """Classes that a student tells apart."""
    return _head(module).out_features


def new_head(module: nn.Module, classes: int, seed: int, *, grown: bool = False) -> None:
    """Put a head of another number of outputs in place of a student's, with torch's default initialisation; where it
    has `grown` the classes that there were keep their weights.

    Raises:
        InvalidInputError: a student whose last layer is no Linear.
    """
    old = _head(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    if grown:
        n = min(classes, old.out_features)
        with torch.no_grad():
            for new, was in zip(made.parameters(), old.parameters(), strict=True):
                new[:n] = was[:n]
    # Every name it has: one that a student's code reads it by may not be the first.
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, made)


def _head(module: nn.Module) -> nn.Linear:
    last = layers(module)[-1]
    if not isinstance(last, nn.Linear):
        raise InvalidInputError(f"a student whose last layer is {type(last).__name__}; expected a Linear")
    return last
