"""NITI's preset beside its formulas, written down again in plain integers: bit for bit, whole training steps.

Wang et al., "NITI: Training Integer Neural Networks Using Integer-only Arithmetic" (2020), sections III-A to III-C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from insitu.arch.params import PRESETS as CORES
from insitu.host.device import open_device
from insitu.host.study import arms
from insitu.host.study.arms import _normalised
from insitu.host.study.presets import PRESETS
from insitu.host.study.setting import Setting
from insitu.models import datasets, labels
from insitu.sim.rules import ceiling_bits, integer_loss
from tests.reference.numbers import lane_seed, xorshift

Matrix = list[list[int]]
NITI = PRESETS["niti"]
BATCH, STEPS = 16, 6


def bits(values: Matrix) -> int:
    """b = ceil(log2(max|x|)); 0 where all are 0."""
    largest = max(abs(x) for row in values for x in row)
    return math.ceil(math.log2(largest)) if largest else 0


def clipped(x: int) -> int:
    return max(-127, min(127, x))


def requantised(values: Matrix, exponent: int) -> tuple[Matrix, int]:
    """s = b - 7; where s > 0, clip(round(x / 2**s)) and exponent + s; else nothing changes."""
    s = bits(values) - 7
    if s <= 0:
        return values, exponent
    return [[clipped(round(x / 2**s)) for x in row] for row in values], exponent + s


def pseudo(x: int, s: int) -> int:
    """Pseudo-stochastic rounding of x / 2**s."""
    if s <= 0:
        return x
    r = int(abs(x) / 2**s) * (1 if x >= 0 else -1)
    p = abs(x - r * 2**s)
    h = s // 2
    hi, lo = p >> h, p & (2**h - 1)
    if s % 2:
        lo <<= 1
    return clipped(r + (hi > lo) * (1 if x >= 0 else -1))


def updated(weights: Matrix, gradient: Matrix, m: int) -> Matrix:
    """W <- clip(W - Psto(G, b - m))."""
    s = bits(gradient) - m
    return [
        [clipped(w - pseudo(g, s)) for w, g in zip(*rows, strict=True)] for rows in zip(weights, gradient, strict=True)
    ]


def cross_entropy(a: list[int], exponent: int, label: int) -> list[int]:
    """Its integer cross-entropy: a gradient of 11 fractional bits."""
    if exponent > -7:
        s = [int(x * 47274 / 2**15) for x in a]
        s = [x * 2**exponent if exponent >= 0 else int(x / 2**-exponent) for x in s]
        p = [2 ** max(x - (max(s) - 10), 0) - 1 for x in s]
    else:
        p = [2 ** (1 - 2 * exponent) + x * 2 ** (1 - exponent) + x * x for x in a]
    g = [x * 2**11 // sum(p) for x in p]
    g[label] -= sum(g)
    return g


def narrowed(g: Matrix, seed: int, n: int) -> Matrix:
    """To 7 fractional bits by the device's stochastic rounding: rows after one another, the blocks of a row as well."""
    states = [lane_seed(seed, lane, 0) for lane in range(n)]
    found = []
    for row in g:
        out = []
        for first in range(0, len(row), n):
            states = [xorshift(state) for state in states]
            out += [clipped((x + state % 16) // 16) for x, state in zip(row[first : first + n], states, strict=False)]
        found.append(out)
    return found


def product(a: Matrix, b: Matrix) -> Matrix:
    """A B."""
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a]


def turned(a: Matrix) -> Matrix:
    return [list(column) for column in zip(*a, strict=True)]


@dataclass
class Perceptron:
    """Two layers with biases as a last column of their weights, beside a constant operand; exponents of weights."""

    first: Matrix
    second: Matrix
    exponents: tuple[int, int]
    operands: Any  # of a layer and the exponent of what it reads
    n: int

    def step(self, x: Matrix, x_exponent: int, y: list[int], m: int, seed: int) -> int:
        """A training step; the seed after it."""
        one = [[*row, self.operands(0, x_exponent)] for row in x]
        hidden = [[max(0, v) for v in row] for row in product(one, turned(self.first))]
        hidden, exponent = requantised(hidden, x_exponent + self.exponents[0])
        two = [[*row, self.operands(1, exponent)] for row in hidden]
        logits, last = requantised(product(two, turned(self.second)), exponent + self.exponents[1])
        error = narrowed([cross_entropy(row, last, label) for row, label in zip(logits, y, strict=True)], seed, self.n)
        back = product(error, [row[:-1] for row in self.second])
        back = [[v if h > 0 else 0 for v, h in zip(*rows, strict=True)] for rows in zip(back, hidden, strict=True)]
        back, _ = requantised(back, 0)
        self.second = updated(self.second, product(turned(error), two), m)
        self.first = updated(self.first, product(turned(back), one), m)
        return xorshift(seed)


def test_training_steps_are_the_papers_formulas() -> None:
    dataset = datasets.load("digits")
    core = CORES["tiny4"].with_declaration(NITI.declaration)
    setting = Setting(
        arm="insitu",
        student="mlp:64-12-10",
        data="digits",
        holdout=0.0,
        seeds=(0,),
        epochs=1,
        batch=BATCH,
        lr=1.0,
        schedule="constant",
        declaration=NITI.declaration,
        core=core,
        preset="niti",
    )
    made = arms.compiled(setting, dataset, ".", 0)
    program = made.program
    layers = ("1", "3")
    targets = labels.one_hot(dataset.y_train, 10)
    with open_device(core, rules=NITI.rules) as driver:
        driver.load(program)
        driver.write_weights(made.masters)
        driver.seed = 7
        weights = [made.masters[f"{name}.weight"].tolist() for name in layers]

        def operand(layer: int, exponent: int) -> int:
            wanted = program.bias_exponents[layers[layer]] - exponent
            return 2 ** max(0, min(6, wanted))

        exponents = tuple(driver.format(f"{name}.weight").exponent for name in layers)
        own = Perceptron(weights[0], weights[1], exponents, operand, core.n)  # type: ignore[arg-type]
        seed, moved = 7, 0
        for step in range(STEPS):
            done = step / STEPS
            driver.replace_program(_normalised(program, NITI)(done))
            rows = slice(step * BATCH, (step + 1) * BATCH)
            x = driver.quantise("sample", dataset.x_train[rows])
            before = own.first
            seed = own.step(
                x.tolist(), driver.format("sample").exponent, dataset.y_train[rows].tolist(), NITI.bits(done), seed
            )
            driver.train(x, targets[rows])
            found = driver.read_weights()
            assert found["1.weight"].tolist() == own.first, f"step {step}"
            assert found["3.weight"].tolist() == own.second, f"step {step}"
            assert driver.seed == seed
            moved += before != own.first
    assert moved == STEPS, "nothing was learned: the steps compare nothing"
    assert {NITI.bits(step / STEPS) for step in range(STEPS)} == {5, 4, 3}


@pytest.mark.parametrize("exponent", [-30, -24, -9, -7, -6, -3, 0, 3])
def test_its_loss(exponent: int) -> None:
    rng = np.random.default_rng(exponent + 100)
    z = rng.integers(-127, 128, (20, 10))
    y = rng.integers(0, 10, 20)
    t = np.zeros((20, 10), np.int64)
    t[np.arange(20), y] = 127
    t[-1] = 0
    found = integer_loss(z, t, exponent).tolist()
    floor = max(exponent, -24)
    assert (
        found[:-1] == [cross_entropy(row, floor, label) for row, label in zip(z.tolist(), y.tolist(), strict=True)][:-1]
    )
    assert found[-1] == [0] * 10  # a row of no targets trains nothing


@pytest.mark.parametrize("largest", [0, 1, 2, 3, 4, 5, 127, 128, 129, 2**20 - 1, 2**20, 2**20 + 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_its_range(largest: int, sign: int) -> None:
    values = np.array([[sign * largest, 0, -1 if largest else 0]])
    assert ceiling_bits(values) == bits(values.tolist())
