"""Targets and losses: every gradient against PyTorch's own derivative of the loss as its paper writes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from insitu.models.curricula.context import Batch, Context
from insitu.models.curricula.labels import Given, HostLoss, Labeller, LabelPolicy, Peers, Pseudo, Soft
from insitu.models.curricula.losses import (
    Distilled,
    GeneralisedCrossEntropy,
    LogitAdjusted,
    SymmetricCrossEntropy,
)
from insitu.models.curricula.pencil import Pencil
from insitu.models.curricula.pool import UNKNOWN, Logits, Pool
from insitu.models.errors import InvalidInputError

CLASSES, N = 5, 40
RNG = np.random.default_rng(0)
Z = RNG.normal(size=(8, CLASSES)).astype(np.float32)
TAUGHT = RNG.normal(size=(N, CLASSES)).astype(np.float32)
ROWS = np.array([3, 1, 4, 17, 5, 9, 2, 6])
POOL = Pool(
    x=np.arange(N, dtype=np.float32).reshape(N, 1, 1, 1),
    y=np.concatenate([np.arange(CLASSES), RNG.integers(0, 2, N - CLASSES)]),
    classes=CLASSES,
)


def context(pool: Pool = POOL) -> Context:
    taught = TAUGHT
    return Context(
        pool=pool,
        batch=8,
        seed=(0,),
        teacher=lambda x: taught[x[:, 0, 0, 0].astype(int)],
        student=lambda x: -taught[x[:, 0, 0, 0].astype(int)],
    )


def batch(pool: Pool = POOL, peers: list[Logits] | None = None) -> Batch:
    return Batch(rows=ROWS, x=pool.x[ROWS], y=pool.y[ROWS], own=lambda: Z, peers=lambda: peers or [])


def labeller(policy: LabelPolicy, pool: Pool = POOL) -> Labeller:
    found = policy.begin(pool, context(pool))
    assert not isinstance(found, HostLoss)
    return found


def device_gradient(targets: Logits) -> Logits:
    """What the device makes of targets, docs/arithmetic.md's LOSS in float."""
    p = torch.softmax(torch.from_numpy(Z), 1).numpy()
    return p * targets.sum(axis=1, keepdims=True) - targets


def derivative(loss: Callable[[Tensor], Tensor]) -> Logits:
    """dL/dz of the summed loss."""
    z = torch.from_numpy(Z.copy()).requires_grad_()
    (found,) = torch.autograd.grad(loss(z), z)
    return found.numpy()


Y = torch.from_numpy(POOL.y[ROWS])
TEACHER = torch.from_numpy(TAUGHT[ROWS])


def _distilled(z: Tensor) -> Tensor:
    t = 3.0
    soft = F.kl_div(F.log_softmax(z / t, 1), F.softmax(TEACHER / t, 1), reduction="sum") * t**2
    return 0.4 * F.cross_entropy(z, Y, reduction="sum") + 0.6 * soft


def _adjusted(z: Tensor) -> Tensor:
    prior = torch.bincount(torch.from_numpy(POOL.y), minlength=CLASSES) / N
    return F.cross_entropy(z + 0.5 * prior.log(), Y, reduction="sum")


def _generalised(z: Tensor) -> Tensor:
    p = F.softmax(z, 1).gather(1, Y[:, None])
    return ((1 - p**0.7) / 0.7).sum()


def _symmetric(z: Tensor) -> Tensor:
    log_label = torch.where(F.one_hot(Y, CLASSES) == 1, 0.0, -4.0)
    reverse = -(F.softmax(z, 1) * log_label).sum()
    return 0.3 * F.cross_entropy(z, Y, reduction="sum") + 0.8 * reverse


@pytest.mark.parametrize(
    ("policy", "loss"),
    [
        (Distilled(share=0.6, temperature=3.0), _distilled),
        (LogitAdjusted(tau=0.5), _adjusted),
        (GeneralisedCrossEntropy(q=0.7), _generalised),
        (SymmetricCrossEntropy(alpha=0.3, beta=0.8), _symmetric),
    ],
)
def test_gradients_worked_out_by_the_host(policy: LabelPolicy, loss: Callable[[Tensor], Tensor]) -> None:
    found = policy.begin(POOL, context())
    assert isinstance(found, HostLoss)
    np.testing.assert_allclose(found.gradient(batch(), Z), derivative(loss), atol=2e-6)


