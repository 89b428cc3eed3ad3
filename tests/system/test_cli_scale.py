"""`insitu scale`: a grid of candidates, and the largest student within a budget."""

from __future__ import annotations

import pytest

from tests.system.command import Insitu, plain
from tests.system.test_cli_errors import refused

CORE = ("--core", "n=8,act_depth=65536,err_depth=32768,scales=128", "--batch", "8")
QUICK = ("--grid-step", "0.2", "--grid-epochs", "1", "--grid-images", "200")
COEFFICIENTS = "depth=1.2,width=1.1,resolution=1.15"


def test_scale(insitu: Insitu) -> None:
    asked = ("scale", "--data", "digits", *CORE, "--budget", "cycles=150000,act=30000", *QUICK, "--json")
    result = insitu(*asked).json
    assert insitu(*asked).json == result
    grid = result["grid"]
    assert len(grid) == 6
    for row in grid:
        assert row["depth"] * row["width"] ** 2 * row["resolution"] ** 2 == pytest.approx(row["product"])
        assert 1.9 <= row["product"] <= 2.1
        assert 0 <= row["accuracy"] <= 1
        assert row["cycles"] > 0
    chosen = next(row for row in grid if result["coefficients"].items() <= row.items())
    assert chosen["accuracy"] == max(row["accuracy"] for row in grid)
    assert result["budget"] == {"cycles": 150000, "act": 30000}
    assert result["core"]["act_depth"] == 30000
    assert result["cost"]["cycles"] <= 150000
    assert result["cost"]["memory"]["act"] <= 30000
    # What it says is what the other commands find.
    shape = "x".join(map(str, result["in_shape"]))
    counted = insitu("simulate", "--model", result["model"], "--in-shape", shape, *CORE, "--json").json
    assert counted["cycles"] == result["cost"]["cycles"]


def test_scale_with_coefficients_trains_no_grid(insitu: Insitu) -> None:
    asked = ("scale", *CORE, "--budget", "cycles=150000", "--coefficients", COEFFICIENTS)
    result = insitu(*asked, "--json").json
    assert result["grid"] == []
    assert result["coefficients"] == {"depth": 1.2, "width": 1.1, "resolution": 1.15}
    text = plain(insitu(*asked).out)
    assert f"{result['cost']['cycles']:,}" in text
    assert f"{result['size']['parameters']:,}" in text
    assert result["model"] in text


@pytest.mark.parametrize(
    ("options", "quoted"),
    [
        (("--budget", "luts=5"), ("'luts=5'", "cycles=, act=, err=, wgt=, cells=")),
        (("--budget", "cells=9"), ("cells=9", "16")),
        (("--budget", "cycles=10"), ("cycles=10", "smallest student", "of 10")),
        (("--budget", "cycles=10", "--coefficients", "depth=2"), ("'depth=2'", "width=")),
        (("--budget", "cycles=10", "--coefficients", "depth=0.5,width=1,resolution=1"), ("depth 0.5", "are 1 to 4")),
        (("--budget", "cycles=10", "--grid-step", "0"), ("step 0", "step >= 0.01")),
    ],
)
def test_scale_refuses(insitu: Insitu, options: tuple[str, ...], quoted: tuple[str, ...]) -> None:
    refused(insitu("scale", *CORE, *options), *quoted)
