"""Synthesis reports: what is counted, the cache, what is refused. Over a stand-in: the core itself takes minutes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from insitu.arch.params import CoreParams
from insitu.fpga import synth
from insitu.fpga.synth import Cost, synthesise
from insitu.fpga.yosys import ToolError
from tests.fpga.standin import Loopback

CORE = CoreParams(n=4, master_bits=8, act_depth=1024, err_depth=1024, wgt_depth=1024)


def test_estimate_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cost = synthesise(CORE, "xc7", core=Loopback(CORE), cache_dir=tmp_path)
    assert cost.lut > 100
    assert cost.ff > 100
    assert cost.mhz is None
    assert set(cost.to_json()) == {"target", "lut", "ff", "dsp", "bram", "mhz", "critical_path", "seed"}
    monkeypatch.setattr(synth, "_xc7", lambda text: pytest.fail("synthesised again"))
    assert synthesise(CORE, "xc7", core=Loopback(CORE), cache_dir=tmp_path) == cost


def test_unknown_target() -> None:
    with pytest.raises(ToolError, match="'abacus'.*ecp5-85k"):
        synthesise(CORE, "abacus")


def test_the_fastest_of_some_seeds_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is placed once, and all are of one synthesis."""
    asked: list[list[int]] = []

    def ecp5(_text: str, _n: int, size: str, grade: int, seeds: Sequence[int]) -> Iterator[tuple[int, Cost]]:
        asked.append(list(seeds))
        for seed in seeds:
            mhz = {1: 100.0, 2: 120.5, 3: 90.0}[seed]
            yield seed, Cost(target=f"ecp5-{size}-{grade}", lut=1, ff=1, dsp=0, bram=0, mhz=mhz, seed=seed)

    monkeypatch.setattr(synth, "_ecp5", ecp5)
    found = [
        synthesise(CORE, seeds=seeds, core=Loopback(CORE), cache_dir=tmp_path) for seeds in ([1], [1, 2, 3], [3, 1])
    ]
    assert [(cost.seed, cost.mhz) for cost in found] == [(1, 100.0), (2, 120.5), (1, 100.0)]
    assert asked == [[1], [2, 3], []]
