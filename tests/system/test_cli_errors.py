"""Every error a user can mend: exit code 2, one line that quotes what is wrong, and nothing half-written."""

from __future__ import annotations

import errno
import hashlib
import json
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from insitu.arch.program import MAGIC
from tests.system import students
from tests.system.command import Insitu, Outcome, contents
from tests.system.conftest import ONLINE, STUDENT

DIGITS = ("--data", "digits", "--model", STUDENT)


def refused(outcome: Outcome, *quoted: object) -> None:
    """One line on standard error that holds all that is quoted, and that is all there is."""
    assert outcome.out == ""
    assert outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.startswith("insitu: ")
    assert "Traceback" not in outcome.err
    for text in quoted:
        assert str(text) in outcome.err
    assert outcome.code == 2


@pytest.fixture
def refuses(insitu: Insitu, tmp_path: Path) -> Callable[..., None]:
    """Call and expect a refusal that leaves every file as it was, with and without --json."""

    def expect(*arguments: object, quoted: tuple[object, ...]) -> None:
        before = contents(tmp_path)
        for further in ((), ("--json",)):
            refused(insitu(*arguments, *further), *quoted)
            assert contents(tmp_path) == before

    return expect


Refuses = Callable[..., None]


# Models.


@pytest.mark.parametrize("command", [("train", "--data", "digits"), ("simulate", "--in-shape", "1x8x8"), (*ONLINE,)])
def test_missing_model_file(refuses: Refuses, command: tuple[str, ...]) -> None:
    refuses(*command, "--model", "nowhere/net.py:make", quoted=("nowhere/net.py:make", "no file"))


@pytest.mark.parametrize(
    ("factory", "quoted"),
    [
        ("absent", ("absent", "it has number, raises")),
        ("number", ("number", "returned int")),
        ("raises", ("raises", "nobody at home")),
        ("leaves", ("leaves", "SystemExit")),
        ("wrong_outputs", ("[2, 3]", "[2, 10]")),
        ("wrong_inputs", ("wrong_inputs", "1 x 8 x 8".replace(" x ", ", "))),
        ("learned", ("PReLU", "MaxPool2d, AvgPool2d")),
        ("untraceable", ("Branches", "torch.fx")),
        ("frozen_logits", ("'1'", "ReLU follows the last layer")),
    ],
)
def test_wrong_model_file(refuses: Refuses, factory: str, quoted: tuple[str, ...]) -> None:
    Path("net.py").write_text(students.BAD)
    refuses("train", "--data", "digits", "--model", f"net.py:{factory}", quoted=quoted)
    refuses("disasm", "--in-shape", "1x8x8", "--model", f"net.py:{factory}", quoted=quoted)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [("def make(:\n", "SyntaxError"), ("import absent_package\n", "absent_package"), ("1 / 0\n", "ZeroDivisionError")],
)
def test_model_file_that_cannot_be_imported(refuses: Refuses, text: str, quoted: str) -> None:
    Path("net.py").write_text(text)
    refuses("simulate", "--in-shape", "4", "--model", "net.py:make", quoted=("net.py:make", quoted))


@pytest.mark.parametrize("spec", ["resnet18", "mlp", "mlp:", "mlp:64", "mlp:64-ten", "mlp:64-0-10", "net.py", ":make"])
def test_unknown_model(refuses: Refuses, spec: str) -> None:
    sizes = "[64, 0, 10]" if "-0-" in spec else repr(spec)
    refuses("simulate", "--model", spec, quoted=(sizes,))
    refuses("train", "--data", "digits", "--model", spec, quoted=(sizes,))


def test_a_file_model_needs_a_shape(refuses: Refuses) -> None:
    refuses("simulate", "--model", "net.py:make", quoted=("net.py:make", "--in-shape"))


@pytest.mark.parametrize("shape", ["", "x", "0", "1x-8", "1x8x", "wide", "1.5"])
def test_bad_shape(refuses: Refuses, shape: str) -> None:
    refuses("disasm", "--model", "net.py:make", "--in-shape", shape, quoted=(repr(shape), "1x28x28"))


