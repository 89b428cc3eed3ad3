"""Convolutional students on the command line: their statistics, their places in memory, their windows."""

from __future__ import annotations

import pytest

from tests.system.command import Insitu

#: A core that holds the small convolutional student of 8 x 8 images in batches of 64.
ROOMY = "edge16,act_depth=16384,err_depth=16384"


def test_train_shows_statistics_of_what_passes_wrote(insitu: Insitu, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("train", "--data", "digits", "--model", "cnn", "--core", ROOMY, "--batch", "64", "--statistics")
    found = insitu(*asked, "--json").json["statistics"]
    # A pool moves elements, and has none of its own.
    assert set(found) == {
        *(f"{layer}.{kind}" for layer in (0, 3, 7, 9) for kind in ("y", "weight")),
        *("2.error", "5.error", "7.error", "9.error"),
    }
    assert found["0.y"]["elements"] == (23 + 6) * 64 * 64 * 16  # training and testing batches of 64 maps of 64 pixels
    monkeypatch.setenv("COLUMNS", "200")
    shown = insitu(*asked)
    assert shown.err == ""
    for name, s in found.items():
        row = next(line for line in shown.out.splitlines() if f" {name} " in line)
        assert f"{s['elements']:,}" in row
        assert f"{s['largest']:.3g}" in row


def test_statistics_of_tensors_that_share_a_place_are_theirs_together(insitu: Insitu) -> None:
    asked = ("train", "--data", "digits", "--model", "mlp:64-32-32-32-10", "--statistics", "--json")
    apart = insitu(*asked).json["statistics"]
    shared = insitu(*asked, "--core", "edge16,err_depth=256").json["statistics"]
    assert {name for group in shared for name in group.split(" + ")} == set(apart)
    assert len(shared) < len(apart)
    for group, of_group in shared.items():
        assert of_group["elements"] == sum(apart[name]["elements"] for name in group.split(" + "))


def test_disasm_maps_memory(insitu: Insitu, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("disasm", "--model", "lenet", "--core", "edge16", "--batch", "4")
    monkeypatch.setenv("COLUMNS", "200")
    listed, shown = insitu(*asked, "--json").json["tensors"], insitu(*asked, "--map").out
    assert listed["3.weight"] | {"base": 0} == {
        "memory": "WGT",
        "base": 0,
        "rows": 16,
        "cols": 6,
        "groups": 25,
        "tail": 1,
        "pitch": 26,
        "role": "master",
        "width": 16,
        "scale": listed["3.weight"]["scale"],
        "layer": "3",
        "bias": True,
        "samples": None,
    }
    rows = [line for line in shown.splitlines() if "0x" in line]
    assert len(rows) == len(listed)
    for name, tensor in listed.items():
        row = next(row for row in rows if f" {name} " in row)
        width = tensor["groups"] * tensor["cols"] + tensor["tail"]
        assert f"{tensor['base']:#x}.." in row
        assert f"{tensor['rows']} x {width}" in row
    for memory, depth in (("ACT", 8192), ("ERR", 4096), ("WGT", 32768)):
        assert f"of {depth:,} words of 16" in next(line for line in shown.splitlines() if f"{memory}:" in line)


def test_simulate_shows_windows(insitu: Insitu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = insitu("simulate", "--model", "cnn", "--in-shape", "1x8x8", "--core", ROOMY).out
    for size in ("64 x 32 x 17, 3 x 3 on 4 x 4", "64 x 16, 2 x 2 on 8 x 8", "64 x 16 x 10 on 8 x 8"):
        assert size in shown
