import copy

import numpy as np
import pytest
import torch
from torch import nn

from insitu.models.errors import DivergedError, InvalidInputError
from insitu.models.schedules import SCHEDULES
from insitu.models.students import mlp
from insitu.models.training import accuracy, logits, train

FIXED = {"epochs": 2, "batch": 32, "lr": 0.1, "seed": 0}


def weights(module: nn.Module) -> np.ndarray:
    return torch.cat([p.detach().ravel() for p in module.parameters()]).numpy().copy()


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"optimizer": "adam", "lr": 0.01}, {"schedule": "cosine"}])
def test_learns(blobs, options):
    model = mlp([64, 16, 3], seed=0)
    before = accuracy(model, blobs.x_test, blobs.y_test)
    losses = train(model, blobs.x_train, blobs.y_train, **{**FIXED, "epochs": 15, **options})
    assert len(losses) == 15
    assert losses[-1] < losses[0]
    assert before < 0.7 < 0.95 < accuracy(model, blobs.x_test, blobs.y_test)


def test_one_step_is_plain_gradient_descent(blobs):
    """Against the closed form of softmax regression: dW = (softmax(z) - target)^T x / n."""
    model = mlp([64, 3], seed=0)
    w, b = (p.detach().numpy().astype(np.float64) for p in model.parameters())
    x = blobs.x_train.reshape(len(blobs.x_train), -1).astype(np.float64)
    z = x @ w.T + b
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    soft = np.random.default_rng(0).dirichlet(np.ones(3), len(x)).astype(np.float32)
    error = (p - soft) / len(x)
    losses = train(model, blobs.x_train, soft, epochs=1, batch=len(x), lr=0.5, weight_decay=0.1, seed=0)
    assert losses[0] == pytest.approx(-(soft * np.log(p)).sum(1).mean(), rel=1e-5)
    np.testing.assert_allclose(model[1].weight.detach().numpy(), w - 0.5 * (error.T @ x + 0.1 * w), atol=1e-6)
    np.testing.assert_allclose(model[1].bias.detach().numpy(), b - 0.5 * (error.sum(0) + 0.1 * b), atol=1e-6)


def test_soft_targets_that_are_hard_do_the_same(blobs):
    one, two = mlp([64, 8, 3], seed=0), mlp([64, 8, 3], seed=0)
    train(one, blobs.x_train, blobs.y_train, **FIXED)
    train(two, blobs.x_train, np.eye(3, dtype=np.float32)[blobs.y_train], **FIXED)
    np.testing.assert_allclose(weights(one), weights(two), atol=1e-5)


