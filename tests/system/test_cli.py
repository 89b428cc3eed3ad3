"""What every command gives: help with an example that works, one JSON object, numbers that add up and come again."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import struct
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insitu.arch.files import UNFINISHED
from insitu.arch.params import CoreParams
from insitu.arch.program import Program
from insitu.fpga.synth import Cost
from insitu.host.cli.building import build_program
from insitu.host.device.snapshot import Snapshot
from insitu.host.online.scene import Scene
from insitu.models.convolutional import CONVOLUTIONAL
from insitu.sim.cycles import report as counted
from tests.system import students
from tests.system.command import Insitu, commands, parse, plain
from tests.system.conftest import ONLINE, STUDENT

DEMO = ("demo", "--samples", "640", "--json")
#: What must be the same when a run is made again.
NUMBERS = ("accuracy_before", "accuracy_after", "samples", "labels", "steps", "stored", "cycles", "busy", "verdicts")


# Help.


def test_commands_are_those_there_should_be() -> None:
    names = {" ".join(words) for words in commands()}
    assert names == {
        *("demo", "online", "train", "learn", "fleet", "simulate", "disasm", "data list", "data fetch"),
        *("verify", "hdl", "synth", "scale", "shrink", "study run", "study report", "study list"),
    }


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_help_has_an_example_that_works(insitu: Insitu, words: tuple[str, ...]) -> None:
    shown = insitu(*words, "--help")
    assert shown.code == 0
    assert shown.err == ""
    text = plain(shown.out)
    assert "--json" in text
    example = re.search(r"Example: insitu ([\w.:, =/-]+?) (?=Options|Arguments)", text)
    assert example, text
    assert parse(shlex.split(example[1])) == words


@pytest.mark.parametrize("words", [(), ("data",)])
def test_nothing_to_do_shows_help(insitu: Insitu, words: tuple[str, ...]) -> None:
    shown, asked = insitu(*words), insitu(*words, "--help")
    assert shown.out.strip() == asked.out.strip()
    assert shown.err == ""
    assert "Usage: insitu" in plain(shown.out)


def test_help_names_every_student(insitu: Insitu) -> None:
    text = plain(insitu("simulate", "--help").out)
    for name, factory in CONVOLUTIONAL.items():
        assert re.search(rf"\b{name}\b", text), name
        options = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert all(f"{option}=" in text for option in options), options


def test_what_an_mlp_says_of_itself_need_not_be_asked(insitu: Insitu) -> None:
    asked = ("simulate", "--model", "mlp:64-5", "--batch", "4", "--json")
    assert insitu(*asked, "--in-shape", "64").json == insitu(*asked, "--classes", "5").json == insitu(*asked).json


def test_disasm_draws(insitu: Insitu) -> None:
    for name, start in (("map.svg", b"<?xml"), ("map.png", b"\x89PNG"), ("map.pdf", b"%PDF")):
        assert insitu("disasm", "--model", "mlp:8-4", "--batch", "2", "--draw", name).code == 0
        assert Path(name).read_bytes().startswith(start)


def test_synth_is_of_the_core_that_trains(insitu: Insitu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples a second are of a program in formats that the core has."""
    compiled: list[Program] = []

    def synthesise(core: CoreParams, target: str, *, seeds: Sequence[int]) -> Any:
        return Cost(target=target, lut=1, ff=1, dsp=1, bram=1, mhz=100.0)

    def built(*given: Any, **options: Any) -> Program:
        compiled.append(build_program(*given, **options))
        return compiled[-1]

    monkeypatch.setattr("insitu.fpga.synth.synthesise", synthesise)
    monkeypatch.setattr("insitu.host.cli.synth.build_program", built)
    core = "edge8,weight_bits=4,master_bits=9,activation_bits=6"
    asked = ("synth", "--core", core, "--model", "lenet", "--in-shape", "1x12x12", "--classes", "3", "--batch", "4")
    rate = insitu(*asked, "--json").json["samples_per_second"]
    (program,) = compiled
    assert program.core == CoreParams.parse(core)
    assert program.declaration.short == "w4a6e8g8m9c32t8"
    assert program.tensors["target"].matrix.cols == 3
    assert rate == pytest.approx(100e6 * 4 / counted(program, "train").cycles)


# Training.


def test_train(insitu: Insitu) -> None:
    asked = ("train", "--data", "digits", "--model", STUDENT, "--epochs", "1", "--batch", "64", "--float", "--json")
    result = insitu(*asked).json
    assert 0.5 < result["test_accuracy"] <= 1
    assert 0.5 < result["float_test_accuracy"] <= 1
    assert result["accuracy_by_epoch"] == [result["test_accuracy"]]
    assert result["format"].startswith("w8a8e8g8")
    assert result["core"]["n"] == 16
    # 1,437 samples in batches of 64.
    step = insitu("simulate", "--model", STUDENT, "--batch", "64", "--json").json["cycles"]
    assert result["cycles"] == 23 * step
    again = insitu(*asked).json
    assert {**again, "seconds": 0} == {**result, "seconds": 0}
    assert insitu(*asked, "--seed", "1").json["test_accuracy"] != result["test_accuracy"]


