"""Batch normalisation after a convolution, folded into its weights as in evaluation."""

from __future__ import annotations

import copy

import torch
from torch import nn


def unfoldable(norm: nn.BatchNorm2d) -> str:
    """Why a BatchNorm2d cannot be folded into a convolution, "" where it can."""
    if norm.running_mean is None or norm.running_var is None:
        return "it keeps no running statistics to be folded into the Conv2d"
    return ""


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
