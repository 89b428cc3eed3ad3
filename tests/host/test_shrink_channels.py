"""Which channels hang together, that dropping them takes them everywhere, and a device's masters back in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from insitu.arch.declaration import Declaration
from insitu.arch.params import CoreParams
from insitu.host.compiler.compile import compile_module
from insitu.host.compiler.lower import masters
from insitu.host.compiler.trace import trace
from insitu.host.device import open_device
from insitu.host.errors import CheckpointError, HostError
from insitu.host.shrink import twin
from insitu.host.shrink.channels import Dependencies, drop
from insitu.host.shrink.pruning import left
from tests.host.shrinking import SETS, SHAPE, Branches, books, graph, logits, samples


def test_what_hangs_together() -> None:
    kept = books(graph())
    found = {name: kept.channels(kept.group(name)) for name in kept.names}
    assert {name: channels.count for name, channels in found.items()} == SETS
    assert [m.name for m in found["stem"].makers] == ["stem", "deep", "expand"]
    assert {r.layer.name for r in found["stem"].readers} == {"squeeze", "narrow"}
    assert [m.name for m in found["narrow"].makers] == ["narrow", "two"]
    flattened = next(r for r in found["narrow"].readers if r.layer.name == "hidden")
    assert flattened.columns.tolist() == np.arange(24).reshape(6, 4).tolist()


@pytest.mark.parametrize("name", SETS)
def test_channels_that_nobody_listens_to_are_not_missed(name: str) -> None:
    of, x, gone = graph(), samples(4), [1, 3]
    kept = books(of)
    for reader in kept.channels(kept.group(name)).readers:
        with torch.no_grad():
            reader.layer.module.weight[:, reader.columns[gone].ravel()] = 0
    wanted = logits(of, x)
    kept.drop(name, gone)
    found = left(of, SHAPE)
    np.testing.assert_allclose(logits(found, x), wanted, atol=1e-5)
    counted = Dependencies(found, SHAPE)
    assert counted.channels(counted.group(name)).count == SETS[name] - 2


def test_sets_are_dropped_one_after_another_and_frozen_layers_stay_frozen() -> None:
    module = Branches().eval()
    for part in (module.stem, module.norm, module.deep):
        part.requires_grad_(False)
    of = trace(module, SHAPE)
    drop(of, SHAPE, {name: range(count // 2) for name, count in SETS.items()})
    found = left(of, SHAPE)
    assert {layer.name for layer in found.layers if not layer.trained} == {"stem", "deep"}
    counted = books(found)
    assert {n: counted.channels(counted.group(n)).count for n in counted.names} == {
        n: c - c // 2 for n, c in SETS.items()
    }


@pytest.mark.parametrize(("name", "gone"), [("two", [0]), ("nobody", [0]), ("one", [10]), ("one", list(range(10)))])
def test_what_is_not_there_is_not_dropped(name: str, gone: list[int]) -> None:
    with pytest.raises((KeyError, IndexError)):
        books(graph()).drop(name, gone)
    with pytest.raises(CheckpointError, match="does not fit"):
        twin.rebuilt(Branches(), SHAPE, [{name: gone}])


def test_a_student_that_counts_its_features_is_refused() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Linear(144, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.conv(x)).view(x.size(0), 144))

    of = trace(Fixed().eval(), SHAPE)
    drop(of, SHAPE, {"conv": [0]})
    with pytest.raises(HostError, match="cannot do with fewer channels: .*a view of 144 features"):
        left(of, SHAPE)


def test_a_devices_masters_come_back() -> None:
    """Every kind of layer: what is read from a device, put into torch and compiled again is what the device had."""
    declaration = Declaration.parse("w8a8e8g8m16", exponent="static")
    core = CoreParams(n=4, act_depth=8192, err_depth=8192, scales=128).with_declaration(declaration)
    x = samples(16)
    given = {"core": core, "declaration": declaration, "batch": 4, "calibration": x}
    of = graph()
    compiled = compile_module(of.module, **given)
    with open_device(core) as driver:
        driver.load(compiled.program)
        driver.write_weights(compiled.masters)
        driver.train(x[:4], np.eye(5, dtype=np.float32)[[0, 1, 2, 3]])
        snapshot = driver.snapshot()
    assert any((snapshot.masters[name] != q).any() for name, q in compiled.masters.items())
    again = graph()
    twin.load(again, compiled.program, snapshot)
    scales = snapshot.scales[:, 0].tolist()
    for layer in again.layers:
        tensor = compiled.program.tensors[masters(layer.name)]
        read = compiled.program.tensors[twin.given(layer.sources[0])]
        operand = 1 << max(0, min(compiled.program.bias_exponents[layer.name] - scales[read.scale], 6))
        found = layer.masters(operand * 2.0 ** scales[read.scale]) / 2.0 ** scales[tensor.scale]
        np.testing.assert_allclose(found, snapshot.masters[masters(layer.name)], atol=0.01)
