"""Batch normalisation after a convolution, folded into its weights as in evaluation."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn


def unfoldable(norm: nn.BatchNorm2d) -> str:
    """Why a BatchNorm2d cannot be folded into a convolution, "" where it can."""
    if norm.running_mean is None or norm.running_var is None:
        return "it keeps no running statistics to be folded into the Conv2d"
    return ""


def partly_trained(parts: Sequence[tuple[str, nn.Module]]) -> str:
    """Why the parameters of modules by name, which become one layer's, cannot be trained, or frozen, as one; "" where
    they can: the device trains a layer whole, or not at all."""
    asked = {f"{name}.{key}": p.requires_grad for name, part in parts for key, p in part.named_parameters()}
    if len(set(asked.values())) < 2:
        return ""
    trained, frozen = (", ".join(name for name, wanted in asked.items() if wanted is which) for which in (True, False))
    return f"a layer trains whole or not at all, and {trained} require a gradient, {frozen} not"


def folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution that gives norm(convolution(x)) in evaluation; both stay as they are. It has a bias.

    Computed in float64: a running variance near zero makes a large factor.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    made = copy.deepcopy(convolution)
    with torch.no_grad():
        factor = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            factor *= norm.weight.double()
        bias = -norm.running_mean.double() if made.bias is None else made.bias.double() - norm.running_mean.double()
        bias = bias * factor + (0 if norm.bias is None else norm.bias.double())
        weight = made.weight.double() * factor[:, None, None, None]
        made.weight = nn.Parameter(weight.to(made.weight.dtype), requires_grad=made.weight.requires_grad)
        made.bias = nn.Parameter(bias.to(made.weight.dtype), requires_grad=made.weight.requires_grad)
    return made
