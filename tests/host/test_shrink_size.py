"""How many channels stay: the largest student within a share of what it takes, off the compiled program."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest

from insitu.arch.declaration import Declaration, Role
from insitu.arch.errors import ArchError
from insitu.arch.params import CoreParams
from insitu.host.compiler.compile import compile_module
from insitu.host.compiler.graph import Graph
from insitu.host.errors import HostError
from insitu.host.shrink.price import Price
from insitu.host.shrink.request import Shrink, bits, narrowed
from insitu.host.shrink.size import Sizes, uniform
from insitu.sim import cycles
from tests.host.shrinking import SETS, SHAPE, graph, samples

DECLARATION = Declaration.parse("w8a8e8g8")
CORE = CoreParams(n=4, act_depth=8192, err_depth=8192, scales=128).with_declaration(DECLARATION)


def compiled(of: Graph) -> Price:
    made = compile_module(of.module, core=CORE, declaration=DECLARATION, batch=2, calibration=samples(4))
    return Price.of(made.program)


@cache
def sizes() -> Sizes:
    return Sizes(graph=graph(), shape=SHAPE, compiled=compiled, lanes=CORE.n)


def test_the_price_is_the_programs() -> None:
    made = compile_module(graph().module, core=CORE, declaration=DECLARATION, batch=2, calibration=samples(4))
    price = Price.of(made.program)
    assert price.cycles == cycles.report(made.program, "train").cycles > price.inference
    assert price.parameters == sum(q.size for q in made.masters.values())
    found = price.to_json(clock=50)
    assert found["trained_per_second"] == pytest.approx(50e6 * 2 / price.cycles)


@pytest.mark.parametrize("measure", ["cycles", "parameters"])
def test_the_largest_within_a_share(measure: str) -> None:
    found = sizes()
    now = compiled(graph())
    keep = found.largest(0.7, measure, now)  # type: ignore[arg-type]
    price = found.price(keep)
    assert isinstance(price, Price)
    budget = 0.7 * now.measured(measure)  # type: ignore[arg-type]
    assert price.measured(measure) <= budget  # type: ignore[arg-type]
    ratio = min(kept / SETS[name] for name, kept in keep.items())
    larger = found.price(uniform(SETS, ratio + 0.25))
    assert isinstance(larger, Price)
    assert larger.measured(measure) > budget  # type: ignore[arg-type]
    assert found.counts == SETS  # the student itself stays as it is


def test_shares_of_channels_and_what_cannot_be() -> None:
    now = compiled(graph())
    assert sizes().largest(0.5, "channels", now) == {n: c // 2 for n, c in SETS.items()}
    assert min(sizes().largest(0.01, "channels", now).values()) == 1
    with pytest.raises(
        HostError, match=r"cycles to 0.01, [\d,]+: with one channel of each layer the student takes [\d,]+"
    ):
        sizes().largest(0.01, "cycles", now)


def test_bits_are_roles_that_come_down() -> None:
    assert bits("act=6,weight=4") == {Role.ACTIVATION: 6, Role.WEIGHT: 4}
    found = narrowed(DECLARATION, bits("act=6"))
    assert found == dataclasses.replace(DECLARATION, activation=dataclasses.replace(DECLARATION.activation, width=6))
    layered = dataclasses.replace(DECLARATION, layers={"one": {"activation": DECLARATION.activation}})
    assert narrowed(layered, {Role.ACTIVATION: 6}).at("one").activation.width == 6
    for text in ("", "m=4", "acc=20", "act", "act=6,activation=5", "act=-1"):
        with pytest.raises(HostError, match="give weight=, master="):
            bits(text)
    with pytest.raises(HostError, match="activation=8: it has 8 now"):
        narrowed(DECLARATION, {Role.ACTIVATION: 8})
    with pytest.raises(ArchError, match="allowed are 2 to 16"):
        narrowed(DECLARATION, {Role.ACTIVATION: 1})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "nothing to shrink"),
        ({"to": 1.0}, "to is 1.0"),
        ({"to": float("nan")}, "to is nan"),
        ({"to": 0.5, "by": "size"}, "'size': allowed are thinet, l1, apoz, random"),
        ({"to": 0.5, "measure": "time"}, "'time': allowed are cycles"),
        ({"to": 0.5, "samples": 0}, "samples is 0"),
        ({"to": 0.5, "epochs": -1}, "epochs is -1"),
        ({"to": 0.5, "lr": 0.0}, "lr is 0.0"),
        ({"to": 0.5, "clock": float("inf")}, "clock is inf"),
    ],
)
def test_a_request_that_cannot_be(given: dict[str, object], said: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(HostError, match=said):
        Shrink(folder=tmp_path, **given)  # type: ignore[arg-type]


def test_uniform_counts_round_to_the_nearest() -> None:
    counts = {"a": 6, "b": 1, "c": 120}
    assert uniform(counts, 0.5) == {"a": 3, "b": 1, "c": 60}
    for kept in range(1, 121):
        assert uniform(counts, (kept - 0.5) / 120)["c"] == kept
    assert np.all([value >= 1 for value in uniform(counts, 0).values()])
