"""timm's own networks beside torch: what the compiler takes without edits."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

from insitu.host.compiler.compile import compile_module
from insitu.host.device import open_device
from tests.host import gradients

#: Memories for the largest of the networks; TAB is as large as a core can have it.
CORE = replace(
    gradients.CORE,
    n=16,
    act_depth=1 << 16,
    err_depth=1 << 16,
    wgt_depth=1 << 18,
    tab_depth=4096,
    program_depth=2048,
    scales=256,
)
BATCH = 2


@pytest.fixture(scope="module")
def timm() -> ModuleType:
    """timm. Its torchvision, made for CUDA, finds no operators of its own beside a torch without: they are declared,
    and nothing here calls them."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("timm")


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "efficientnet_lite0"])
@pytest.mark.parametrize(("changes", "tolerance"), [({}, 0.3), ({"act_layer": "relu"}, 0.005)], ids=["its own", "relu"])
def test_logits_are_torchs(timm: ModuleType, name: str, changes: dict[str, str], tolerance: float) -> None:
    """Unedited, up to 33 activations share TAB, 7 to 10 bits each, and every one of their steps is in the logits: torch
    with such steps is as far from itself. With ReLU, which needs no table, what is left is rounding to 16 bits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model(name, pretrained=False, num_classes=10, **changes).eval()
    x = np.random.default_rng(0).random((BATCH, 3, 32, 32), dtype=np.float32)
    made = compile_module(module, core=CORE, declaration=gradients.WIDE, batch=BATCH, calibration=x)
    with open_device(CORE) as driver:
        driver.load(made.program)
        driver.write_weights(made.masters)
        logits = driver.infer(x)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    assert np.linalg.norm(logits - wanted) < tolerance * np.linalg.norm(wanted)
