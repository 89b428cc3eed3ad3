"""The learner that has a device: a stage is a program."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from insitu.arch.declaration import Declaration
from insitu.arch.numbers import bias_operand
from insitu.arch.params import CoreParams
from insitu.host.compiler.compile import Compiled, compile_module
from insitu.host.compiler.graph import Layer
from insitu.host.compiler.lower import given, masters
from insitu.host.compiler.rate import with_learning_rate
from insitu.host.compiler.trace import trace
from insitu.host.device.driver import Driver
from insitu.models.curricula.labels import Distributions
from insitu.models.curricula.learner import Gradient
from insitu.models.curricula.pool import UNKNOWN, Images, Logits, Pool
from insitu.models.curricula.stage import Trainable
from insitu.models.curricula.surgery import freeze, new_head, outputs
from insitu.models.labels import one_hot

#: Samples of a stage's pool that its exponents are calibrated on.
CALIBRATION = 256


def deployed(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A student as a device has it, normalisation folded into its convolutions: what device and twin both start from.
    Raises CompileError for parts that no instruction covers."""
    made = trace(copy.deepcopy(module), shape).module
    made.delete_all_unused_submodules()  # a normalisation that has gone into its convolution
    return made


class DeviceLearner:
    """A student on a device. Each stage is compiled anew, from the weights the device then has: exponents calibrated on
    its samples, an update for what is trainable and none for the rest.

    driver: an open device of `core`. module: `deployed`, kept up to date with the device's weights as stages begin.
    declaration, batch: of the programs. seed: of stochastic rounding. Methods raise CompileError or DeviceError.
    """

    def __init__(
        self,
        driver: Driver,
        module: nn.Module,
        *,
        core: CoreParams,
        declaration: Declaration,
        batch: int,
        seed: int,
    ) -> None:
        self.driver, self.module = driver, module
        self._core, self._declaration, self._batch, self._seed = core, declaration, batch, seed
        self._compiled: Compiled | None = None
        self._lr = 0.0

    def begin(self, pool: Pool, trainable: Trainable, lr: float, seed: int, *, another: bool = False) -> None:
        rounding = self._seed + 1
        if self._compiled is not None:
            rounding = self.driver.seed  # it goes on where it was
            self._pull(self._compiled)
        if another or outputs(self.module) != pool.classes:
            new_head(self.module, pool.classes, seed, grown=not another)
        freeze(self.module, trainable)
        some = pool.select(np.random.default_rng(seed).permutation(len(pool))[:CALIBRATION])
        known = some.y != UNKNOWN
        self._compiled = compiled = compile_module(
            self.module,
            core=self._core,
            declaration=self._declaration,
            batch=self._batch,
            calibration=some.x,
            targets=one_hot(some.y, pool.classes) if known.all() else None,
            learning_rate=lr,
            sample_range=1.0,
        )
        self._lr = lr
        self.driver.load(compiled.program)
        self.driver.write_weights(compiled.masters)
        self.driver.seed = rounding

    def set_rate(self, lr: float) -> None:
        if lr != self._lr:
            self.driver.replace_program(with_learning_rate(self.driver.program, lr))
            self._lr = lr

    def logits(self, x: Images) -> Logits:
        return self.driver.infer(x)

    def step(self, x: Images, targets: Distributions) -> None:
        self.driver.train(x, targets)

    def step_with(self, x: Images, gradient: Gradient) -> None:
        self.driver.train_with(x, gradient)

    def cycles(self) -> int:
        found = self.driver.counters.cycles
        self.driver.clear_counters()
        return found

    def _pull(self, compiled: Compiled) -> None:
        """Bring the device's weights into the module."""
        read = self.driver.read_weights()
        for layer in compiled.graph.layers:
            name = masters(layer.name)
            values = np.ldexp(read[name].astype(np.float64), self.driver.format(name).exponent)
            put(layer, values, self._operand(compiled, layer) if layer.bias else 0.0)

    def _operand(self, compiled: Compiled, layer: Layer) -> float:
        """What the bias is multiplied by, as the device's activations now stand."""
        exponent = self.driver.format(given(layer.sources[0])).exponent
        wanted = compiled.program.bias_exponents[layer.name]
        return float(bias_operand(wanted, exponent, self._core.activation_bits) * 2.0**exponent)


def put(layer: Layer, values: npt.NDArray[np.float64], operand: float) -> None:
    """Set a layer's weights to masters' values, as `Layer.masters(operand)` gives them."""
    module: Any = layer.module
    if layer.bias:
        weights, biases = (values[:-1], values[-1]) if layer.depthwise else (values[:, :-1], values[:, -1])
    else:
        weights = values
    # Where each of torch's weights lies in the masters: the layer's own order, of the places of a like module.
    places = copy.deepcopy(module)
    with torch.no_grad():
        count = module.weight.numel()
        assert count < 1 << 24, "places are exact in float32"
        places.weight.copy_(torch.arange(count, dtype=torch.float32).reshape(module.weight.shape))
        order = replace(layer, module=places).weights().astype(np.int64)
        found = np.empty(count, np.float32)
        found[order.reshape(-1)] = weights.reshape(-1)
        module.weight.copy_(torch.from_numpy(found).reshape(module.weight.shape))
        if layer.bias:
            module.bias.copy_(torch.from_numpy((biases * operand).astype(np.float32)))