def test_train_counts_every_epoch(insitu: Insitu) -> None:
    asked = ("train", "--data", "digits", "--model", "mlp:64-10", "--batch", "128", "--json")
    one, two = (insitu(*asked, "--epochs", epochs, "--schedule", "constant").json for epochs in (1, 2))
    assert two["cycles"] == 2 * one["cycles"]
    assert two["accuracy_by_epoch"][0] == one["test_accuracy"]
    assert two["accuracy_by_epoch"][1] == two["test_accuracy"]
    assert "float_test_accuracy" not in one


def test_train_tells_people(insitu: Insitu) -> None:
    shown = insitu("train", "--data", "digits", "--model", STUDENT)
    assert shown.code == 0
    assert shown.err == ""
    assert "test accuracy, 360 images" in plain(shown.out)
    assert "device cycles" in shown.out


def test_train_saves_program_and_weights(insitu: Insitu, trained: Path, tmp_path: Path) -> None:
    program = Program.load(trained / "student.insitu")
    weights, _ = Snapshot.load(trained / "student.npz", program)
    assert set(weights.masters) == {"1.weight", "3.weight"}
    assert all(np.any(q) for q in weights.masters.values())
    # The same command gives the same bytes.
    save = tmp_path / "again.insitu"
    insitu("train", "--data", "digits", "--model", STUDENT, "--save", save, "--json")
    assert save.read_bytes() == (trained / "student.insitu").read_bytes()
    others, _ = Snapshot.load(tmp_path / "again.npz", program)
    for name, q in weights.masters.items():
        np.testing.assert_array_equal(others.masters[name], q)


# Cycles.


@pytest.mark.parametrize("entry", ["train", "infer", "train_host", "load_weights"])
def test_simulate_adds_up(insitu: Insitu, entry: str) -> None:
    asked = ("simulate", "--model", "mlp:64-48-20-10", "--core", "n=8", "--batch", "32", "--entry", entry, "--json")
    report = insitu(*asked).json
    rows = report["instructions"]
    assert (report["model"], report["batch"], report["entry"]) == ("mlp:64-48-20-10", 32, entry)
    assert report["core"]["n"] == 8
    assert report["cycles"] == sum(row["cycles"] for row in rows) == sum(report["units"].values())
    assert report["macs"] == sum(row["macs"] for row in rows)
    assert report["busy"] == pytest.approx(report["macs"] / (64 * report["cycles"]))
    assert 0 <= report["busy"] <= 1
    assert all(0 <= row["busy"] <= 1 for row in rows)
    assert [row["start"] for row in rows] == np.cumsum([0, *(row["cycles"] for row in rows[:-1])]).tolist()
    assert rows[-1]["opcode"] == "HALT"
    for unit, cycles in report["units"].items():
        assert cycles == sum(row[unit] for row in rows)
    for row in rows:
        assert row["cycles"] == sum(row[unit] for unit in report["units"])
        if row["opcode"] in ("FORWARD", "BACKWARD", "UPDATE"):
            assert row["macs"] == row["rows"] * row["cols"] * row["depth"]


def test_simulate_of_more_cells_takes_fewer_cycles(insitu: Insitu) -> None:
    cycles = [
        insitu("simulate", "--core", f"n={n},wgt_depth=65536,act_depth=16384", "--json").json["cycles"]
        for n in (8, 16, 32)
    ]
    assert cycles == sorted(cycles, reverse=True)
    assert cycles[0] > 3 * cycles[1]


def test_simulate_a_program_file(insitu: Insitu, program: Path) -> None:
    of_file = insitu("simulate", "--program", program, "--json").json
    of_model = insitu("simulate", "--model", STUDENT, "--batch", "64", "--json").json
    assert of_file == of_model


def test_simulate_tells_people(insitu: Insitu, program: Path) -> None:
    report = insitu("simulate", "--program", program, "--json").json
    shown = plain(insitu("simulate", "--program", program).out)
    assert f"train: {report['cycles']:,} cycles, {report['busy']:.1%} of 256 cells busy" in shown


