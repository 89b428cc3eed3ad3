"""A module as it is deployed: in evaluation, without dropout, and without anything that no graph shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from insitu.host.compiler.kinds import DROPOUT
from insitu.host.errors import CompileError


def check(module: nn.Module) -> None:
    """Raises CompileError for what a module does beside its forward, and for numbers that are not float32."""
    for name, part in module.named_modules():
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        if hooks:
            what = getattr(hooks[0], "__qualname__", type(hooks[0]).__qualname__)
            raise CompileError(
                f"{name or type(module).__name__} has the forward hook {what}: the device runs none, remove it "
                "(what torch.nn.utils prunes or normalises: prune.remove, remove_weight_norm)"
            )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and tensor.dtype is not torch.float32:
            raise CompileError(f"{name} is {tensor.dtype}: a student is given in torch.float32 (module.float())")
        if tensor.device.type != "cpu":
            raise CompileError(f"{name} lies on {tensor.device}: a student is given on the CPU (module.cpu())")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A module in evaluation, each of its parts as it was afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class without_dropout(TorchFunctionMode):  # noqa: N801  # a context manager, named as one
    """Functional dropout passes on what it is given, whatever the mode: it is taken out of what is deployed."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in DROPOUT:
            return args[0] if args else given["input"]
        return func(*args, **given)
