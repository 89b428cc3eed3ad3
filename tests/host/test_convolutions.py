"""Convolutional students in fixed point beside torch: logits, and every weight's step, at sixteen bits."""

from __future__ import annotations

from dataclasses import replace
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
from insitu.host.train import TrainPolicy, accuracy, train
from insitu.models.convolutional import lenet
from insitu.models.datasets import load
from insitu.models.labels import one_hot

NEAREST = {role.value: Rounding.NEAREST for role in (Role.ACTIVATION, Role.ERROR, Role.GRADIENT, Role.MASTER)}
WIDE = Declaration.parse("w16a16e16g16m32c48t16", exponent="static", rounding=NEAREST)
CORE = CoreParams(n=4, act_depth=8192, err_depth=8192, wgt_depth=4096).with_declaration(WIDE)
SHAPE, CLASSES, BATCH, LR = (2, 8, 7), 3, 3, 0.25


def norm(channels: int) -> nn.BatchNorm2d:
    """A BatchNorm2d that has seen something."""
    made = nn.BatchNorm2d(channels)
    nn.init.uniform_(made.weight, 0.5, 2)
    nn.init.uniform_(made.bias, -0.3, 0.3)
    assert made.running_mean is not None
    assert made.running_var is not None
    made.running_mean.uniform_(-0.3, 0.3)
    made.running_var.uniform_(0.5, 2)
    return made


def head(*layers: nn.Module) -> nn.Sequential:
    """Layers, then a Linear over whatever map they leave."""
    with torch.no_grad():
        features = nn.Sequential(*layers).eval()(torch.zeros(1, *SHAPE)).numel()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, CLASSES))


#: Each has the layer it is named for above another, so that errors go back through it.
STUDENTS: dict[str, Any] = {
    "stride 1": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 3)),
    "stride 2": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 3, stride=2), nn.ReLU()),
    "padded": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 3, padding=1), nn.ReLU()),
    "padded, stride 2": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 5, padding=2, stride=2), nn.ReLU()),
    "rectangular": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, (2, 3), padding=(0, 1)), nn.ReLU()),
    "one tap": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 1), nn.ReLU()),
    "one tap, padded": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 1, padding=1, bias=False), nn.ReLU()),
    "one tap, stride 2": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 1, stride=2), nn.ReLU()),
    "same": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, (3, 1), padding="same"), nn.ReLU()),
    "no bias": lambda c: head(c, nn.ReLU(), nn.Conv2d(5, 6, 3, bias=False), nn.ReLU()),
    "relu, pool": lambda c: head(c, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, 2), nn.ReLU(), nn.MaxPool2d((2, 1))),
    "pool, relu": lambda c: head(c, nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(5, 6, 2), nn.MaxPool2d((2, 1)), nn.ReLU()),
    "pool alone": lambda c: head(c, nn.MaxPool2d((2, 1)), nn.Conv2d(5, 6, 2), nn.ReLU()),
    "pool of a pool": lambda c: head(c, nn.ReLU(), nn.MaxPool2d(2), nn.MaxPool2d((1, 2)), nn.Conv2d(5, 6, 1)),
    "ceil": lambda c: head(c, nn.ReLU(), nn.MaxPool2d(3, ceil_mode=True), nn.Conv2d(5, 6, 2)),
    "folded": lambda c: head(c, norm(5), nn.ReLU(), nn.Conv2d(5, 6, 3, bias=False), norm(6), nn.ReLU()),
    "pooled sample": lambda c: head(nn.MaxPool2d(2), c, nn.ReLU()),
    "deep head": lambda c: nn.Sequential(*head(c, nn.ReLU())[:-1], nn.Linear(5 * 6 * 5, 9), nn.ReLU(), nn.Linear(9, 3)),
}


