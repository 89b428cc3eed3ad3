"""Random students, formats and batches on a few cores: what test_sweep.py compares emulator and RTL on.

A case follows from its seed alone. Several share a core, because compiling one is what costs: the cores are few and
their datapaths wide or odd, and each case declares widths of its own up to its core's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from insitu.arch.declaration import WIDTHS, Declaration, ExponentPolicy, Role, RoleFormat
from insitu.arch.numbers import Overflow, Rounding
from insitu.arch.optimizer import Optimizer
from insitu.arch.params import CoreParams
from insitu.host.compiler.compile import Compiled, compile_module
from tests.system.sweep_students import PARTS, student

_DEPTHS = {"act_depth": 3000, "err_depth": 3000, "wgt_depth": 1500, "tab_depth": 256, "program_depth": 160}
_WIDEST = {f"{role}_bits": WIDTHS[role][1] for role in Role}
#: Cores by name, and how many perceptrons and convolutional students each has.
CORES: dict[str, tuple[CoreParams, int, int]] = {
    "n4-widest": (CoreParams(n=4, **_DEPTHS, **_WIDEST), 10, 10),
    "n4-odd": (
        CoreParams(
            n=4,
            weight_bits=5,
            master_bits=11,
            activation_bits=7,
            error_bits=3,
            gradient_bits=13,
            accumulator_bits=19,
            target_bits=6,
            **_DEPTHS,
        ),
        6,
        8,
    ),
    "n8-widest": (CoreParams(n=8, **_DEPTHS, **_WIDEST), 8, 10),
    "n8-odd": (
        CoreParams(
            n=8,
            weight_bits=9,
            master_bits=17,
            activation_bits=4,
            error_bits=10,
            gradient_bits=6,
            accumulator_bits=23,
            target_bits=12,
            **_DEPTHS,
        ),
        6,
        6,
    ),
    "n16": (
        CoreParams(
            n=16, weight_bits=10, activation_bits=9, accumulator_bits=28, scales=128, windows=0, vector=0, **_DEPTHS
        ),
        12,
        0,
    ),
    "n32": (
        CoreParams(
            n=32,
            weight_bits=4,
            master_bits=8,
            activation_bits=5,
            error_bits=4,
            gradient_bits=6,
            accumulator_bits=16,
            target_bits=4,
            **_DEPTHS,
        ),
        2,
        2,
    ),
    "n8-products": (CoreParams(n=8, gradient_bits=11, windows=0, vector=0, **_DEPTHS), 6, 0),
}


@dataclass(frozen=True, kw_only=True)
class SweepCase:
    """A student's training on a core: `steps` steps, an inference, a step with a loss of the host's.

    sizes, biases: of a perceptron's Linear layers; parts: of a convolutional student's (sweep_students.py), whose
    samples have `shape`. stalls: probability that streams and bus wait, each cycle.
    """

    seed: int
    core_name: str
    sizes: tuple[int, ...]
    biases: tuple[bool, ...]
    declaration: Declaration
    batch: int
    steps: int
    learning_rate: float
    optimizer: Optimizer
    stalls: float
    shape: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def core(self) -> CoreParams:
        return CORES[self.core_name][0]

    @property
    def roles(self) -> tuple[RoleFormat, ...]:
        return tuple(self.declaration.role(role) for role in Role)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(fmt.width for fmt in self.roles)

    @property
    def roundings(self) -> tuple[Rounding, ...]:
        return tuple(fmt.rounding for fmt in self.roles)

    @property
    def exponents(self) -> tuple[ExponentPolicy, ...]:
        return tuple(fmt.exponent for fmt in self.roles)

    @property
    def what(self) -> tuple[object, ...]:
        """What makes it another case than the others."""
        return self.sizes, self.shape, self.parts, self.core.n, self.widths, self.roundings, self.exponents, self.batch

    def __str__(self) -> str:
        roundings = "".join(rounding.name[0].lower() for rounding in self.roundings)
        network = "-".join(map(str, (*self.shape, *self.parts) if self.parts else self.sizes))
        return f"seed{self.seed}:{self.core_name}:{network}:{self.declaration.short}:{roundings}:batch{self.batch}"

    @property
    def generator(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def module(self) -> nn.Module:
        if self.parts:
            channels, height, width = self.shape
            return student(self.seed, (channels, height, width), self.parts, self.sizes[-1])
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for inputs, outputs, bias in zip(self.sizes, self.sizes[1:], self.biases, strict=False):
                layers += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def data(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Samples of both signs and soft targets, a few more than a batch, so that batches differ."""
        count = self.batch + 3
        x = self.generator.standard_normal((count, *(self.shape or self.sizes[:1]))).astype(np.float32)
        targets = self.generator.dirichlet(np.full(self.sizes[-1], 0.3), count).astype(np.float32)
        return x, targets

    def compiled(self) -> Compiled:
        x, targets = self.data()
        return compile_module(
            self.module(),
            core=self.core,
            declaration=self.declaration,
            batch=self.batch,
            calibration=x,
            targets=targets,
            learning_rate=self.learning_rate,
            **self.optimizer.to_json(),
        )


