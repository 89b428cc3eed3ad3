"""The four criteria: what each throws out, and what ThiNet makes up for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from insitu.arch.declaration import Declaration
from insitu.arch.params import CoreParams
from insitu.host.compiler.compile import compile_module
from insitu.host.compiler.trace import trace
from insitu.host.device import open_device
from insitu.host.device.probe import activations
from insitu.host.errors import DeviceError, HostError
from insitu.host.shrink.channels import Channels
from insitu.host.shrink.contributions import contributions
from insitu.host.shrink.criteria import Chance, ThiNet, WeightSum, Zeros, greedy, rescale
from insitu.host.shrink.pruning import prune
from insitu.host.shrink.zeros import zeros
from insitu.models.students import mlp
from tests.host import tiny
from tests.host.shrinking import SETS, SHAPE, books, graph, logits, samples

#: Of the probe's program.
BATCH = 3


def test_greedy_takes_the_least_each_time() -> None:
    x = np.random.default_rng(0).normal(size=(30, 7))
    gone: list[int] = []
    for channel in greedy(x.T @ x).tolist():
        energy = {j: float((x[:, [*gone, j]].sum(axis=1) ** 2).sum()) for j in range(7) if j not in gone}
        assert channel == min(energy, key=energy.__getitem__)
        gone.append(channel)


def test_rescale_is_least_squares() -> None:
    x, kept = np.random.default_rng(1).normal(size=(40, 6)), np.array([0, 2, 5])
    y = x.sum(axis=1)
    wanted = np.linalg.lstsq(x[:, kept], y, rcond=None)[0]
    np.testing.assert_allclose(rescale(x.T @ x, x.T @ y, kept), wanted, rtol=1e-4)
    dead = x * [1, 1, 0, 1, 1, 1]
    assert rescale(dead.T @ dead, dead.T @ y, kept)[1] == pytest.approx(1)


def test_contributions_add_up_to_what_the_reader_gives() -> None:
    of, x = graph(), samples(20)
    kept = books(of)
    for name in SETS:
        for reader in kept.channels(kept.group(name)).readers:
            found = contributions(of.module, of.module, reader, x, seed=0)
            np.testing.assert_allclose(found.means.sum(axis=1), found.whole, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(found.gram.sum(axis=1), found.cross, rtol=1e-3, atol=1e-4)


class Told(ThiNet):
    """ThiNet that is told which channels go."""

    def scores(self, channels: Channels) -> npt.NDArray[np.float64]:
        super().scores(channels)
        return np.where(np.isin(np.arange(channels.count), [3, 4]), 0.0, 1.0)


@pytest.mark.parametrize("name", ["one", "hidden"])
def test_thinet_makes_up_for_what_others_say(name: str) -> None:
    """A channel that there is twice, and one that always says the same, are not missed."""
    of, x = graph(), samples(24)
    layer = next(one.module for one in of.layers if one.name == name)
    reader = next(one.module for one in of.layers if one.name == {"one": "two", "hidden": "last"}[name])
    with torch.no_grad():
        layer.weight[3], layer.bias[3] = layer.weight[1], layer.bias[1]
        layer.bias[[1, 3]] += 1.0  # they are heard
        # The readers hear both alike: one factor a channel then makes up for the other.
        reader.weight[:, 3] = reader.weight[:, 1]
        layer.weight[4], layer.bias[4] = 0, 0.7
        if name == "one":  # at a map's border a padded kernel meets less of the constant
            reader.weight[:, 4] = 0
    wanted = logits(of, x)
    found, gone = prune(of, SHAPE, {name: SETS[name] - 2}, lambda kept: Told(kept, x, 0))
    assert gone == {name: [3, 4]}
    np.testing.assert_allclose(logits(found, x), wanted, atol=2e-3)


def test_thinet_drops_what_is_least_missed() -> None:
    """Of channels that are all heard the one whose reader hardly hears it, though its own weights are the largest."""
    of, x = graph(), samples(24)
    hidden, last = (next(one.module for one in of.layers if one.name == name) for name in ("hidden", "last"))
    with torch.no_grad():
        hidden.bias += 1.0
        hidden.weight[5] *= 3
        last.weight[:, 5] *= 1e-3
    _, gone = prune(of, SHAPE, {"hidden": SETS["hidden"] - 1}, lambda kept: ThiNet(kept, x, 0))
    assert gone == {"hidden": [5]}


def test_weight_sums() -> None:
    of = graph()
    hidden = next(layer.module for layer in of.layers if layer.name == "hidden")
    with torch.no_grad():
        hidden.weight[[2, 7]] *= 0.01
    _, gone = prune(of, SHAPE, {"hidden": 10}, WeightSum)
    assert gone == {"hidden": [2, 7]}


def test_chance_is_the_seeds() -> None:
    def gone(seed: int) -> dict[str, list[int]]:
        return prune(graph(), SHAPE, {"one": 5, "hidden": 6}, lambda kept: Chance(kept, seed))[1]

    assert gone(1) == gone(1) != gone(2)
    assert {name: len(which) for name, which in gone(1).items()} == {"one": 5, "hidden": 6}


def test_zeros_are_the_devices() -> None:
    """A channel that never fires, one that always does, and the rest as an own forward pass in float32 has them."""
    x, _ = tiny.samples(4 * tiny.BATCH)
    module = mlp([10, 6, 3], seed=3)
    with torch.no_grad():
        module[1].bias[:2] = torch.tensor([-30.0, 30.0])
    compiled = compile_module(
        module, core=tiny.CORE, declaration=Declaration.parse("w8a8e8g8"), batch=tiny.BATCH, calibration=x
    )
    with open_device(tiny.CORE) as driver:
        driver.load(compiled.program)
        driver.write_weights(compiled.masters)
        before = driver.infer(x)
        found = zeros(driver, compiled.graph, np.concatenate([x, x[:1]]))  # whole batches alone are looked at
        assert (driver.infer(x) == before).all()
        assert found.keys() == {"1"}
        assert found["1"][:2].tolist() == [1, 0]
        with pytest.raises(HostError, match="3 stored samples: .* batches, of 4"):
            zeros(driver, compiled.graph, x[:3])
        with pytest.raises(DeviceError, match="'1.weight'"):
            next(activations(driver, x, ["1.weight"]))
    _, gone = prune(trace(module, tiny.SHAPE), tiny.SHAPE, {"1": 5}, lambda made: Zeros(made, found))
    assert gone == {"1": [0]}


def test_a_probe_reads_every_node_of_a_map() -> None:
    """Through pools, sums, products and tables, in memory that is used again: the device's tensors are torch's, to
    what 16 bits hold."""
    declaration = Declaration.parse("w16a16e8g8m24c40", exponent="static")
    core = CoreParams.parse("n=4,act_depth=4096,err_depth=4096,scales=128,program_depth=256").with_declaration(
        declaration
    )
    of, x = graph(), samples(6)
    compiled = compile_module(of.module, core=core, declaration=declaration, batch=BATCH, calibration=x)
    names = [f"{node.name}.y" for node in compiled.graph.nodes if node.name in ("one", "deep", "narrow", "hidden")]
    with open_device(core) as driver:
        driver.load(compiled.program)
        driver.write_weights(compiled.masters)
        pages = list(activations(driver, x, names))
        exponents = {name: driver.format(name).exponent for name in names}
    wanted: dict[str, torch.Tensor] = {}
    for name in names:
        module = compiled.graph.module.get_submodule(name.removesuffix(".y"))
        module.register_forward_hook(lambda _, a, given, name=name: wanted.__setitem__(name, given.detach()))
    logits(compiled.graph, x)
    for name in names:
        found = np.stack([np.ldexp(page[name].astype(np.float64), exponents[name]) for page in pages])
        relu = next(node.relu for node in compiled.graph.nodes if f"{node.name}.y" == name)
        real = (wanted[name].relu() if relu else wanted[name]).flatten(2) if wanted[name].ndim > 2 else wanted[name]
        real = real.relu() if relu else real
        real = real.reshape(len(x), real.shape[1], -1)  # [n, channels, pixels]
        by_page = real.reshape(len(pages), BATCH, *real.shape[1:]).permute(0, 3, 1, 2)  # pixels outermost
        np.testing.assert_allclose(found, by_page.reshape(found.shape), atol=0.02 * float(real.abs().max()))