def student(name: str) -> nn.Sequential:
    """A student of STUDENTS in evaluation mode, above a 3 x 3 convolution."""
    # Seeds with no value so near zero, and no two so near one another, that rounding them takes a ReLU or a pool the
    # other way.
    torch.manual_seed(100 + len(name))
    return STUDENTS[name](nn.Conv2d(2, 5, 3)).eval()


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
    update = next(i for i in made.program.instructions if i.opcode is Opcode.UPDATE)
    lr = rate.decode(update.lr_mul, update.lr_shift)
    assert lr * BATCH == pytest.approx(LR, rel=0.01)
    masters = {t.matrix: name for name, t in made.program.tensors.items() if t.role is Role.MASTER}
    reads = {masters[i.d]: i.sb for i in made.program.entry("train") if i.opcode is Opcode.UPDATE}
    steps = {}
    for layer in made.graph.layers:
        name = f"{layer.name}.weight"
        weight = layer.module.weight.grad.numpy()
        taps = weight[0, 0].size if weight.ndim > 2 else layer.window.taps
        columns = weight.reshape(layer.outputs, -1, taps).transpose(0, 2, 1).reshape(layer.outputs, -1)
        if layer.bias:
            exponent = made.program.scales[reads[name]]
            operand = 2.0**exponent * bias_operand(made.program.bias_exponents[layer.name], exponent, 16)
            columns = np.column_stack([columns, layer.module.bias.grad.numpy() * operand])
        steps[name] = -lr * columns
    return steps


@pytest.mark.parametrize("n", [4, 16])
@pytest.mark.parametrize("name", STUDENTS)
def test_logits_and_steps_are_torchs(name: str, n: int) -> None:
    module, core = student(name), replace(CORE, n=n)
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
    assert np.abs(logits - wanted).max() < 4e-4 * np.abs(wanted).max() + 2e-4
    steps = expected(made, x, gradient)
    assert steps.keys() == after.keys()
    for weight, step in steps.items():
        unit = made.program.initial_format(weight).step
        got = unit * (after[weight].astype(np.int64) - made.masters[weight])
        assert np.abs(step).max() > 1e-4
        np.testing.assert_allclose(got, step, rtol=0, atol=1e-3 * np.abs(step).max(), err_msg=weight)


@pytest.mark.parametrize("exponents", ["delayed", "exact"])
def test_exponents_that_move(exponents: Any) -> None:
    module = student("relu, pool")
    declaration = Declaration.parse("w8a8e8g8", exponent=exponents)
    core = CORE.with_declaration(declaration)
    made = compiled(module, core=core, declaration=declaration)
    x, targets = samples()
    with open_device(core) as driver:
        driver.load(made.program)
        driver.write_weights(made.masters)
        losses = []
        for _ in range(30):
            z = torch.from_numpy(driver.train(x, targets))
            losses.append(float(-(torch.from_numpy(targets) * F.log_softmax(z, 1)).sum(1).mean()))
    assert losses[-1] < 0.5 * losses[0]


def test_a_batch_may_be_short() -> None:
    made = compiled(student("padded"))
    x, targets = samples()
    with open_device(CORE) as driver:
        driver.load(made.program)
        driver.write_weights(made.masters)
        whole = driver.infer(x)
        np.testing.assert_array_equal(driver.infer(x[:1]), whole[:1])
        np.testing.assert_array_equal(driver.train(x[:2], targets[:2]), whole[:2])


def test_lenet_learns_digits() -> None:
    torch.set_num_threads(1)
    dataset = load("digits")
    x, test = (np.kron(part, np.ones((2, 2), np.float32)) for part in (dataset.x_train, dataset.x_test))
    torch.manual_seed(0)
    module = lenet((1, 16, 16), 10)
    core = CoreParams(n=8, act_depth=32768, err_depth=16384, wgt_depth=16384)
    declaration = Declaration.parse("w8a8e8g8")
    targets = one_hot(dataset.y_train, 10)
    made = compile_module(
        module,
        core=core,
        declaration=declaration,
        batch=32,
        calibration=x[:128],
        targets=targets[:128],
        sample_range=1.0,
    )
    with open_device(core) as driver:
        driver.load(made.program)
        driver.write_weights(made.masters)
        before = accuracy(driver, test, dataset.y_test)
        train(driver, x, targets, TrainPolicy(epochs=6, lr=0.2))
        after = accuracy(driver, test, dataset.y_test)
    assert before < 0.3
    assert after > 0.8  # in float32 0.88
