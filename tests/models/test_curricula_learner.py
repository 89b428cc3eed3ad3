"""The float32 twin, what of a student moves, and new heads."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from insitu.models.curricula.learner import FloatLearner
from insitu.models.curricula.pool import Pool
from insitu.models.curricula.stage import Curriculum, Stage, Trainable
from insitu.models.curricula.surgery import freeze, layers, new_head, outputs
from insitu.models.errors import InvalidInputError
from insitu.models.students import mlp

RNG = np.random.default_rng(0)
X = RNG.random((6, 1, 2, 3), dtype=np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])
POOL = Pool(x=X, y=Y, classes=3)


def test_a_step_is_torchs_own() -> None:
    module = mlp([6, 5, 3], seed=0)
    wanted = copy.deepcopy(module)
    learner = FloatLearner(module, batch=6)
    learner.begin(POOL, Trainable(), lr=0.3, seed=0)
    learner.step(X, np.eye(3, dtype=np.float32)[Y])

    rule = torch.optim.SGD(wanted.parameters(), lr=0.3)
    F.cross_entropy(wanted(torch.from_numpy(X)), torch.from_numpy(Y)).backward()
    rule.step()
    for ours, theirs in zip(module.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_smaller_batch_and_a_target_of_less_weigh_less() -> None:
    targets = np.eye(3, dtype=np.float32)[Y]
    moved = []
    for x, t in ((X[:3], targets[:3]), (X, targets * (np.arange(6) < 3)[:, None].astype(np.float32))):
        module = mlp([6, 3], seed=0)
        start = copy.deepcopy(module)
        learner = FloatLearner(module, batch=6)
        learner.begin(POOL, Trainable(), lr=0.3, seed=0)
        learner.step(x, t)
        moved.append([a - b for a, b in zip(module.parameters(), start.parameters(), strict=True)])
    for a, b in zip(*moved, strict=True):
        torch.testing.assert_close(a, b)
        assert a.abs().max() > 0


@pytest.mark.parametrize(("text", "moving"), [("all", 3), ("head", 1), ("last:2", 2)])
def test_only_what_is_trainable_moves(text: str, moving: int) -> None:
    module = mlp([6, 16, 12, 3], seed=0)
    start = copy.deepcopy(module)
    learner = FloatLearner(module, batch=6)
    learner.begin(POOL, Trainable.parse(text), lr=0.3, seed=0)
    learner.step(X, np.eye(3, dtype=np.float32)[Y])
    changed = [
        not torch.equal(a.weight, b.weight)  # type: ignore[arg-type]
        for a, b in zip(layers(module), layers(start), strict=True)
    ]
    assert changed == [False] * (3 - moving) + [True] * moving


def test_a_new_head_is_the_seeds_and_leaves_the_rest() -> None:
    modules = [mlp([6, 5, 3], seed=0) for _ in range(3)]
    before = torch.random.get_rng_state()
    for module, seed in zip(modules, (1, 1, 2), strict=True):
        new_head(module, 4, seed)
    assert torch.equal(before, torch.random.get_rng_state())
    assert [outputs(m) for m in modules] == [4, 4, 4]
    first, same, other = (layers(m)[-1].weight for m in modules)
    assert torch.equal(first, same)  # type: ignore[arg-type]
    assert not torch.equal(first, other)  # type: ignore[arg-type]
    assert torch.equal(layers(modules[0])[0].weight, layers(mlp([6, 5, 3], seed=0))[0].weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [2, 5])
def test_a_grown_head_keeps_what_it_knew(classes: int) -> None:
    module = mlp([6, 5, 3], seed=0)
    old = [p.detach().clone() for p in layers(module)[-1].parameters()]
    new_head(module, classes, 1, grown=True)
    made, fresh = list(layers(module)[-1].parameters()), mlp([6, 5, 3], seed=0)
    new_head(fresh, classes, 1)
    for now, was, begun in zip(made, old, layers(fresh)[-1].parameters(), strict=True):
        n = min(len(now), len(was))
        assert torch.equal(now[:n], was[:n])
        assert torch.equal(now[n:], begun[n:])
    learner = FloatLearner(module, batch=6)
    learner.begin(Pool(x=X, y=Y, classes=7), Trainable(), lr=0.3, seed=0)
    assert outputs(module) == 7
    assert torch.equal(layers(module)[-1].weight[:classes], made[0])  # type: ignore[index]
    grown = layers(module)[-1].weight
    learner.begin(Pool(x=X, y=Y, classes=7), Trainable(), lr=0.3, seed=0, another=True)
    assert outputs(module) == 7
    assert not torch.equal(layers(module)[-1].weight, grown)  # type: ignore[arg-type]


def test_refusals() -> None:
    with pytest.raises(InvalidInputError, match="'most'; allowed are all, head"):
        Trainable.parse("most")
    with pytest.raises(InvalidInputError, match="last 4 layers of a student that has 2"):
        freeze(mlp([6, 5, 3], seed=0), Trainable(4))
    with pytest.raises(InvalidInputError, match="ReLU|Conv2d"):
        new_head(nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten()), 4, 0)
    with pytest.raises(InvalidInputError, match="schedule 'slow'"):
        Stage(pools=("a",), schedule="slow")
    with pytest.raises(InvalidInputError, match="classes 1"):
        Stage(pools=("a",), classes=1)
    with pytest.raises(InvalidInputError, match="0 stages"):
        Curriculum(stages=())
    with pytest.raises(InvalidInputError, match="lr -1"):
        Stage(pools=("a",), lr=-1)