def test_seed_alone_decides(blobs):
    start = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 3))
    results = []
    for seed, noise in ((1, 10), (1, 11), (2, 10)):
        model = copy.deepcopy(start)
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        train(model, blobs.x_train, blobs.y_train, **{**FIXED, "seed": seed})
        assert torch.equal(state, torch.get_rng_state())
        results.append(weights(model))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_order_does_not_depend_on_what_the_module_draws(blobs):
    orders = []
    for rate in (0.0, 0.5):
        model = nn.Sequential(nn.Flatten(), nn.Dropout(rate), nn.Linear(64, 3))
        seen = []
        model.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0].numpy().copy()))
        train(model, blobs.x_train, blobs.y_train, **FIXED)
        orders.append(np.concatenate(seen))
    assert np.array_equal(orders[0], orders[1])
    first, second = orders[0][:200], orders[0][200:]
    assert not np.array_equal(first, second)
    assert sorted(image.tobytes() for image in first) == sorted(image.tobytes() for image in blobs.x_train)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, 0.853553, 0.5, 0.146447]),
        ("step", [1, 1, 0.1, 0.01]),
    ],
)
def test_schedules_act_at_every_step(schedule, rates):
    """A module whose gradient is constant: the weight's moves are the learning rates."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))
            self.seen = []

        def forward(self, x):
            self.seen.append(self.w.item())
            # softmax(0, 0) - (0, 1) = (1/2, -1/2) whatever w is; w only passes the gradient through.
            passed = self.w - self.w.detach()
            return torch.stack([passed, torch.zeros(())]).expand(len(x), 2)

    model = Constant()
    train(
        model, np.zeros((8, 1), np.float32), np.ones(8, np.int64), epochs=2, batch=4, lr=0.2, seed=0, schedule=schedule
    )
    moves = -np.diff([*model.seen, model.w.item()]) / (0.2 * 0.5)
    np.testing.assert_allclose(moves, rates, rtol=1e-4)
    assert schedule in SCHEDULES


def test_on_epoch_and_modes(blobs):
    seen = []
    model = mlp([64, 3], seed=0).eval()
    losses = train(model, blobs.x_train, blobs.y_train, **FIXED, on_epoch=lambda *report: seen.append(report))
    assert seen == list(enumerate(losses))
    assert not model.training
    model.train()
    logits(model, blobs.x_test)
    assert model.training


def test_frozen_parameters_stay(blobs):
    model = mlp([64, 8, 3], seed=0)
    model[1].requires_grad_(False)
    before = model[1].weight.clone()
    train(model, blobs.x_train, blobs.y_train, **FIXED, weight_decay=0.1)
    assert torch.equal(before, model[1].weight)
    model.requires_grad_(False)
    with pytest.raises(InvalidInputError, match="nothing to train"):
        train(model, blobs.x_train, blobs.y_train, **FIXED)


def test_logits_in_any_batch_and_read_only(blobs):
    model = mlp([64, 8, 3], seed=0)
    x = blobs.x_test.copy()
    x.flags.writeable = False
    whole = logits(model, x)
    assert whole.dtype == np.float32
    assert whole.shape == (100, 3)
    np.testing.assert_allclose(logits(model, x[:, :, :, ::-1], batch=7), logits(model, x[:, :, :, ::-1]), atol=1e-6)
    assert accuracy(model, x, whole.argmax(1)) == 1
    assert accuracy(model, x, (whole.argmax(1) + 1) % 3) == 0


def test_no_epochs_change_nothing(blobs):
    model = mlp([64, 3], seed=0)
    before = weights(model)
    assert train(model, blobs.x_train, blobs.y_train, **{**FIXED, "epochs": 0}) == []
    assert np.array_equal(before, weights(model))


def test_divergence_is_an_error(blobs):
    with pytest.raises(DivergedError, match="at lr 1e"):
        train(mlp([64, 16, 3], seed=0), blobs.x_train * 1e4, blobs.y_train, **{**FIXED, "lr": 1e30, "epochs": 5})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": -1}, "epochs -1"),
        ({"batch": 0}, "batch 0"),
        ({"lr": 0.0}, "lr 0.0"),
        ({"lr": float("nan")}, "lr nan"),
        ({"schedule": "warm"}, "'warm'; allowed are constant"),
        ({"optimizer": "lamb"}, "'lamb'"),
        ({"optimizer": "adam", "momentum": 0.9}, "adam without momentum"),
        ({"momentum": 1.0}, "momentum 1.0"),
        ({"weight_decay": -1.0}, "weight_decay -1.0"),
    ],
)
def test_train_refuses_arguments(blobs, change, says):
    with pytest.raises(InvalidInputError, match=says):
        train(mlp([64, 3], seed=0), blobs.x_train, blobs.y_train, **{**FIXED, **change})


def test_refuses_data(blobs):
    model = mlp([64, 3], seed=0)
    x, y = blobs.x_train, blobs.y_train
    for bad_x, bad_y in ((x.astype(np.float64), y), (x, y[:-1]), (x, y.astype(np.int32)), (x[:0], y[:0])):
        with pytest.raises(InvalidInputError, match="expected float32"):
            train(model, bad_x, bad_y, **FIXED)
    with pytest.raises(InvalidInputError, match="one label an image"):
        accuracy(model, x, y[:-1])
    with pytest.raises(InvalidInputError, match="batches of 0"):
        logits(model, x, batch=0)