@pytest.mark.parametrize(("model", "quoted"), [("mlp:63-10", "63 inputs"), ("mlp:64-11", "11 outputs")])
def test_model_that_does_not_fit_the_data(refuses: Refuses, model: str, quoted: str) -> None:
    refuses("train", "--data", "digits", "--model", model, quoted=(quoted, model))


# Data.


def test_missing_data(refuses: Refuses, tmp_path: Path) -> None:
    refuses("train", "--data", "mnist", quoted=("'mnist'", tmp_path / "no-data", "insitu data fetch mnist"))
    refuses("online", "--data", "mnist", quoted=("'mnist'", "insitu data fetch mnist"))


def test_unknown_data(refuses: Refuses) -> None:
    refuses("train", "--data", "letters", quoted=("'letters'", "INSITU_DATA"))
    refuses("train", "--data", "../up", quoted=("'../up'",))
    refuses("data", "fetch", "letters", quoted=("'letters'", "fashion-mnist"))


def test_damaged_data(refuses: Refuses, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    folder.mkdir()
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{stem}-ubyte").write_bytes(b"\0\0\x08\x03\0\0")
    refuses("train", "--data", "cut", "--root", tmp_path, quoted=(folder / "train-images-idx3-ubyte", "truncated"))


def test_unreachable_server(refuses: Refuses, tmp_path: Path) -> None:
    # Port 9 of this machine, where nobody listens.
    address = "http://127.0.0.1:9/"
    refuses("data", "fetch", "mnist", "--base-url", address, "--root", tmp_path, quoted=(address,))


# Numbers and cores.


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("w1", ("weight of 1 bits", "2 to 16")),
        ("a99", ("activation of 99 bits", "2 to 16")),
        ("w8m4", ("master of 4 bits",)),
        ("c64", ("accumulator of 64 bits", "8 to 48")),
        ("q8", ("'q8'", "'q'")),
        ("eight", ("'eight'",)),
        ("w8w8", ("'w8w8'",)),
        ("", ("''",)),
    ],
)
def test_impossible_width(refuses: Refuses, text: str, quoted: tuple[str, ...]) -> None:
    for command in (("simulate",), ("train", *DIGITS), ONLINE):
        refuses(*command, "--format", text, quoted=quoted)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("edge9", ("'edge9'", "edge8")),
        ("n=7", ("n=7", "4, 8, 16, 32")),
        ("n=", ("'n='",)),
        ("n=big", ("'big'",)),
        ("edge8,lanes=4", ("'lanes'",)),
        ("wgt_depth=0", ("wgt_depth=0",)),
        ("tiny4,act_depth=9999999", ("act_depth=9999999",)),
    ],
)
def test_unknown_core(refuses: Refuses, text: str, quoted: tuple[str, ...]) -> None:
    for command in (("disasm",), ("train", *DIGITS), ONLINE):
        refuses(*command, "--core", text, quoted=quoted)


def test_student_that_does_not_fit(refuses: Refuses) -> None:
    refuses("simulate", "--core", "tiny4", quoted=("WGT holds 2048 words", "1.weight 256x785", "wgt_depth="))
    refuses("train", *DIGITS, "--core", "n=4,act_depth=64", quoted=("ACT holds 64 words", "act_depth="))
    refuses(*ONLINE, "--core", "n=4,err_depth=8", quoted=("ERR holds 8 words", "err_depth="))
    refuses("simulate", "--batch", 70_000, quoted=("70000 x 784", "65535"))
    refuses(
        "simulate", "--model", "lenet", quoted=("ACT holds 8192 words", "0.y 50176x6", "largest batch that fits is 4")
    )


# Program files.


def reads_program(refuses: Refuses, path: Path, *quoted: str) -> None:
    refuses("simulate", "--program", path, quoted=(path.name, *quoted))
    refuses("disasm", path, quoted=(path.name, *quoted))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 11, 12, 40, 300, -33, -32, -1])
def test_truncated_program(refuses: Refuses, program: Path, length: int) -> None:
    program.write_bytes(program.read_bytes()[:length])
    reads_program(refuses, program, "not an insitu program" if 0 <= length < 8 else "truncated")