def test_timeline(insitu: Insitu, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    report = insitu("simulate", "--model", STUDENT, "--timeline", path, "--json").json
    assert insitu("simulate", "--model", STUDENT, "--json").json == report
    events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    assert set(tracks.values()) == {"instructions", *report["units"]}
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            assert e["name"]
            spans[tracks[e["tid"]]].append((e["ts"], e["ts"] + e["dur"]))
    assert {e["ph"] for e in events} == {"M", "X"}
    # Instructions follow each other without a gap; the units work one after the other and together fill the time.
    assert _gapless(spans.pop("instructions"), report["cycles"])
    assert _gapless([span for of_unit in spans.values() for span in of_unit], report["cycles"])
    for unit, cycles in report["units"].items():
        assert sum(end - start for start, end in spans[unit]) == cycles


def _gapless(spans: list[tuple[int, int]], end: int) -> bool:
    edges = sorted(spans)
    return [start for start, _ in edges] == [0, *(stop for _, stop in edges[:-1])] and edges[-1][1] == end


# Listings.


def test_disasm_of_a_model_and_of_its_file(insitu: Insitu, program: Path) -> None:
    of_model = insitu("disasm", "--model", STUDENT, "--batch", "64", "--json").json
    of_file = insitu("disasm", program, "--json").json
    made = Program.load(program)
    assert of_file["words"] == [[f"{word:08x}" for word in words] for words in made.words.tolist()]
    assert of_file["instructions"] == [str(instruction) for instruction in made.instructions]
    assert of_file["entries"] == dict(made.entries) == of_model["entries"]
    assert of_file["hash"] == f"{made.core.hash:016x}" == of_model["hash"]
    assert of_file["tensors"]["1.weight"]["rows"] == 32
    # Another calibration, another learning rate; the same passes over the same places.
    assert len(of_file["instructions"]) == len(of_model["instructions"])
    assert of_file["tensors"] == of_model["tensors"]


def test_disasm_tells_people(insitu: Insitu, program: Path) -> None:
    shown = insitu("disasm", program)
    assert shown.code == 0
    made = Program.load(program)
    assert made.disassemble() in shown.out
    for name in (*made.entries, *made.tensors):
        assert name in shown.out


# Data.


def idx(folder: Path, count: int, test: int) -> None:
    """A data set of 8 x 8 noise in four plain IDX files."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, size in (("train", count), ("t10k", test)):
        images = rng.integers(0, 256, (size, 8, 8), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes()
        )
        labels = (np.arange(size) % 4).astype(np.uint8)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, size) + labels.tobytes())


def test_data_list(insitu: Insitu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSITU_DATA", str(tmp_path))
    idx(tmp_path / "noise", 40, 12)
    idx(tmp_path / "cut", 40, 12)
    (tmp_path / "cut" / "t10k-images-idx3-ubyte").write_bytes(b"\0\0")
    found = insitu("data", "list", "--json").json
    assert found["root"] == str(tmp_path)
    by_name = {entry["name"]: entry for entry in found["data"]}
    assert set(by_name) == {"digits", "mnist", "fashion-mnist", "noise", "cut"}
    assert (by_name["digits"]["train"], by_name["digits"]["test"]) == (1437, 360)
    where = str(tmp_path / "noise")
    noise = {"name": "noise", "where": where, "shape": [1, 8, 8], "train": 40, "test": 12, "problem": ""}
    assert by_name["noise"] == noise
    assert by_name["mnist"]["where"] is None
    assert "t10k-images-idx3-ubyte" in by_name["cut"]["problem"]
    assert insitu("data", "list", "--root", tmp_path / "empty", "--json").json["root"] == str(tmp_path / "empty")
    shown = plain(insitu("data", "list").out)
    assert "insitu data fetch mnist" in shown
    assert "1,437" in shown


def test_train_on_a_folder(insitu: Insitu, tmp_path: Path) -> None:
    idx(tmp_path / "noise", 40, 12)
    asked = ("train", "--data", "noise", "--root", tmp_path, "--model", "mlp:64-8-4", "--batch", "8", "--json")
    assert 0 <= insitu(*asked).json["test_accuracy"] <= 1


# Networks of users.


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A user's network in a folder of theirs."""
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "mine.py").write_text(students.GOOD)
    return "nets/mine.py:small"


def test_own_network(insitu: Insitu, own: str) -> None:
    trained = insitu("train", "--data", "digits", "--model", own, "--save", "mine.insitu", "--json").json
    assert trained["test_accuracy"] > 0.5
    assert trained["model"] == own
    simulated = insitu("simulate", "--model", own, "--in-shape", "1x8x8", "--json").json
    assert trained["cycles"] == 23 * simulated["cycles"]
    assert insitu("simulate", "--program", "mine.insitu", "--json").json == simulated
    listed = insitu("disasm", "--model", own, "--in-shape", "1x8x8", "--classes", "7", "--json").json
    assert listed["tensors"]["4.weight"]["rows"] == 7
    assert listed["tensors"]["1.weight"]["cols"] == 65


