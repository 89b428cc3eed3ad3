"""A student is compiled as it is in evaluation, or refused: never a network that gives other logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it
from torch.nn.utils import prune

from insitu.arch.isa import Opcode
from insitu.host.compiler import rate
from insitu.host.compiler.trace import trace
from insitu.host.device import open_device
from insitu.host.errors import CompileError
from tests.host import gradients
from tests.host.gradients import SHAPE, compiled
from tests.host.test_vector_students import WHOLE, Made, depthwise


def _added(_m: Any, x: torch.Tensor) -> torch.Tensor:
    before = x
    x += F.relu(x)
    return x * before


OVERWRITTEN: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "module": lambda m, x: m.act(x) + x,
    "function": lambda _m, x: F.relu(x, inplace=True) + x,
    "method": lambda _m, x: x.relu_() + x,
    "operator": _added,
}


@pytest.mark.parametrize("how", OVERWRITTEN)
def test_what_is_read_after_it_was_overwritten(how: str) -> None:
    with pytest.raises(CompileError, match=r"Made .* other logits than module.eval\(\)\(x\).*in place"):
        compiled(Made(OVERWRITTEN[how], WHOLE, act=nn.ReLU(inplace=True)))


def test_in_place_where_nothing_else_reads() -> None:
    torch.manual_seed(3)
    gradients.check(
        Made(lambda m, x: m.second(m.act(x)).relu_(), WHOLE, act=nn.ReLU(inplace=True)).eval(), gradients.CORE
    )


class Squared(nn.Module):
    """The square of what it is given while it trains."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x if self.training else x


def test_tracing_is_of_evaluation() -> None:
    module = Made(lambda m, x: m.square(x), WHOLE, square=Squared(), norm=nn.BatchNorm2d(5).eval())
    module.train()
    module.norm.eval()
    nodes = trace(module, SHAPE).nodes
    assert [node.name for node in nodes] == ["first", "fc"]
    compiled(module)
    assert {name for name, part in module.named_modules() if not part.training} == {"norm"}


def test_functional_dropout_drops_nothing() -> None:
    module = Made(lambda _m, x: F.dropout(x.relu(), 0.5), WHOLE)
    assert [node.name for node in compiled(module).graph.nodes] == ["first", "fc"]


def _double(_module: nn.Module, _given: Any, out: torch.Tensor) -> torch.Tensor:
    return 2 * out


def test_hooks_are_refused() -> None:
    module = Made(lambda m, x: m.second(x), WHOLE)
    handle = module.second.register_forward_hook(_double)
    with pytest.raises(CompileError, match="second has the forward hook _double: the device runs none"):
        trace(module, SHAPE)
    handle.remove()
    trace(module, SHAPE)
    prune.l1_unstructured(module.second, "weight", amount=0.5)
    with pytest.raises(CompileError, match=r"second has the forward hook L1Unstructured.*prune\.remove"):
        trace(module, SHAPE)
    prune.remove(module.second, "weight")
    trace(module, SHAPE)


def test_numbers_other_than_float32() -> None:
    with pytest.raises(CompileError, match=r"first\.weight is torch\.float64: .*float32"):
        compiled(Made(lambda m, x: m.second(x), WHOLE).double())


# What of a layer is trained.


def test_layers_frozen_in_part() -> None:
    module = Made(lambda m, x: m.norm(m.second(x)), WHOLE, norm=nn.BatchNorm2d(5))
    trace(module, SHAPE)
    module.fc.bias.requires_grad_(False)
    with pytest.raises(CompileError, match=r"fc \(a layer .*and fc\.weight require a gradient, fc\.bias not\)"):
        trace(module, SHAPE)
    module.fc.weight.requires_grad_(False)
    trace(module, SHAPE)
    module.norm.weight.requires_grad_(False)
    with pytest.raises(CompileError, match=r"second\.bias, norm\.bias require a gradient, norm\.weight not"):
        trace(module, SHAPE)


def test_another_rate_is_that_of_every_layer() -> None:
    made = compiled(Made(lambda m, x: m.deep(x.relu()), WHOLE, deep=depthwise(padding=1)))
    changed = rate.with_learning_rate(made.program, 0.02)
    rates = {i.opcode: rate.decode(i.lr_mul, i.lr_shift) for i in changed.instructions if i.lr_mul}
    wanted = pytest.approx(0.02 / made.program.batch, rel=0.004)
    assert rates == {Opcode.UPDATE: wanted, Opcode.DW_UPDATE: wanted}
    x, targets = gradients.samples()
    with open_device(gradients.CORE) as driver:
        driver.load(rate.with_learning_rate(made.program, 0.0))
        driver.write_weights(made.masters)
        driver.train(x, targets)
        after = driver.read_weights()
    assert all((after[name] == masters).all() for name, masters in made.masters.items())