@pytest.mark.parametrize("place", [0, 7, 9, 12, 50, 0.5, 0.9, -40, -1])
def test_flipped_byte(refuses: Refuses, program: Path, place: float) -> None:
    whole = bytearray(program.read_bytes())
    whole[int(place if isinstance(place, int) else place * len(whole))] ^= 0x10
    program.write_bytes(whole)
    reads_program(refuses, program)


@pytest.mark.parametrize("foreign", ["weights", "text", "picture", "empty", "longer"])
def test_foreign_program(refuses: Refuses, trained: Path, finished: Path, program: Path, foreign: str) -> None:
    program.write_bytes(
        {
            "weights": (trained / "student.npz").read_bytes(),
            "text": b'{"core": {"n": 16}}',
            "picture": (finished / "accuracy.png").read_bytes(),
            "empty": b"",
            "longer": program.read_bytes() + b"\0",
        }[foreign]
    )
    reads_program(refuses, program, "damaged" if foreign == "longer" else "not an insitu program")


def test_program_of_another_version(refuses: Refuses, program: Path) -> None:
    whole = program.read_bytes()
    (length,) = struct.unpack_from("<I", whole, len(MAGIC))
    start = len(MAGIC) + 4
    header = json.loads(whole[start : start + length])
    header["hash"] = "0123456789abcdef"
    text = json.dumps(header).encode()
    body = MAGIC + struct.pack("<I", len(text)) + text + whole[start + length : -32]
    program.write_bytes(body + hashlib.sha256(body).digest())
    reads_program(refuses, program, "another version", "0123456789abcdef")


def test_no_program(refuses: Refuses, tmp_path: Path) -> None:
    reads_program(refuses, Path("nowhere.insitu"), "no such file")
    reads_program(refuses, tmp_path, "is a directory")


def test_unknown_entry(refuses: Refuses, program: Path) -> None:
    refuses("simulate", "--program", program, "--entry", "dream", quoted=("'dream'", "load_weights"))


# Output.


def test_folder_in_place_of_an_output_file(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "half.npz").mkdir()
    refuses("simulate", "--timeline", "taken", quoted=("taken", "folder"))
    refuses("train", *DIGITS, "--save", "taken", quoted=("taken", "folder"))
    refuses("train", *DIGITS, "--save", "half.insitu", quoted=("half.npz", "folder"))


def test_output_in_no_folder(refuses: Refuses) -> None:
    refuses("simulate", "--timeline", "no/where.json", quoted=("no/where.json", "no folder no"))
    refuses("train", *DIGITS, "--save", "no/where.insitu", quoted=("no/where.insitu",))


def test_program_that_would_be_overwritten_by_its_weights(refuses: Refuses) -> None:
    refuses("train", *DIGITS, "--save", "student.npz", quoted=("student.npz", "student.insitu"))


@pytest.mark.parametrize("command", [ONLINE, ("demo",)])
def test_file_in_place_of_the_output_folder(refuses: Refuses, command: tuple[str, ...]) -> None:
    Path("taken").write_text("mine")
    refuses(*command, "--out", "taken", quoted=("taken",))


def test_demo_leaves_other_peoples_files_alone(refuses: Refuses, run_folder: Path) -> None:
    (run_folder / "thesis.tex").write_text("years of work")
    refuses("demo", "--out", run_folder, quoted=(run_folder.name, "thesis.tex", "--out"))


def test_demo_leaves_other_runs_alone(refuses: Refuses, run_folder: Path) -> None:
    refuses("demo", "--out", run_folder, quoted=(run_folder.name, "no demo made", "--out"))


def test_demo_keeps_the_old_run_where_it_cannot_make_a_new_one(refuses: Refuses, run_folder: Path) -> None:
    refuses("demo", "--shift", "tilt:2", "--out", run_folder, quoted=("'tilt'", "rotate"))


@pytest.mark.parametrize("name", ["result.json", "accuracy.png", "checkpoint.npz", "student.insitu", "feedback.db"])
def test_folder_in_place_of_a_part_of_a_run(insitu: Insitu, name: str) -> None:
    Path("run", name).mkdir(parents=True)
    refused(insitu(*ONLINE, "--samples", "64", "--out", "run", "--json"), f"run/{name}")
    assert not list(Path("run").glob(".*"))