def test_own_network_online(insitu: Insitu, own: str) -> None:
    result = insitu(
        "online", "--data", "digits", "--shift", "rotate:2", "--model", own, "--samples", 128, "--json"
    ).json
    assert result["model"] == own
    assert Path(result["folder"]) == Path("runs/digits-rotate2-0")


# The online fix.


def test_online(insitu: Insitu) -> None:
    result = insitu(*ONLINE, "--samples", "320", "--labels", "90", "--out", "run", "--json").json
    assert result["samples"] == 320
    assert result["labels"] == result["stored"] > 0 < result["questions"]
    assert 90 - 16 < result["labels"] + result["questions"] == result["bought"] <= 90
    assert 0 < result["accuracy_before"] < result["accuracy_clean"] <= 1
    assert result["accuracy_before"] <= result["accuracy_after"] <= 1
    assert 0 < result["busy"] < 1
    assert json.loads(Path("run/result.json").read_text()) == result


def test_online_tells_people(insitu: Insitu, run_folder: Path) -> None:
    result = json.loads((run_folder / "result.json").read_text())
    shown = insitu(*ONLINE, "--samples", "128", "--out", run_folder)
    assert shown.code == 0
    assert shown.err == ""
    text = plain(shown.out)
    assert f"{result['accuracy_before']:.1%} -> {result['accuracy_after']:.1%}" in text
    assert f"picture: {run_folder / 'accuracy.png'}" in text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--detector", "all"), lambda labels: labels == 128),
        (("--detector", "confidence", "--threshold", "0.3"), lambda labels: 0 < labels < 64),
    ],
)
def test_detectors(insitu: Insitu, options: tuple[str, ...], expected: Any) -> None:
    assert expected(insitu(*ONLINE, "--samples", "128", "--out", "run", *options, "--json").json["labels"])


def test_online_store_elsewhere(insitu: Insitu, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    result = insitu(*ONLINE, "--samples", "128", "--out", "run", "--store", url, "--store-bytes", "4000", "--json").json
    assert (tmp_path / "shared.db").exists()
    assert not Path("run/feedback.db").exists()
    assert 0 < result["stored"] < result["labels"]
    assert result["stored_bytes"] <= 4000


def test_interrupted_run_goes_on(insitu: Insitu, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = insitu(*ONLINE, "--samples", "512", "--out", "whole", "--json").json
    stream = Scene.stream

    def until(scene: Scene, first: int, count: int) -> Any:
        if first >= 256:
            raise KeyboardInterrupt
        return stream(scene, first, count)

    asked = (*ONLINE, "--samples", "512", "--out", "broken", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(Scene, "stream", until)
        broken = insitu(*asked)
    assert (broken.code, broken.out) == (130, "")
    assert broken.err.count("\n") == 1
    assert "interrupted" in broken.err
    assert not Path("broken/result.json").exists()

    firsts: list[int] = []

    def watched(scene: Scene, first: int, count: int) -> Any:
        firsts.append(first)
        return stream(scene, first, count)

    def retrained(*_: object, **__: object) -> None:
        raise AssertionError("the teacher of the run is kept")

    with monkeypatch.context() as patch:
        patch.setattr(Scene, "stream", watched)
        patch.setattr("insitu.models.teachers.train_teacher", retrained)
        resumed = insitu(*asked).json
    assert firsts[0] == 256
    assert {name: resumed[name] for name in NUMBERS} == {name: whole[name] for name in NUMBERS}


def test_longer_run_goes_on(insitu: Insitu, run_folder: Path) -> None:
    before = json.loads((run_folder / "result.json").read_text())
    after = insitu(*ONLINE, "--samples", "256", "--out", run_folder, "--json").json
    assert (before["samples"], after["samples"]) == (128, 256)
    assert after["labels"] > before["labels"]
    assert after["accuracy_after"] >= before["accuracy_after"] - 0.05


# The demo.


def test_demo_gives_the_same_numbers_again(insitu: Insitu) -> None:
    results = [insitu(*DEMO, "--out", folder, "--seed", seed).json for folder, seed in (("a", 0), ("b", 0), ("c", 1))]
    first, again, other = ({name: result[name] for name in NUMBERS} for result in results)
    assert first == again
    assert first != other
    assert first["samples"] == 640
    assert first["accuracy_after"] > first["accuracy_before"]


def test_demo_begins_anew(insitu: Insitu) -> None:
    first = insitu(*DEMO, "--out", "run").json
    Path(f"run/.checkpoint.npz.0a1b2c3d{UNFINISHED}").write_text("half")
    again = insitu(*DEMO, "--out", "run").json
    assert {name: first[name] for name in NUMBERS} == {name: again[name] for name in NUMBERS}
    assert not list(Path("run").glob(".checkpoint*"))
    assert len(list(Path("run/scalars").iterdir())) == 1
