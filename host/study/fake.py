"""The QPyTorch arm: the same student in float32 arithmetic, its tensors rounded to fixed point on the way.

Weights, activations, errors and gradients have the declaration's widths, stored weights the masters'; fraction lengths
are calibrated like our static exponents and stay. Sums are of floats: what an accumulator would do is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim.optimizer import register_optimizer_step_post_hook

from insitu.arch.declaration import Declaration, Role, RoleFormat
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
    module = arms.build(setting, dataset, folder, seed)
    count = arms.CALIBRATION
    targets = labels.one_hot(dataset.y_train[:count], dataset.classes)
    graph = trace(module, dataset.in_shape)
    ranges = measure(graph, dataset.x_train[:count], targets, setting.batch)
    stored = _quantised(graph, declaration, ranges, setting.batch)

    def store(*_: Any) -> None:
        with torch.no_grad():
            for parameter, rounded in stored:
                parameter.copy_(rounded(parameter))

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
    from qtorch.quant import Quantizer

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
        reader = Quantizer(
            forward_number=_number(at.weight, largest, spare), forward_rounding=_ROUNDINGS[at.weight.rounding]
        )
        parametrize.register_parametrization(own, "weight", reader)
        passing = Quantizer(
            forward_number=_number(at.activation, ranges.activation[layer.name]),
            backward_number=_number(at.error, ranges.error[layer.name] / batch),
            forward_rounding=_ROUNDINGS[at.activation.rounding],
            backward_rounding=_ROUNDINGS[at.error.rounding],
        )
        own.register_forward_hook(lambda _module, _inputs, out, passing=passing: passing(out))
    return stored


def _number(fmt: RoleFormat, magnitude: float, headroom: int = _HEADROOM) -> Any:
    from qtorch import FixedPoint

    found = FixedFormat.covering(magnitude, width=fmt.width, headroom=headroom)
    return FixedPoint(wl=fmt.width, fl=-found.exponent)


def _rounder(fmt: RoleFormat, magnitude: float, headroom: int = _HEADROOM) -> Rounder:
    from qtorch.quant import quantizer

    return quantizer(forward_number=_number(fmt, magnitude, headroom), forward_rounding=_ROUNDINGS[fmt.rounding])
