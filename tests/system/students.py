"""Networks as users write them, good and bad: the text of files for `--model path/to/file.py:factory`."""

from __future__ import annotations

GOOD = """
from torch import nn

print("a user's own file may say what it likes")


def small(in_shape, classes):
    inputs = in_shape[0] * in_shape[1] * in_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, classes))
"""

BAD = """
from torch import nn


def number():
    return 7


def raises():
    raise RuntimeError("nobody at home")


def leaves():
    raise SystemExit(0)


def wrong_outputs():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def wrong_inputs():
    return nn.Sequential(nn.Flatten(), nn.Linear(63, 10))


def learned():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.PReLU(), nn.Linear(16, 10))


def untraceable():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(64, 10)

        def forward(self, x):
            y = self.inner(x.flatten(1))
            return y if y.sum() > 0 else -y

    return Branches()


def frozen_logits():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU())
"""
