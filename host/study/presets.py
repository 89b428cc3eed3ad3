"""Published settings of integer training by name, each with what of its paper the device, or we, do otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from insitu.arch.declaration import Declaration, Role
from insitu.arch.numbers import Rounding
from insitu.sim.rules import Rules


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published setting.

    rules: what only the emulator does (sim/rules.py). train: what of [train] it sets. magnitudes: (share of the run
    done, bits of the normalised gradient) from then on; empty where the learning rate is a rate. exponents: "fan-in"
    for NITRO-D's scaling, a number for one exponent of all tensors. loss_rounding: of the loss gradient, where it is
    not that of other errors. deviations: from the paper, a sentence each.
    """

    name: str
    paper: str
    declaration: Declaration
    rules: Rules = field(default_factory=Rules)
    train: Mapping[str, Any] = field(default_factory=dict)
    magnitudes: tuple[tuple[float, int], ...] = ()
    exponents: Literal["fan-in"] | int | None = None
    loss_rounding: Rounding | None = None
    deviations: tuple[str, ...] = ()

    def bits(self, done: float) -> int:
        """Bits of the normalised gradient when a share `done` of the run, 0 to 1, is over."""
        return next(bits for since, bits in reversed(self.magnitudes) if done >= since)


_NITI = Declaration.parse("w8a8e8g8m8", exponent="exact").with_roles(Role.GRADIENT, rounding=Rounding.PSEUDO)
_WAGE = Declaration.parse("w2a8e8g8m8", exponent="exact").with_roles(Role.ERROR, rounding=Rounding.NEAREST)
_MOVING = (Role.ACTIVATION, Role.ERROR, Role.GRADIENT)
_FLOORED = (Role.WEIGHT, Role.MASTER, *_MOVING)

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="niti",
            paper='Wang et al., "NITI: Training Integer Neural Networks Using Integer-only Arithmetic", 2020',
            declaration=_NITI.with_roles(Role.ERROR, rounding=Rounding.NEAREST).with_roles(
                Role.MASTER, rounding=Rounding.FLOOR
            ),
            loss_rounding=Rounding.STOCHASTIC,
            rules=Rules(symmetric=True, ceiling=True, normalised=True, integer_loss=True),
            magnitudes=((0.0, 5), (0.5, 4), (0.75, 3)),
            deviations=(
                "formulas of requantisation, gradient, update and loss are the paper's; ties of activations and errors "
                "go to even",
                "the loss gradient is rounded by the device's generators, floor(x + r), which has the paper's mean",
                "layers have biases, as a column of their weights beside a constant operand; the paper's have none",
                "initial weights are PyTorch's, at an exponent with two bits to spare; the paper's fill eight bits",
                "5, 4 and 3 bits of gradient over 1/2, 1/4 and 1/4 of the run: its 200 epochs of CIFAR-10, scaled",
                "the last epoch is reported; the paper's best is chosen on the test set",
            ),
        ),
        Preset(
            name="nitro-d",
            paper='Pirillo et al., "NITRO-D: Native Integer-only Training of Deep Convolutional Neural Networks", 2024',
            declaration=Declaration.parse("w16a8e16g16m24", exponent="static").with_roles(
                *_FLOORED, rounding=Rounding.FLOOR
            ),
            train={"lr": 0.05},
            exponents="fan-in",
            deviations=(
                "only the scaling is the paper's: an activation is the sum over 2**8 fan_in, here with the power of "
                "two at or above fan_in, and floored where the paper truncates",
                "what the integers stand for is ours: activations reach 4, weights have the exponent that is left",
                "activations are ReLU; the paper's is leaky by 1/4 with a mean subtracted",
                "one softmax loss at the end; the paper trains blocks by local squared losses",
                "errors and gradients of 16 bits with calibrated exponents; the paper's have no set width",
                "no weight decay; a rate of 0.05, for beyond it activations saturate, and their gradient still passes",
            ),
        ),
        Preset(
            name="wage",
            paper='Wu et al., "Training and Inference with Integers in Deep Neural Networks", 2018',
            declaration=_WAGE.with_roles(Role.MASTER, rounding=Rounding.FLOOR),
            rules=Rules(symmetric=True, ceiling=True, normalised=True),
            magnitudes=((0.0, 3), (0.6, 0), (0.8, -3)),
            deviations=(
                "widths are the paper's (weights 2, activations, errors and stored weights 8 bits), and so is "
                "the update: the gradient over its range, times the rate (8, 1, 1/8), rounded stochastically",
                "ranges are powers of two above the largest, the paper's the nearest power of two",
                "activations have an exponent of their own range, the paper's stay within +-1 with a layer's factor",
                "softmax and cross-entropy, the paper's loss is the squared error",
                "first and last layer are quantised as all others; the paper leaves the last one's error as it is",
                "initial weights are PyTorch's, the paper's are scaled up to its two bits",
            ),
        ),
        Preset(
            name="q2.7",
            paper='Dey et al., "Accelerating training of deep neural networks on FPGAs by sparsity", 2018',
            declaration=Declaration.parse("w10a10e10g10m10t10", exponent="static").with_roles(
                Role.WEIGHT, *_MOVING, rounding=Rounding.NEAREST
            ),
            train={"batch": 1, "lr": 0.001, "schedule": "constant"},
            exponents=-7,
            deviations=(
                "all tensors are 10 bits of exponent -7, samples one by one, as in the paper; sums are of 32 bits and "
                "narrowed once, the paper's are clipped on the way",
                "updates round stochastically: at so few samples a step most would otherwise be lost",
                "all connections are there, the paper's are sparse by design",
                "ReLU and the device's softmax; the paper's tables are of the sigmoid. ReLU saturates at 4 with its "
                "gradient passing, so the rate is held at 0.001",
            ),
        ),
    )
}
