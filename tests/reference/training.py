"""The program of one training step of a chain of layers: linear ones, convolutions and pools, all of them windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.numbers import Overflow, Rounding
from insitu.arch.params import CoreParams
from tests.reference.drawing import velocities

Place = tuple[int, int]  #: (base, pitch)
Side = tuple[int, ...]  #: (height, width)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """`inputs` and `outputs` are channels; no window is a linear layer."""

    inputs: int
    outputs: int
    bias: int = 0
    window: dict[str, int] = field(default_factory=dict)
    pool: bool = False

    def pixels(self, what: str) -> int:
        """Of the "map" or "out"."""
        return self.window.get(f"{what}_height", 1) * self.window.get(f"{what}_width", 1)

    @property
    def taps(self) -> int:
        return self.window.get("kernel_height", 1) * self.window.get("kernel_width", 1)

    def only(self, *what: str) -> dict[str, int]:
        """The fields of the window that a LOAD or STORE is told."""
        return {name: value for name, value in self.window.items() if name.startswith(what)}


def convolution(side: Side, kernel: Side, stride: int, pad: int) -> dict[str, int]:
    """The window of a convolution of every place where the kernel fits; `stride` is the field."""
    out = [(length + 2 * pad - taps) // (1 + stride) + 1 for length, taps in zip(side, kernel, strict=True)]
    return {**_sides(side, out, kernel), "stride": stride, "pad_height": pad, "pad_width": pad}


def pooling(side: Side, kernel: Side) -> dict[str, int]:
    """The window of a pool that leaves no pixel out: those at the end may be smaller."""
    return _sides(side, [-(-length // taps) for length, taps in zip(side, kernel, strict=True)], kernel)


def _sides(side: Side, out: list[int], kernel: Side) -> dict[str, int]:
    extents = {"map": side, "out": out, "kernel": kernel}
    return {f"{name}_{axis}": pair[k] for name, pair in extents.items() for k, axis in enumerate(("height", "width"))}


def learning_rate(rng: np.random.Generator) -> int:
    """An lr_mul: mostly a small one."""
    return int(rng.integers(1, 8) if rng.integers(2) else rng.integers(256))


@dataclass(kw_only=True)
class Training:
    """The instructions of one training step. Buffers follow one another in each memory."""

    rng: np.random.Generator
    core: CoreParams
    batch: int
    layers: list[Layer]
    policy: str
    overflow: Overflow
    forward_rounding: Rounding
    error_rounding: Rounding
    gradient_rounding: Rounding
    update_rounding: Rounding

    def __post_init__(self) -> None:
        self.common: dict[str, Any] = {"overflow": self.overflow} | ({self.policy: 1} if self.policy else {})
        self.weight: dict[str, Any] = {
            "weight_width": self.core.weight_bits,
            "weight_shift": min(31, self.core.master_bits - self.core.weight_bits),
            "weight_rounding": Rounding(int(self.rng.integers(2))),
        }
        self.top = dict.fromkeys(Memory, 0)
        first, last = self.layers[0], self.layers[-1]
        shapes = [(first.pixels("map"), first.inputs), *((la.pixels("out"), la.outputs) for la in self.layers)]
        self.acts = [self._allocate(Memory.ACT, pixels * self.batch, [cols]) for pixels, cols in shapes]
        self.errs = [self._allocate(Memory.ERR, pixels * self.batch, [cols]) for pixels, cols in shapes]
        self.targets = self._allocate(Memory.ERR, self.batch, [last.outputs])
        self.weights = [self._kernel(layer) for layer in self.layers]
        # A pool moves elements: its output has the scales of its input. Registers: 0.. activations, 8.. weights,
        # 16.. errors, 24.. gradients, 32 targets.
        self.scale = [0]
        for k, layer in enumerate(self.layers):
            self.scale.append(self.scale[-1] if layer.pool else k + 1)

    def _allocate(self, memory: Memory, rows: int, groups: list[int]) -> Place:
        pitch = sum(-(-cols // self.core.n) for cols in groups)
        base = self.top[memory]
        self.top[memory] += rows * pitch
        return base, pitch

    def _kernel(self, layer: Layer) -> Place:
        if layer.pool:
            return 0, 0
        one = layer.taps == 1
        groups = [layer.inputs + layer.bias] if one else [layer.inputs] * layer.taps + [1] * layer.bias
        return self._allocate(Memory.WGT, layer.outputs, groups)

    def instructions(self) -> list[Instruction]:
        """From LOAD to STORE and HALT."""
        layers = range(len(self.layers))
        out = self._loads()
        out += [self._forward(k) for k in layers]
        out.append(self._loss())
        for k in reversed(layers):
            if self.layers[k].pool:
                out.append(self._unpool(k))
                continue
            out += [self._backward(k)] if k > 0 else []
            out.append(self._update(k))
        return out + self._stores() + [Instruction(opcode=Opcode.HALT)]

    def _loads(self) -> list[Instruction]:
        first, last = self.layers[0], self.layers[-1]
        load = {"opcode": Opcode.LOAD, "rows": self.batch}
        out = [
            Instruction(**load, memory=Memory.ACT, cols=first.inputs, **first.only("map"), **_at(d=self.acts[0])),
            Instruction(**load, memory=Memory.ERR, cols=last.outputs, **_at(d=self.targets)),
        ]
        if self.rng.integers(2):
            out.append(Instruction(opcode=Opcode.LOAD, **self._moved(first), **_at(d=self.weights[0])))
        return out

    def _stores(self) -> list[Instruction]:
        last, final = self.layers[-1], self.acts[-1]
        logits = {"memory": Memory.ACT, "rows": self.batch, "cols": last.outputs}
        store = {"opcode": Opcode.STORE}
        return [
            Instruction(**store, **logits, **_at(a=final)),
            Instruction(**store, **self._moved(self.layers[0]), **_at(a=self.weights[0])),
        ]

    @staticmethod
    def _moved(layer: Layer) -> dict[str, Any]:
        """A layer's weights as LOAD and STORE are told of them: of a kernel only where it has several taps."""
        sizes = {"rows": layer.outputs, "cols": layer.inputs + layer.bias}
        kernel = {"bias": layer.bias, **layer.only("kernel")} if layer.taps > 1 else {}
        return {"memory": Memory.WGT, **sizes, **kernel}

    def _forward(self, k: int) -> Instruction:
        layer, relu = self.layers[k], int(k != len(self.layers) - 1)
        if layer.pool:
            places = _at(a=self.acts[k], d=self.acts[k + 1])
            return Instruction(opcode=Opcode.POOL, rows=self.batch, cols=layer.inputs, **layer.window, **places)
        return Instruction(
            opcode=Opcode.FORWARD,
            **(self.common | self.weight | layer.window),
            **_at(a=self.acts[k], b=self.weights[k], d=self.acts[k + 1]),
            rows=self.batch,
            cols=layer.outputs,
            depth=layer.inputs + layer.bias,
            bias=layer.bias,
            relu=relu,
            width=self.core.activation_bits,
            rounding=self.forward_rounding,
            sa=self.scale[k],
            sb=8 + k,
            sd=self.scale[k + 1],
            bias_exponent=-2 * layer.bias,
        )

    def _loss(self) -> Instruction:
        return Instruction(
            opcode=Opcode.LOSS,
            **(self.common | _at(a=self.acts[-1], b=self.targets, d=self.errs[-1])),
            rows=self.batch,
            cols=self.layers[-1].outputs,
            width=self.core.error_bits,
            rounding=self.error_rounding,
            sa=self.scale[-1],
            sb=32,
            sd=16 + self.scale[-1],
        )

    def _unpool(self, k: int) -> Instruction:
        layer = self.layers[k]
        places = _at(a=self.errs[k + 1], b=self.acts[k], d=self.errs[k])
        window = layer.window
        return Instruction(opcode=Opcode.UNPOOL, mask=1, rows=self.batch, cols=layer.inputs, **window, **places)

    def _backward(self, k: int) -> Instruction:
        layer = self.layers[k]
        # Behind a pool, UNPOOL masks: what is not above 0 has no error.
        mask = int(not self.layers[k - 1].pool)
        places = _at(a=self.errs[k + 1], b=self.weights[k], d=self.errs[k]) | (_at(m=self.acts[k]) if mask else {})
        return Instruction(
            opcode=Opcode.BACKWARD,
            **(self.common | self.weight | layer.window | places),
            rows=self.batch,
            cols=layer.inputs,
            depth=layer.outputs,
            mask=mask,
            width=self.core.error_bits,
            rounding=self.error_rounding,
            sa=16 + self.scale[k + 1],
            sb=8 + k,
            sd=16 + self.scale[k],
        )

    def _update(self, k: int) -> Instruction:
        layer = self.layers[k]
        return Instruction(
            opcode=Opcode.UPDATE,
            **(self.common | layer.window | _at(a=self.errs[k + 1], b=self.acts[k], d=self.weights[k])),
            rows=layer.outputs,
            cols=layer.inputs + layer.bias,
            depth=self.batch,
            bias=layer.bias,
            width=self.core.gradient_bits,
            master_width=self.core.master_bits,
            rounding=self.gradient_rounding,
            update_rounding=self.update_rounding,
            lr_mul=learning_rate(self.rng),
            lr_shift=int(self.rng.integers(12)),
            **velocities(self.rng, self.core),
            sa=16 + self.scale[k + 1],
            sb=self.scale[k],
            sd=24 + k,
            sm=8 + k,
            bias_exponent=-2 * layer.bias,
        )


def _at(**places: Place) -> dict[str, int]:
    """a=(base, pitch) -> a_base, a_pitch."""
    return {f"{name}_{part}": place[k] for name, place in places.items() for k, part in enumerate(("base", "pitch"))}
