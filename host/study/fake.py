"""The QPyTorch arm: the same student in float32 arithmetic, its tensors rounded to fixed point on the way.

Weights, activations, errors and gradients have the declaration's widths, stored weights the masters'. Weights have a
fraction length that stays, with the compiler's headroom; so has what is declared static, all else takes that of its own
range. Sums are of floats: what an accumulator would do is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim.optimizer import register_optimizer_step_post_hook

from insitu.arch.declaration import Declaration, ExponentPolicy, Role, RoleFormat
from insitu.arch.numbers import FixedFormat, Rounding
from insitu.host.compiler.calibrate import Ranges, measure
from insitu.host.compiler.graph import Graph
from insitu.host.compiler.trace import trace
from insitu.host.compiler.weights import weight_headroom
from insitu.host.errors import StudyError
from insitu.host.study import arms
from insitu.host.study.setting import Setting
from insitu.models import labels

_ROUNDINGS = {Rounding.NEAREST: "nearest", Rounding.STOCHASTIC: "stochastic"}
#: Bits to spare above what calibration saw.
_HEADROOM = 1


def check(setting: Setting) -> None:
    """Raise StudyError where QPyTorch is not installed or has no such rounding."""
    try:
        import qtorch  # noqa: F401
    except ModuleNotFoundError as error:
        raise StudyError(
            "compare.qpytorch needs qtorch, which is not installed: pip install 'insitu[qpytorch]'"
        ) from error
    assert setting.declaration is not None
    for role in (Role.WEIGHT, Role.MASTER, Role.ACTIVATION, Role.ERROR, Role.GRADIENT):
        rounding = setting.declaration.role(role).rounding
        if rounding not in _ROUNDINGS:
            raise StudyError(f"{role} rounding {rounding.name}: QPyTorch rounds to nearest or stochastically")


def run(setting: Setting, data: arms.Data, folder: str, seed: int) -> arms.Run:
    """Train the student once."""
    declaration = setting.declaration
    assert declaration is not None
    dataset = data.dataset
    module = arms.build(setting.student, dataset, folder, seed)
    count = arms.CALIBRATION
    targets = labels.one_hot(dataset.y_train[:count], dataset.classes)
    graph = trace(module, dataset.in_shape)
    ranges = measure(graph, dataset.x_train[:count], targets, setting.batch)
    stored = _quantised(graph, declaration, ranges, setting.batch)

    def store(*_: Any) -> None:
        with torch.no_grad():
            for parameter, rounded in stored:
                parameter.copy_(rounded(parameter))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # rounding draws
        store()
    hook = register_optimizer_step_post_hook(store)
    try:
        return arms.trained(module, setting, data, seed)
    finally:
        hook.remove()


Rounder = Callable[[torch.Tensor], torch.Tensor]


def _quantised(
    graph: Graph, declaration: Declaration, ranges: Ranges, batch: int
) -> list[tuple[nn.Parameter, Rounder]]:
    """Put quantisers into a student's layers, in place: of activations and errors, of weights as they are read, of
    gradients as they come. The parameters, and how each is stored."""
    stored: list[tuple[nn.Parameter, Rounder]] = []
    for layer in graph.layers:
        at, own = declaration.at(layer.name), layer.module
        largest = max(float(p.detach().abs().max()) for p in own.parameters())
        spare = weight_headroom(at.weight.width)
        # The loss is a batch's mean; ranges are of its sum.
        slope = max(ranges.gradient[layer.name], ranges.bias[layer.name]) / batch
        narrowed = _rounder(at.gradient, slope)

        def narrow(p: torch.Tensor, narrowed: Rounder = narrowed) -> None:
            assert p.grad is not None
            p.grad.copy_(narrowed(p.grad))

        for parameter in own.parameters():
            stored.append((parameter, _rounder(at.master, largest, spare)))
            parameter.register_post_accumulate_grad_hook(narrow)  # type: ignore[no-untyped-call]
        parametrize.register_parametrization(own, "weight", _Reading(_rounder(at.weight, largest, spare)))
        forward = _rounder(at.activation, ranges.activation[layer.name])
        backward = _rounder(at.error, ranges.error[layer.name] / batch)
        own.register_forward_hook(
            lambda _module, _inputs, out, forward=forward, backward=backward: _Passing.apply(  # type: ignore[no-untyped-call]
                out, forward, backward
            )
        )
    return stored


class _Passing(torch.autograd.Function):
    """A tensor rounded on its way forward, its gradient on its way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, forward: Rounder, backward: Rounder) -> torch.Tensor:
        ctx.backward_rounder = backward
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.backward_rounder(slopes[0]), None, None


class _Reading(nn.Module):
    """Weights rounded as they are read; their gradient passes."""

    def __init__(self, rounded: Rounder) -> None:
        super().__init__()
        self._rounded = rounded

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = _Passing.apply(x, self._rounded, lambda slope: slope)  # type: ignore[no-untyped-call]
        return found


def _rounder(fmt: RoleFormat, magnitude: float, headroom: int = _HEADROOM) -> Rounder:
    """QPyTorch's rounding to a format: with the exponent that covers a magnitude, or that of the tensor's own range."""
    from qtorch.quant import fixed_point_quantize

    rounding = _ROUNDINGS[fmt.rounding]
    fixed = FixedFormat.covering(magnitude, width=fmt.width, headroom=headroom).exponent
    moving = fmt.exponent is not ExponentPolicy.STATIC

    def rounded(x: torch.Tensor) -> torch.Tensor:
        exponent = fixed
        if moving and bool(torch.isfinite(x).all()):
            exponent = FixedFormat.covering(float(x.detach().abs().max()), width=fmt.width).exponent
        found: torch.Tensor = fixed_point_quantize(x.contiguous(), fmt.width, -exponent, rounding=rounding)
        return found

    return rounded
