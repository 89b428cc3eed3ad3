"""Fixed point at sixteen bits beside torch: a student's logits, and every weight's step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from insitu.arch.declaration import Declaration, Role
from insitu.arch.isa import Opcode
from insitu.arch.numbers import Rounding, bias_operand
from insitu.arch.params import CoreParams
from insitu.host.compiler import rate
from insitu.host.compiler.compile import Compiled, compile_module
from insitu.host.device import open_device

NEAREST = {role.value: Rounding.NEAREST for role in (Role.ACTIVATION, Role.ERROR, Role.GRADIENT, Role.MASTER)}
WIDE = Declaration.parse("w16a16e16g16m32c48t16", exponent="static", rounding=NEAREST)
CORE = CoreParams(n=4, act_depth=8192, err_depth=8192, wgt_depth=4096).with_declaration(WIDE)
SHAPE, CLASSES, BATCH, LR = (2, 8, 7), 3, 3, 0.25


def samples() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (BATCH, *SHAPE)).astype(np.float32)
    return x, np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, BATCH)]


def compiled(module: nn.Module, **changes: Any) -> Compiled:
    x, targets = samples()
    given: dict[str, Any] = {"core": CORE, "declaration": WIDE, "batch": BATCH, "calibration": x, "targets": targets}
    return compile_module(module, **given | {"learning_rate": LR} | changes)


def expected(made: Compiled, x: npt.NDArray[np.float32], gradient: npt.NDArray[np.float64]) -> dict[str, Any]:
    """What SGD adds to each master, as real numbers: torch's gradients, taps and bias where the device has them."""
    module = made.graph.module.double().eval()
    module.zero_grad()
    module(torch.from_numpy(x).double()).backward(torch.from_numpy(gradient))
    updates = [i for i in made.program.entry("train") if i.opcode in (Opcode.UPDATE, Opcode.DW_UPDATE)]
    update = updates[0]
    lr = rate.decode(update.lr_mul, update.lr_shift)
    assert lr * BATCH == pytest.approx(LR, rel=0.01)
    masters = {t.matrix: name for name, t in made.program.tensors.items() if t.role is Role.MASTER}
    reads = {masters[i.d]: i.sb for i in updates}
    steps = {}
    for layer in made.graph.layers:
        name = f"{layer.name}.weight"
        weight = layer.module.weight.grad.numpy()
        taps = weight[0, 0].size if weight.ndim > 2 else layer.window.taps
        columns = weight.reshape(layer.outputs, -1, taps).transpose(0, 2, 1).reshape(layer.outputs, -1)
        columns = columns.T if layer.depthwise else columns
        if layer.bias:
            exponent = made.program.scales[reads[name]]
            operand = 2.0**exponent * bias_operand(made.program.bias_exponents[layer.name], exponent, 16)
            join = np.vstack if layer.depthwise else np.column_stack
            columns = join([columns, layer.module.bias.grad.numpy() * operand])
        steps[name] = -lr * columns
    return steps


def check(module: nn.Module, core: CoreParams, *, tolerance: float = 1.0) -> None:
    """Assert that a student's logits and one step of SGD on a device are torch's, to quantisation error. tolerance: how
    many times that."""
    x, targets = samples()
    made = compiled(module, core=core)
    wanted = module(torch.from_numpy(x)).detach().numpy()
    gradient = (F.softmax(torch.from_numpy(wanted), 1).numpy() - targets).astype(np.float64)
    with open_device(core) as driver:
        driver.load(made.program)
        driver.write_weights(made.masters)
        logits = driver.infer(x)
        np.testing.assert_array_equal(driver.infer(x.reshape(BATCH, -1)), logits)
        driver.train_with(x, lambda _z: gradient)
        after = driver.read_weights()
    # Weights have 13 bits below the largest, activations 15; a few dozen of each in a sum.
    assert np.abs(logits - wanted).max() < tolerance * (4e-4 * np.abs(wanted).max() + 2e-4)
    steps = expected(made, x, gradient)
    assert steps.keys() == after.keys()
    for weight, step in steps.items():
        unit = made.program.initial_format(weight).step
        got = unit * (after[weight].astype(np.int64) - made.masters[weight])
        assert np.abs(step).max() > 1e-4
        atol = tolerance * 1e-3 * np.abs(step).max()
        np.testing.assert_allclose(got, step, rtol=0, atol=atol, err_msg=weight)
