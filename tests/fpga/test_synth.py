"""Synthesis reports: what is counted, the cache, what is refused. Over a stand-in: the core itself takes minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from insitu.arch.params import CoreParams
from insitu.fpga import synth
from insitu.fpga.synth import synthesise
from insitu.fpga.yosys import ToolError
from tests.fpga.standin import Loopback

CORE = CoreParams(n=4, master_bits=8, act_depth=1024, err_depth=1024, wgt_depth=1024)


def test_estimate_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cost = synthesise(CORE, "xc7", core=Loopback(CORE), cache_dir=tmp_path)
    assert cost.lut > 100
    assert cost.ff > 100
    assert cost.mhz is None
    assert set(cost.to_json()) == {"target", "lut", "ff", "dsp", "bram", "mhz", "critical_path"}
    monkeypatch.setattr(synth, "_xc7", lambda text: pytest.fail("synthesised again"))
    assert synthesise(CORE, "xc7", core=Loopback(CORE), cache_dir=tmp_path) == cost


def test_unknown_target() -> None:
    with pytest.raises(ToolError, match="'abacus'.*ecp5-85k"):
        synthesise(CORE, "abacus")