def test_pencil_moves_student_and_labels_along_their_derivatives() -> None:
    alpha, beta, rate = 0.3, 0.7, 50.0
    given = context()
    learning = Pencil(rate=rate, alpha=alpha, beta=beta).begin(POOL, given)
    assert isinstance(learning, HostLoss)
    start = given.memory["pencil"].copy()
    np.testing.assert_array_equal(start, 10 * F.one_hot(torch.from_numpy(POOL.y), CLASSES).numpy())
    # Somewhere between labels, where every term counts.
    given.memory["pencil"][:] = start = start * 0.1 + RNG.normal(size=start.shape).astype(np.float32)

    u, z = (torch.from_numpy(v).requires_grad_() for v in (start[ROWS].copy(), Z.copy()))
    f, log_f, log_d = F.softmax(z, 1), F.log_softmax(z, 1), F.log_softmax(u, 1)
    classification = (f * (log_f - log_d)).sum() / CLASSES
    compatibility = -log_d.gather(1, Y[:, None]).sum()
    entropy = -(f * log_f).sum() / CLASSES
    of_z, of_u = torch.autograd.grad(classification + alpha * compatibility + beta * entropy, (z, u))

    np.testing.assert_allclose(learning.gradient(batch(), Z), of_z.numpy(), atol=2e-6)
    moved = given.memory["pencil"]
    np.testing.assert_allclose(moved[ROWS], start[ROWS] - rate / len(ROWS) * of_u.numpy(), atol=1e-4)
    others = np.setdiff1d(np.arange(N), ROWS)
    np.testing.assert_array_equal(moved[others], start[others])

    # The third stage goes on with them and leaves them.
    frozen = Pencil(rate=0.0, alpha=0.0, beta=0.0).begin(POOL, given)
    assert isinstance(frozen, HostLoss)
    before = moved.copy()
    frozen.gradient(batch(), Z)
    np.testing.assert_array_equal(given.memory["pencil"], before)


def test_peers_targets_are_mutual_learning() -> None:
    peers = [RNG.normal(size=Z.shape).astype(np.float32) for _ in range(2)]
    found = labeller(Peers())

    def loss(z: Tensor) -> Tensor:
        sent = [F.softmax(torch.from_numpy(p), 1) for p in peers]
        towards = sum(F.kl_div(F.log_softmax(z, 1), p, reduction="sum") for p in sent)
        return F.cross_entropy(z, Y, reduction="sum") + towards / len(sent)

    given = device_gradient(found.targets(batch(peers=peers)))
    np.testing.assert_allclose(found.rate * given, derivative(loss), atol=2e-6)
    with pytest.raises(InvalidInputError, match="students = 2"):
        found.targets(batch())


def test_weights_of_classes_keep_the_loss_as_large_and_targets_within_one() -> None:
    found = labeller(Given(weights="effective", beta=0.9))
    n = POOL.counts().astype(float)
    weight = ((1 - 0.9) / (1 - 0.9**n))[POOL.y]
    weight /= weight.mean()
    targets = found.targets(batch())
    assert targets.max() <= 1
    np.testing.assert_allclose(found.rate * targets.sum(axis=1), weight[ROWS], rtol=1e-5)
    inverse = labeller(Given(weights="inverse"))
    rare, common = (inverse.targets(batch())[place == ROWS].sum() for place in (4, 17))
    assert rare / common == pytest.approx(n[POOL.y[17]] / n[POOL.y[4]])
    plain = labeller(Given())
    assert plain.rate == 1
    np.testing.assert_array_equal(plain.targets(batch()), np.eye(CLASSES, dtype=np.float32)[POOL.y[ROWS]])


def test_soft_and_pseudo_labels_are_whose_they_say() -> None:
    blind = Pool(x=POOL.x, y=np.full(N, UNKNOWN), classes=CLASSES)
    soft = labeller(Soft(temperature=2.0), blind).targets(batch(blind))
    np.testing.assert_allclose(soft, F.softmax(TEACHER / 2, 1).numpy(), atol=1e-6)
    own = labeller(Pseudo(threshold=0.5), blind).targets(batch(blind))
    p = F.softmax(-TEACHER, 1).numpy()
    np.testing.assert_array_equal(own.sum(axis=1) == 1, p.max(axis=1) >= 0.5)
    assert 0 < own.sum() < len(own)
    sure = own.sum(axis=1) == 1
    np.testing.assert_array_equal(own[sure].argmax(axis=1), p[sure].argmax(axis=1))
    # Where a label came, it is used.
    told = labeller(Pseudo(threshold=1.0)).targets(batch())
    np.testing.assert_array_equal(told.argmax(axis=1), POOL.y[ROWS])


@pytest.mark.parametrize(
    "policy",
    [
        Given(),
        Soft(share=0.5),
        Distilled(),
        LogitAdjusted(),
        GeneralisedCrossEntropy(),
        SymmetricCrossEntropy(),
        Pencil(),
    ],
)
def test_labels_that_are_needed_and_not_there(policy: LabelPolicy) -> None:
    blind = Pool(x=POOL.x, y=np.where(np.arange(N) == 7, UNKNOWN, POOL.y), classes=CLASSES)
    with pytest.raises(InvalidInputError, match="1 of 40 samples have no label"):
        policy.begin(blind, context(blind))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Given(eps=1.0),
        lambda: Given(weights="heavy"),  # type: ignore[arg-type]
        lambda: Soft(temperature=0.0),
        lambda: Pseudo(threshold=2.0),
        lambda: Peers(share=1.0),
        lambda: Distilled(share=-0.1),
        lambda: LogitAdjusted(tau=-1.0),
        lambda: GeneralisedCrossEntropy(q=0.0),
        lambda: SymmetricCrossEntropy(floor=1.0),
        lambda: Pencil(rate=float("nan")),
    ],
)
def test_options_out_of_range(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidInputError, match="allowed are"):
        make()