def draw(core_name: str, seed: int, *, mapped: bool) -> SweepCase:
    """The case of a seed on a core. mapped: a convolutional student."""
    core = CORES[core_name][0]
    generator = random.Random(f"{core_name} {seed}")

    def width(role: Role) -> int:
        if role is Role.ACCUMULATOR:
            return core.accumulator_bits
        highest = core.width(role)
        return highest if generator.random() < 0.2 else generator.randint(WIDTHS[role][0], highest)

    def adaptive(role: Role) -> RoleFormat:
        return RoleFormat(
            width=width(role),
            rounding=generator.choice(list(Rounding)),
            overflow=generator.choice(list(Overflow)),
            exponent=generator.choice([ExponentPolicy.STATIC, ExponentPolicy.DELAYED]),
        )

    weight = width(Role.WEIGHT)
    declaration = Declaration(
        weight=RoleFormat(width=weight, rounding=generator.choice([Rounding.FLOOR, Rounding.NEAREST])),
        master=RoleFormat(width=max(weight, width(Role.MASTER)), rounding=generator.choice(list(Rounding))),
        activation=adaptive(Role.ACTIVATION),
        error=adaptive(Role.ERROR),
        gradient=adaptive(Role.GRADIENT),
        accumulator=RoleFormat(width=core.accumulator_bits, overflow=Overflow.WRAP),
        target=RoleFormat(width=width(Role.TARGET)),
    )
    layers = generator.choice([1, 2, 2, 3])
    # Sides around the array's: one short of it, it, one more, and whatever lies between.
    sides = [1, 2, core.n - 1, core.n, core.n + 1, generator.randint(2, 21), generator.randint(2, 21)]
    sizes = tuple(generator.choice(sides) for _ in range(layers + 1))
    shape: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()
    if mapped:
        shape = (generator.randint(1, 5), generator.randint(3, 6), generator.randint(3, 6))
        parts = tuple(generator.choice(PARTS) for _ in range(generator.randint(1, 3)))
    batch = generator.choice([b for b in range(1, 6 if mapped else 16) if b % core.n])
    steps, learning_rate = generator.randint(1, 2 if mapped else 3), 2.0 ** generator.uniform(-5, 1)
    stalls = generator.choice([0.0, 0.0, 0.0, 0.4])
    optimizer = Optimizer()
    if core.momentum_bits and generator.random() < 0.7:
        optimizer = Optimizer(
            momentum=generator.choice([0.0, 0.5, 0.9]),
            weight_decay=generator.choice([0.0, 1e-3, 0.05]),
            micro_batches=generator.choice([parts for parts in (1, 2, 3) if batch % parts == 0]),
        )
    if not optimizer.plain:
        # Wide enough that velocities reach their masters.
        bits = max(width(Role.MOMENTUM), min(16, declaration.master.width - 10))
        momentum = RoleFormat(width=bits, rounding=generator.choice(list(Rounding)))
        declaration = replace(declaration, momentum=momentum)
    return SweepCase(
        seed=seed,
        core_name=core_name,
        sizes=(*sizes[:-1], max(2, sizes[-1])),
        biases=tuple(generator.random() < 0.7 for _ in range(layers)),
        declaration=declaration,
        batch=batch,
        steps=steps,
        shape=shape,
        parts=parts,
        learning_rate=learning_rate,
        optimizer=optimizer,
        stalls=stalls,
    )


@cache
def cases() -> tuple[SweepCase, ...]:
    """All of them, those of a core together. Seeds are numbered through."""
    out: list[SweepCase] = []
    for name, (_, perceptrons, mapped) in CORES.items():
        for index in range(perceptrons + mapped):
            out.append(draw(name, len(out), mapped=index >= perceptrons))
    return tuple(out)
