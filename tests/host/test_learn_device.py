"""The learner that has a device: what stages leave alone, and that emulator and RTL learn the same, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from insitu.arch.declaration import Declaration
from insitu.host.compiler.trace import trace
from insitu.host.device import open_device
from insitu.host.learn.device import DeviceLearner, deployed, put
from insitu.host.learn.prepare import Prepared
from insitu.host.learn.replay import Stream
from insitu.host.learn.runner import Run
from insitu.models.curricula.labels import Given, LabelPolicy, Peers, Pseudo, Soft
from insitu.models.curricula.learner import Learner
from insitu.models.curricula.losses import Distilled, GeneralisedCrossEntropy, LogitAdjusted, SymmetricCrossEntropy
from insitu.models.curricula.pencil import Pencil
from insitu.models.curricula.pool import Pool
from insitu.models.curricula.samples import ClassBalanced, Rotations, SamplePolicy, TopK, Uniform
from insitu.models.curricula.stage import Curriculum, Stage, Trainable
from insitu.models.students import mlp
from tests.host import tiny

SIDE, CLASSES, BATCH = 3, 3, 4
CORE = tiny.CORE  # which other tests have compiled
DECLARATION = Declaration.parse("w8a8e8g8m16")


def samples(n: int, seed: int = 0) -> Pool:
    """Square images; the brightest of three pixels is the class."""
    x = np.random.default_rng(seed).random((n, 1, SIDE, SIDE), dtype=np.float32)
    return Pool(x=x, y=x.reshape(n, -1)[:, :CLASSES].argmax(axis=1), classes=CLASSES)


def learner(backend: str = "emulator", seed: int = 0) -> DeviceLearner:
    core = CORE
    module = deployed(mlp([SIDE * SIDE, 6, CLASSES], seed=seed), (1, SIDE, SIDE))
    return DeviceLearner(
        open_device(core, backend), module, core=core, declaration=DECLARATION, batch=BATCH, seed=seed + 5
    )


@pytest.fixture
def one() -> Iterator[DeviceLearner]:
    made = learner()
    yield made
    made.driver.close()


def steps(of: Learner, pool: Pool, count: int = 5) -> None:
    targets = np.eye(CLASSES, dtype=np.float32)[pool.y]
    for first in range(0, count * BATCH, BATCH):
        rows = np.arange(first, first + BATCH) % len(pool)
        of.step(pool.x[rows], targets[rows])


def test_a_new_stage_goes_on_with_the_devices_weights(one: DeviceLearner) -> None:
    pool = samples(40)
    one.begin(pool, Trainable(), lr=0.5, seed=0)
    start = one.driver.read_weights()
    steps(one, pool)
    trained, seed = one.driver.read_weights(), one.driver.seed
    assert any((trained[name] != start[name]).any() for name in start)
    one.begin(pool, Trainable(), lr=0.1, seed=0)
    assert one.driver.seed == seed
    # Exponents may be others now: the values are the same to half a unit in the last place.
    for name, masters in one.driver.read_weights().items():
        was = np.ldexp(trained[name].astype(float), one._compiled.program.initial_format(name).exponent)  # type: ignore[union-attr]
        unit = 2.0 ** one.driver.format(name).exponent
        assert np.abs(masters * unit - was).max() <= unit


def test_frozen_layers_take_no_update(one: DeviceLearner) -> None:
    pool = samples(40)
    one.begin(pool, Trainable.parse("head"), lr=0.5, seed=0)
    start = one.driver.read_weights()
    one.cycles()
    steps(one, pool)
    part = one.cycles()
    names = list(start)
    now = one.driver.read_weights()
    assert [bool((now[name] != start[name]).any()) for name in names] == [False, True]
    one.begin(pool, Trainable(), lr=0.5, seed=0)
    one.cycles()
    steps(one, pool)
    assert one.cycles() > part > 0


def test_another_number_of_classes_is_another_head(one: DeviceLearner) -> None:
    pool = samples(40)
    one.begin(pool, Trainable(), lr=0.5, seed=0)
    first = one.driver.read_weights()
    one.begin(Pool(x=pool.x, y=pool.y, classes=7), Trainable(), lr=0.5, seed=0)
    assert one.logits(pool.x).shape == (40, 7)
    body, head = one.driver.read_weights().values()
    np.testing.assert_array_equal(body, next(iter(first.values())))
    assert head.shape[0] == 7


def test_a_head_that_grows_goes_on_with_the_classes_it_had(one: DeviceLearner) -> None:
    pool = samples(40)
    one.begin(pool, Trainable(), lr=0.5, seed=0)
    steps(one, pool)
    before = one.logits(pool.x)
    one.begin(Pool(x=pool.x, y=pool.y, classes=5), Trainable(), lr=0.5, seed=0)
    after = one.logits(pool.x)
    assert after.shape == (40, 5)
    # Exponents may be others now; a head of other weights would be off by more than answers are large.
    assert np.abs(after[:, :CLASSES] - before).max() < 0.1 * np.abs(before).max()


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(48, 3)),
        nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3, bias=False)),
    ],
)
def test_weights_come_back_as_they_went(module: nn.Module) -> None:
    graph = trace(module, (2, 4, 4))
    for layer in graph.layers:
        values = layer.masters(0.5)
        was = [p.detach().clone() for p in layer.module.parameters()]
        with torch.no_grad():
            for p in layer.module.parameters():
                p.zero_()
        put(layer, values, 0.5)
        for p, wanted in zip(layer.module.parameters(), was, strict=True):
            torch.testing.assert_close(p.detach(), wanted)


def test_normalisation_is_folded_before_anything_is_trained() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, CLASSES))
    module(torch.rand(16, 1, SIDE, SIDE))
    made, x = deployed(module, (1, SIDE, SIDE)), torch.rand(5, 1, SIDE, SIDE)
    torch.testing.assert_close(made(x), module.eval()(x), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in made.modules())


METHODS: list[tuple[SamplePolicy, LabelPolicy, str]] = [
    (Rotations(), Given(), "all"),
    (TopK(k=4, p=2), Given(), "last:2"),
    (Uniform(), Soft(temperature=2.0), "all"),
    (Uniform(), Pseudo(), "head"),
    (ClassBalanced(), Given(weights="effective", beta=0.9), "all"),
    (Uniform(), Peers(), "all"),
    (Stream(order="bursts:2", bytes=100, eviction="margin"), LogitAdjusted(), "all"),
    (Uniform(), Distilled(temperature=2.0), "all"),
    (Uniform(), GeneralisedCrossEntropy(), "all"),
    (Uniform(), SymmetricCrossEntropy(), "all"),
    (Uniform(), Pencil(rate=50.0), "all"),
]


def test_every_method_is_the_same_on_emulator_and_rtl() -> None:
    """A step or three of each, one after another, two students that hear each other."""
    pool, test = samples(10), samples(8, seed=1)
    pools = {"few": pool, "two": pool.select(np.flatnonzero(pool.y < 2))}
    curriculum = Curriculum(
        stages=tuple(
            Stage(pools=("few",), samples=drawn, labels=labels, lr=0.3, trainable=Trainable.parse(moving))
            for drawn, labels, moving in METHODS
        )
        + (Stage(pools=("two",), classes=2, lr=0.3), Stage(pools=("few",), lr=0.3)),  # the head grows
        students=2,
    )

    def teacher(x: np.ndarray) -> np.ndarray:
        return 4 * x.reshape(len(x), -1)[:, :CLASSES]

    found = []
    for backend in ("emulator", "rtl"):
        learners = [learner(backend, seed=k) for k in range(2)]
        try:
            running = Run(curriculum, learners, Prepared(pools=pools, test=test, teacher=teacher), BATCH, seed=3)
            found.append(
                [
                    (running.stage(number), [one.driver.snapshot().to_bytes() for one in learners])
                    for number in range(len(curriculum.stages))
                ]
            )
        finally:
            for one in learners:
                one.driver.close()
    for number, ((ours, masters), (theirs, others)) in enumerate(zip(*found, strict=True)):
        assert ours == theirs, curriculum.stages[number]
        assert masters == others, curriculum.stages[number]
        assert ours.cycles > 0
    # A method that changes nothing would pass as well.
    assert len({masters[0] for _, masters in found[0]}) == len(curriculum.stages)
