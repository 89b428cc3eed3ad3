"""`insitu shrink`: a served student made smaller, its run going on with it, and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from insitu.arch.isa import Opcode
from insitu.arch.program import Program
from insitu.host.online.checkpoint import Checkpoint
from tests.system.command import Insitu, contents, plain
from tests.system.conftest import ONLINE
from tests.system.test_cli_errors import refused


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint.own(folder / "checkpoint.npz", Program.load(folder / "student.insitu"))


def rates(program: Program) -> set[tuple[int, int]]:
    return {(i.lr_mul, i.lr_shift) for i in program.instructions if i.opcode is Opcode.UPDATE}


def test_shrink_go_on_and_undo(insitu: Insitu, run_folder: Path) -> None:
    before, whole = checkpoint(run_folder), contents(run_folder)
    tuned = ("--to", "0.7", "--measure", "parameters", "--lr", "0.05")
    first = insitu("shrink", run_folder, *tuned, "--json").json
    assert first["lr"] == 0.05
    assert first["after"]["parameters"] <= 0.7 * first["before"]["parameters"]
    assert first["after"]["cycles"] < first["before"]["cycles"]
    assert first["before"]["accuracy"] == json.loads(whole["result.json"] or b"")["accuracy_after"]
    shrunk = checkpoint(run_folder)
    assert shrunk.program is not None
    # Its fine-tuning's rate is not the stream's.
    assert rates(shrunk.program) == rates(Program.load(run_folder / "student.insitu"))
    assert shrunk.served.masters["1.weight"].shape == (first["channels"]["1"][1], 65)
    assert shrunk.notes["shrunk"][-1]["after"] == first["after"]
    # A second time, narrower too, from where the first one left it.
    more = ("--to", "0.8", "--measure", "channels", "--by", "l1", "--bits", "act=6", "--epochs", "0")
    second = insitu("shrink", run_folder, *more, "--json").json
    assert second["before"]["accuracy"] == first["after"]["accuracy"]
    assert second["channels"]["1"][0] == first["channels"]["1"][1]
    assert (second["format"][:4], second["steps"]) == ("w8a6", 0)
    assert second["pruned"] == {name: second["after"][name] for name in second["pruned"]}
    # The run goes on with it.
    gone_on = insitu(*ONLINE, "--samples", "192", "--out", run_folder, "--json").json
    assert (gone_on["samples"], gone_on["format"][:4]) == (192, "w8a6")
    assert checkpoint(run_folder).served.masters["1.weight"].shape == (second["channels"]["1"][1], 65)
    # Both are taken back, and where the stream stood.
    for left in (1, 0):
        assert insitu("shrink", run_folder, "--undo", "--json").json["samples"] == 128
        assert len(list(run_folder.glob("checkpoint-*.npz"))) == left
    again = checkpoint(run_folder)
    assert all((again.served.masters[name] == q).all() for name, q in before.served.masters.items())
    assert (again.progress, again.guard) == (before.progress, before.guard)
    assert insitu(*ONLINE, "--samples", "128", "--out", run_folder, "--json").json["accuracy_after"] == pytest.approx(
        first["before"]["accuracy"]
    )


def test_shrink_in_words(insitu: Insitu, run_folder: Path) -> None:
    text = plain(insitu("shrink", run_folder, "--to", "0.6", "--measure", "parameters", "--by", "random").out)
    for part in ("accuracy in the scene", "before fine-tuning", "parameters", "channels kept: 1 ", "--undo"):
        assert part in text


@pytest.mark.parametrize(
    ("options", "quoted"),
    [
        ((), ("nothing to shrink", "--to")),
        (("--to", "2"), ("to is 2.0", "between 0 and 1")),
        (("--to", "0.5", "--by", "luck"), ("'luck'", "thinet, l1, apoz, random")),
        (("--to", "0.001"), ("cycles to 0.001", "one channel of each layer")),
        (("--bits", "act=9"), ("activation=9", "it has 8")),
        (("--to", "0.5", "--backend", "paper"), ("'paper'", "emulator")),
        (("--undo",), ("nothing to undo",)),
        (("--undo", "--to", "0.5"), ("--undo and --to",)),
    ],
)
def test_shrink_refuses(insitu: Insitu, run_folder: Path, options: tuple[str, ...], quoted: tuple[str, ...]) -> None:
    before = contents(run_folder)
    refused(insitu("shrink", run_folder, *options), *quoted)
    assert contents(run_folder) == before


def test_no_run_is_no_student(insitu: Insitu, tmp_path: Path) -> None:
    refused(insitu("shrink", tmp_path, "--to", "0.5"), "holds no online run", "run.json")
    refused(insitu("verify", "--run", tmp_path), "holds no online run", "student.insitu")
    refused(insitu("verify", "--run", tmp_path, "--core", "n=4"), "--core")