def test_scalars_without_room(insitu: Insitu, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard writes in a thread of its own: what befalls it there is told once, by the run."""
    write, written = RecordWriter.write, [0]

    def full(writer: RecordWriter, data: bytes) -> None:
        written[0] += 1
        if written[0] > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, data)

    monkeypatch.setattr(RecordWriter, "write", full)
    refused(insitu(*ONLINE, "--samples", "128", "--out", "run", "--json"), "run: no space left on device")
    assert not Path("run/result.json").exists()


# Runs that are there already.


def run_into(refuses: Refuses, folder: Path, *arguments: object, quoted: tuple[object, ...]) -> None:
    refuses(*ONLINE, "--samples", "256", "--out", folder, *arguments, quoted=quoted)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "foreign"])
def test_damaged_checkpoint(refuses: Refuses, run_folder: Path, damage: str) -> None:
    path = run_folder / "checkpoint.npz"
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :]
    path.write_bytes({"cut": whole[:-100], "empty": b"", "flipped": flipped, "foreign": b"PK\3\4 of old"}[damage])
    run_into(refuses, run_folder, quoted=(path, "checkpoint"))


@pytest.mark.parametrize(
    ("option", "value", "quoted"),
    [
        ("--seed", "4", ("seed 3", "not 4")),
        ("--model", "mlp:64-16-10", (STUDENT, "not mlp:64-16-10")),
        ("--shift", "blur:2", ("rotate:2", "not blur:2")),
        ("--batch", "16", ("batch 32", "not 16")),
        ("--format", "w4", ("w8a8", "not w4a8")),
        ("--exponents", "static", ("delayed", "not static")),
        ("--core", "edge8", ("core",)),
    ],
)
def test_another_runs_folder(
    refuses: Refuses, run_folder: Path, option: str, value: str, quoted: tuple[str, ...]
) -> None:
    run_into(refuses, run_folder, option, value, quoted=(run_folder, *quoted))


# Feedback stores.


def test_foreign_store(refuses: Refuses) -> None:
    with sqlite3.connect("accounts.db") as database:
        database.execute("create table account (name text)")
    database.close()
    refuses(*ONLINE, "--store", "accounts.db", quoted=("accounts.db", "account", "not a feedback store"))


def test_store_that_is_no_database(refuses: Refuses) -> None:
    Path("notes.db").write_text("bread, butter, a hundred more things" * 40)
    refuses(*ONLINE, "--store", "notes.db", quoted=("notes.db", "not a database"))


def test_read_only_store(insitu: Insitu, run_folder: Path) -> None:
    store = run_folder / "feedback.db"
    kept = store.read_bytes()
    asked = insitu(*ONLINE, "--samples", "64", "--out", "new", "--store", f"file:{store}?mode=ro", "--json")
    refused(asked, store, "readonly")
    assert store.read_bytes() == kept
    assert not list(Path("new").glob(".*"))


def test_store_of_another_seed(refuses: Refuses, run_folder: Path) -> None:
    path = run_folder / "feedback.db"
    refuses(*ONLINE, "--seed", "5", "--out", "new", "--store", path, quoted=(path, "seed 3", "opened with 5"))


def test_store_without_room(refuses: Refuses) -> None:
    refuses(*ONLINE, "--store-bytes", "10", quoted=("byte_budget is 10",))


def test_unreachable_database(refuses: Refuses, insitu: Insitu) -> None:
    url = "postgresql://reader:hunter2@127.0.0.1:9/feedback"
    refuses(*ONLINE, "--store", url, quoted=("127.0.0.1:9/feedback",))
    assert "hunter2" not in insitu(*ONLINE, "--store", url).err


@pytest.mark.parametrize(
    ("url", "quoted"),
    [("mysql://127.0.0.1/feedback", "'mysql'"), ("sqlite://", "memory"), ("sqlite:///no/where.db", "no/where.db")],
)
def test_database_that_cannot_be(refuses: Refuses, url: str, quoted: str) -> None:
    refuses(*ONLINE, "--store", url, quoted=(quoted,))


# Options.


@pytest.mark.parametrize(
    ("arguments", "quoted"),
    [
        (("train", *DIGITS, "--epochs", "-1"), ("--epochs",)),
        (("train", *DIGITS, "--epochs", "0"), ("--epochs",)),
        (("train", *DIGITS, "--epochs", "many"), ("--epochs",)),
        (("train", *DIGITS, "--batch", "0"), ("--batch",)),
        (("train", *DIGITS, "--seed", "-1"), ("--seed",)),
        (("train", *DIGITS, "--seed", str(2**32 - 1)), ("--seed",)),
        (("train", *DIGITS, "--schedule", "steps"), ("'steps'", "linear")),
        (("train", *DIGITS, "--lr", "0"), ("0.0",)),
        (("train", *DIGITS, "--lr", "nan"), ("nan",)),
        (("train", *DIGITS, "--lr", "1e9"), ("learning rate",)),
        (("train", *DIGITS, "--exponents", "rising"), ("'rising'", "delayed")),
        ((*ONLINE, "--threshold", "0"), ("threshold is 0.0",)),
        ((*ONLINE, "--threshold", "1.5"), ("threshold is 1.5",)),
        ((*ONLINE, "--detector", "oracle"), ("'oracle'", "margin")),
        ((*ONLINE, "--labels", "0"), ("--labels",)),
        ((*ONLINE, "--labels", "15"), ("a budget of 15 labels", "at least 16")),
        ((*ONLINE, "--pace", "0"), ("pace is 0.0", "above 0")),
        ((*ONLINE, "--samples", "0"), ("--samples",)),
        ((*ONLINE, "--lr", "-1"), ("-1.0",)),
        ((*ONLINE, "--shift", "tilt:2"), ("'tilt'", "rotate")),
        ((*ONLINE, "--shift", "rotate:6"), ("6", "1..5")),
        ((*ONLINE, "--shift", "rotate"), ("'rotate'", "rotate:3")),
        ((*ONLINE, "--shift", "rotate:1+"), ("'rotate:1+'",)),
        (("demo", "--shift", ""), ("''",)),
        ((*ONLINE, "--batch", "1"), ("batch is 1 and replay_share 0.5",)),
        ((*ONLINE, "--detector", "all", "--threshold", "0.5"), ("threshold is 0.5 for kind 'all'",)),
        ((*ONLINE, "--store", "sqlite+foo:///x.db"), ("x.db", "sqlite.foo")),
        (("simulate", "--classes", "1"), ("--classes",)),
        (("simulate", "--model", "mlp:64-5", "--classes", "3"), ("classes 3", "'mlp:64-5' has 5 outputs")),
        (("simulate", "--model", "mlp:²-10"), ("'mlp:²-10'",)),
        (("simulate", "--model", "mobilenet-v1:blocks=1.5"), ("1.5 blocks; allowed are 1 to",)),
        (("simulate", "--core", "n=4,n=8"), ("'n=4,n=8': n twice",)),
        (("simulate", "--model", "mlp:8-4", "--exponents", "exact"), ("exact exponents take two passes",)),
        (("scale", "--budget", "cycles=9", "--exponents", "exact"), ("exact exponents take two passes",)),
        (
            ("verify", "--model", "mlp:8-4", "--core", "n=4", "--batch", "2", "--exponents", "exact"),
            ("exact exponents take two passes",),
        ),
        (
            ("scale", "--budget", "cycles=150000", "--coefficients", "depth=1e300,width=1,resolution=1"),
            ("coefficient depth 1e+300; allowed are 1 to",),
        ),
        (("disasm", "--model", "mlp:8-4", "--draw", "map"), ("'map'", ".svg, .pdf, .png")),
        (("disasm", "--model", "mlp:8-4", "--draw", "map.bmp"), ("'map.bmp'", ".svg, .pdf, .png")),
        (("simulate", "--wings", "2"), ("--wings",)),
        (("simulate", "further"), ("further",)),
        (("fly",), ("'fly'",)),
        (("--wings",), ("--wings",)),
        (("data", "burn"), ("'burn'",)),
    ],
    ids=lambda value: " ".join(value)[-30:],
)
def test_bad_option(refuses: Refuses, arguments: tuple[str, ...], quoted: tuple[str, ...]) -> None:
    refuses(*arguments, quoted=quoted)


def test_options_that_mean_nothing_beside_others(refuses: Refuses, insitu: Insitu, program: Path) -> None:
    """A program file says its model, batch, core and formats itself."""
    for option, value in (("--model", "lenet"), ("--batch", "4"), ("--core", "n=8"), ("--in-shape", "64")):
        refuses("simulate", "--program", program, option, value, quoted=(f"program {program} and {option}",))
        refuses("disasm", program, option, value, quoted=(f"program {program} and {option}",))
    refused(insitu("disasm", program, "--json", "--map"), "--json and --map")


@pytest.mark.parametrize(
    ("arguments", "quoted"),
    [
        (("--model", "mlp:abc"), ("mlp:abc",)),
        (("--batch", "100000"), ("100000 x 784 is more than an instruction can name",)),
        (("--model", "net.py:make"), ("--in-shape",)),
        (("--core", "edge8,weight_bits=17"), ("weight_bits=17",)),
    ],
    ids=lambda value: " ".join(value)[-30:],
)
def test_nothing_is_synthesised_for_a_model_that_is_none(
    refuses: Refuses, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], quoted: tuple[str, ...]
) -> None:
    def minutes(*_: object, **__: object) -> None:
        raise AssertionError("synthesis began")

    monkeypatch.setattr("insitu.fpga.synth.synthesise", minutes)
    refuses("synth", *arguments, quoted=quoted)


def test_what_people_named_is_shown_as_they_wrote_it(insitu: Insitu) -> None:
    refused(insitu("simulate", "--model", ":smile:[red]x"), "':smile:[red]x'")
    outcome = insitu("simulate", "--model", "mlp:8-4", "--batch", "2", "--timeline", ":smile:[red]x.json")
    assert ":smile:[red]x.json" in outcome.out
    assert Path(":smile:[red]x.json").exists()


def test_option_without_its_value(insitu: Insitu) -> None:
    refused(insitu("simulate", "--model"), "--model")


# Tracebacks.


@pytest.mark.parametrize("where", ["before", "after", "environment"])
def test_traceback_when_asked(insitu: Insitu, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    command = ("simulate", "--core", "edge9", "--json")
    if where == "environment":
        monkeypatch.setenv("INSITU_TRACEBACK", "1")
    asked = {"before": ("--traceback", *command), "after": (*command, "--traceback"), "environment": command}[where]
    outcome = insitu(*asked)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("Traceback (most recent call last)")
    assert "ArchError: core 'edge9'" in outcome.err


def test_no_traceback_where_the_environment_says_no(refuses: Refuses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSITU_TRACEBACK", "0")
    refuses("simulate", "--core", "edge9", quoted=("'edge9'",))


def test_an_error_of_our_own_is_not_hidden(insitu: Insitu, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault of the library")

    monkeypatch.setattr("insitu.sim.cycles.report", broken)
    with pytest.raises(ZeroDivisionError, match="a fault of the library"):
        insitu("simulate", "--model", STUDENT)


# A fleet.


@pytest.mark.parametrize(
    ("arguments", "quoted"),
    [
        (("--devices", "ten"), ("'ten'", "10,50,200")),
        (("--devices", "5,0"), ("[5, 0]", "at least 1")),
        (("--scenes", "rotate:2,fog:3"), ("'fog'", "rotate, translate")),
        (("--sharing", "first"), ("'first'", "equal, lent")),
        (("--engine", "threads"), ("'threads'", "processes, ray, dask")),
        (("--memory-bytes", "10"), ("10 bytes", "one sample")),
        (("--model", "mlp:9-10"), ("9", "64")),
    ],
)
def test_wrong_fleet(refuses: Refuses, arguments: tuple[str, ...], quoted: tuple[str, ...]) -> None:
    refuses("fleet", *arguments, quoted=quoted)
