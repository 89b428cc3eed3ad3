"""What the compiler refuses, in one line that says what is wrong and what to do; learning rates."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from insitu.arch.declaration import Declaration, RoleFormat
from insitu.host.compiler import rate
from insitu.host.compiler.compile import compile_module
from insitu.host.errors import CompileError
from insitu.models.students import mlp
from tests.host import tiny
from tests.host.tiny import BATCH, CLASSES

CALIBRATION, TARGETS = tiny.samples(16, seed=1)
FEATURES = CALIBRATION[0].size


def compile_tiny(module: nn.Module | None = None, **changes: Any) -> None:
    given: dict[str, Any] = {
        "core": tiny.CORE,
        "declaration": Declaration.parse("w8a8e8g8"),
        "batch": BATCH,
        "calibration": CALIBRATION,
    }
    compile_module(module or mlp([FEATURES, tiny.HIDDEN, CLASSES], seed=3), **given | changes)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor, _other: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


class Untraceable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def linear(inputs: int = FEATURES, outputs: int = CLASSES) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def test_all_that_is_unsupported_is_named_at_once() -> None:
    module = nn.Sequential(nn.LPPool2d(1, 1), nn.Flatten(), linear(FEATURES, 6), nn.PReLU(), linear(6), nn.Softmax(1))
    with pytest.raises(CompileError) as refused:
        compile_tiny(module)
    message = str(refused.value)
    for name, kind in (("_0", "LPPool2d"), ("_3", "PReLU"), ("_5", "Softmax")):
        assert f"{name} ({kind})" in message
    assert "supported: Conv2d (groups 1, or depthwise), BatchNorm2d after a Conv2d, MaxPool2d" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("module", "quoted"),
    [
        (TwoInputs(), "one input tensor"),
        (Untraceable(), "cannot trace Untraceable"),
        (nn.Sequential(nn.Flatten()), "no Conv2d or Linear layer"),
        (nn.Sequential(nn.Flatten(), linear(), nn.ReLU()), "ReLU follows the last layer"),
        (nn.Sequential(nn.Flatten(), nn.ReLU(), linear()), "a ReLU follows a Conv2d or Linear"),
        (nn.Sequential(nn.Flatten(0), linear()), "Flatten"),
        (nn.Sequential(linear(), nn.Flatten(), linear(CLASSES)), "Flatten comes before"),
        (nn.Sequential(nn.Flatten(), linear(FEATURES, 6), nn.ReLU(), linear(5)), "'3' takes 5 features, '1'.*gives 6"),
    ],
)
def test_networks_that_are_none(module: nn.Module, quoted: str) -> None:
    with pytest.raises(CompileError, match=quoted):
        compile_tiny(module)


def test_a_layer_used_twice_is_refused() -> None:
    shared = linear(FEATURES, FEATURES)
    with pytest.raises(CompileError, match="1"):
        compile_tiny(nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared, nn.ReLU(), linear()))


def test_width_the_core_lacks() -> None:
    declaration = replace(Declaration.parse("w8a8e8g8"), layers={"3": {"activation": RoleFormat(width=12)}})
    with pytest.raises(CompileError, match="layer '3': activation of 12 bits, this core's has 8") as refused:
        compile_tiny(declaration=declaration)
    assert "'1'" not in str(refused.value)
    with pytest.raises(CompileError, match="accumulator of 24 bits: this core's has 32"):
        compile_tiny(declaration=Declaration.parse("w8a8e8g8c24"))


@pytest.mark.parametrize(
    ("memory", "tensor"), [("act", "sample 4x10"), ("err", "1.error 4x6"), ("wgt", "1.weight 6x11")]
)
def test_what_does_not_fit_names_memory_need_and_remedy(memory: str, tensor: str) -> None:
    core = replace(tiny.CORE, **{f"{memory}_depth": 10})
    with pytest.raises(CompileError) as refused:
        compile_tiny(core=core)
    message = str(refused.value)
    assert f"{memory.upper()} holds 10 words of 4 elements" in message
    assert tensor in message
    remedy = re.search(rf"{memory}_depth=(\d+)", message)
    assert remedy is not None
    compile_tiny(core=replace(core, **{f"{memory}_depth": int(remedy[1])}))
    with pytest.raises(CompileError, match=f"{remedy[1]} are needed"):
        compile_tiny(core=replace(core, **{f"{memory}_depth": int(remedy[1]) - 1}))


def test_every_memory_too_small_is_named() -> None:
    with pytest.raises(CompileError, match="ACT holds.*ERR holds.*WGT holds"):
        compile_tiny(core=replace(tiny.CORE, act_depth=4, err_depth=4, wgt_depth=4))


def test_more_than_the_core_can_ever_hold() -> None:
    with pytest.raises(CompileError, match="70000"):
        compile_tiny(batch=70000)
    with pytest.raises(CompileError, match="instructions"):
        compile_tiny(core=replace(tiny.CORE, program_depth=8))


@pytest.mark.parametrize(
    ("changes", "quoted"),
    [
        ({"batch": 0}, "batch 0"),
        ({"batch": -3}, "batch -3"),
        ({"batch": 32.0}, r"batch 32\.0: must be an integer"),
        ({"sample_range": float("nan")}, "sample_range nan"),
        ({"sample_range": -1.0}, r"sample_range -1\.0"),
        ({"calibration": CALIBRATION[:0]}, r"calibration of shape \(0, 1, 2, 5\)"),
        ({"calibration": CALIBRATION[..., :-1]}, "10 features"),
        ({"calibration": CALIBRATION.reshape(-1)}, r"calibration of shape \(160,\)"),
        ({"calibration": np.full_like(CALIBRATION, np.nan)}, "nan"),
        ({"targets": TARGETS[:-1]}, "targets"),
        ({"targets": TARGETS[:, :-1]}, "targets"),
        ({"learning_rate": -0.1}, "-0.025"),
        ({"learning_rate": float("nan")}, "nan"),
        ({"learning_rate": 1e6}, "250000"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], quoted: str) -> None:
    with pytest.raises(CompileError, match=quoted):
        compile_tiny(**changes)


def test_unknown_layer_in_the_declaration() -> None:
    declaration = replace(Declaration.parse("w8a8e8g8"), layers={"fc9": {"weight": RoleFormat(width=4)}})
    with pytest.raises(CompileError, match=r"\['fc9'\]: this student's are 1, 3"):
        compile_tiny(declaration=declaration)


# Learning rates.


def test_rates_are_near() -> None:
    for wanted in np.geomspace(2.0**-56, 255, 4001).tolist():
        m, k = rate.encode(wanted)
        assert 0 < m < 256
        assert 0 <= k <= rate.SHIFT_MAX
        assert rate.decode(m, k) == pytest.approx(wanted, rel=0.004)
    assert rate.decode(*rate.encode(0.0)) == 0


def test_the_smallest_rates_are_the_nearest() -> None:
    for steps in np.geomspace(0.6, 200, 101).tolist():
        m, k = rate.encode(steps * 2.0**-rate.SHIFT_MAX)
        assert abs(rate.decode(m, k) * 2.0**rate.SHIFT_MAX - steps) <= 0.5


@pytest.mark.parametrize("bad", [-1e-3, float("nan"), float("inf"), 257.0, 1e9, 2.0**-66])
def test_rates_that_cannot_be(bad: float) -> None:
    with pytest.raises(CompileError, match=re.escape(repr(bad))):
        rate.encode(bad)


IMAGES = np.resize(CALIBRATION, (8, 1, 4, 4))


def small_cnn(*parts: nn.Module) -> nn.Module:
    """Over samples of one channel of 4 x 4 pixels."""
    return nn.Sequential(nn.Conv2d(1, 2, 3), *parts, nn.Flatten(), nn.LazyLinear(CLASSES))


@pytest.mark.parametrize(
    ("module", "lacks", "message"),
    [
        (
            small_cnn(nn.ReLU(), nn.MaxPool2d(2)),
            {"windows": 0, "vector": 0},
            "layer '0' takes windows=1; layer '2' takes windows=1: this core has windows=0",
        ),
        (
            small_cnn(nn.Tanh(), nn.MaxPool2d(2)),
            {"windows": 0, "vector": 0},
            "layer '0' takes windows=1; layer '1' takes windows=1 and vector=1; layer '2' takes windows=1: "
            "this core has windows=0 and vector=0",
        ),
        (small_cnn(nn.Tanh()), {"vector": 0}, "layer '1' takes vector=1: this core has vector=0"),
    ],
)
def test_units_that_a_core_lacks_are_named(module: nn.Module, lacks: dict[str, int], message: str) -> None:
    module(torch.zeros(1, 1, 4, 4))
    with pytest.raises(CompileError, match=f"^{re.escape(message)}$"):
        compile_tiny(module, core=replace(tiny.CORE, **lacks), calibration=IMAGES)


def test_a_kernel_of_the_whole_map_takes_no_windows() -> None:
    """Its samples come as patches: one, the whole of them."""
    module = nn.Sequential(nn.Conv2d(1, 2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(2, CLASSES))
    compile_tiny(module, core=replace(tiny.CORE, windows=0, vector=0), calibration=IMAGES)
