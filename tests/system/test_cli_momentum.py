"""Momentum, weight decay and batches in parts from the command line."""

from __future__ import annotations

import pytest

from tests.system.command import Insitu, plain
from tests.system.conftest import STUDENT
from tests.system.test_cli_errors import refused

OPTIMIZER = {"momentum": 0.9, "weight_decay": 0.0001, "micro_batches": 4}
OPTIONS = ("--momentum", "0.9", "--weight-decay", "1e-4", "--micro-batches", "4")


def test_train(insitu: Insitu) -> None:
    asked = ("--model", STUDENT, "--core", "edge8", "--batch", "128", *OPTIONS, "--json")
    result = insitu("train", "--data", "digits", "--epochs", "6", "--lr", "0.2", "--float", *asked).json
    assert result["optimizer"] == OPTIMIZER
    assert result["format"].endswith("v16")
    assert result["core"]["momentum_bits"] == 16
    assert abs(result["test_accuracy"] - result["float_test_accuracy"]) < 0.1
    assert result["test_accuracy"] > 0.5
    report = insitu("simulate", *asked).json
    assert (report["batch"], report["optimizer"]) == (32, OPTIMIZER)
    # 1,437 samples: eleven steps of four parts, and 29 left.
    assert result["cycles"] == 6 * (4 * 11 + 1) * report["cycles"]


def test_statistics_show_velocities(insitu: Insitu) -> None:
    asked = ("train", "--data", "digits", "--model", STUDENT, "--momentum", "0.9", "--statistics")
    found = insitu(*asked, "--lr", "0.1", "--json").json["statistics"]
    assert found["1.velocity"]["saturated_share"] < 0.01
    assert found["1.velocity"]["elements"] == found["1.weight"]["elements"]
    assert "1.velocity" in plain(insitu(*asked).out)


def test_simulate_and_disasm_tell_people(insitu: Insitu) -> None:
    shown = plain(insitu("simulate", "--model", STUDENT, "--batch", "64", *OPTIONS).out)
    assert "a step of 64 samples is 4 of these" in shown
    listed = plain(insitu("disasm", "--model", STUDENT, "--batch", "64", *OPTIONS).out)
    assert "momentum_mul=230" in listed
    assert "load_velocities:" in listed
    assert "VEL: " in plain(insitu("disasm", "--model", STUDENT, "--batch", "64", *OPTIONS, "--map").out)


@pytest.mark.parametrize(
    ("options", "quoted"),
    [
        (("--momentum", "1.5"), ("momentum 1.5", "below 1")),
        (("--micro-batches", "3"), ("batch 64 in 3 micro-batches", "divide")),
        (("--weight-decay", "1e-14"), ("weight decay 1e-14", "the device has")),
        (("--momentum", "0.9", "--format", "w8a8e8g8m32v2"), ("too coarse", "declare")),
    ],
)
def test_what_there_is_none_of(insitu: Insitu, options: tuple[str, ...], quoted: tuple[str, ...]) -> None:
    refused(insitu("train", "--data", "digits", "--model", STUDENT, "--batch", "64", *options), *quoted)
