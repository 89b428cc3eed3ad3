"""The program container: whole or refused, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insitu.arch.declaration import Declaration, Role, RoleFormat
from insitu.arch.errors import ArchError
from insitu.arch.isa import WORDS, Instruction, Opcode
from insitu.arch.layout import Matrix, Memory
from insitu.arch.numbers import FixedFormat, Rounding
from insitu.arch.params import CoreParams
from insitu.arch.program import MAGIC, Program, Tensor

HEAD = len(MAGIC) + 4


def make(**changes: Any) -> Program:
    """One layer that answers and stops; entry `stop` is the HALT alone."""
    x = Matrix(memory=Memory.ACT, base=0, rows=2, cols=3, pitch=1)
    w = Matrix(memory=Memory.WGT, base=0, rows=5, cols=4, pitch=1)
    values: dict[str, Any] = {
        "core": CoreParams(n=4, act_depth=16, err_depth=8, wgt_depth=8, program_depth=8),
        "declaration": Declaration(layers={"fc": {"error": RoleFormat(width=6)}}),
        "instructions": (
            Instruction(opcode=Opcode.LOAD, d_pitch=1, rows=2, cols=3),
            Instruction(
                opcode=Opcode.FORWARD,
                bias=1,
                rounding=Rounding.NEAREST,
                width=8,
                weight_width=8,
                weight_shift=8,
                a_pitch=1,
                b_pitch=1,
                d_base=4,
                d_pitch=2,
                rows=2,
                cols=5,
                depth=4,
                sa=0,
                sb=1,
                sd=2,
                bias_exponent=-3,
            ),
            Instruction(opcode=Opcode.HALT),
        ),
        "entries": {"answer": 0, "stop": 2},
        "tensors": {
            "x": Tensor(matrix=x, role=Role.ACTIVATION, width=8, scale=0),
            "fc.weight": Tensor(matrix=w, role=Role.MASTER, width=16, scale=1, layer="fc", bias=True),
        },
        "scales": (-7, -15, -4),
        "batch": 2,
        "bias_exponents": {"fc": -3},
        "meta": {"model": "one layer", "versions": [1, 2]},
    }
    return Program(**(values | changes))


PROGRAM = make()
DATA = PROGRAM.to_bytes()


def seal(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def header() -> dict[str, Any]:
    (length,) = struct.unpack_from("<I", DATA, len(MAGIC))
    return json.loads(DATA[HEAD : HEAD + length])


def forge(head: Any, words: bytes | None = None) -> bytes:
    """A container with another header, its checksum right."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    words = PROGRAM.words.astype("<u4").tobytes() if words is None else words
    return seal(MAGIC + struct.pack("<I", len(text)) + text + words)


# Round trips.


def test_bytes_round_trip() -> None:
    back = Program.from_bytes(DATA)
    assert back == PROGRAM
    assert np.array_equal(back.words, PROGRAM.words)
    assert back.to_bytes() == DATA


def test_the_same_program_gives_the_same_bytes() -> None:
    shuffled = make(
        entries={"stop": 2, "answer": 0},
        tensors=dict(reversed(PROGRAM.tensors.items())),
        meta={"versions": [1, 2], "model": "one layer"},
    )
    assert shuffled.to_bytes() == DATA


@pytest.mark.parametrize(
    "changes",
    [{"batch": 3}, {"scales": (-7, -15, -5)}, {"meta": {}}, {"entries": {"answer": 0}}, {"bias_exponents": {}}],
)
def test_another_program_gives_other_bytes(changes: dict[str, Any]) -> None:
    other = make(**changes)
    assert other.to_bytes() != DATA
    assert Program.from_bytes(other.to_bytes()) == other


def test_a_file_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "student.bin"
    PROGRAM.save(path)
    assert path.read_bytes() == DATA
    assert Program.load(str(path)) == PROGRAM
    assert list(tmp_path.iterdir()) == [path]


def test_the_layout_is_the_documented_one() -> None:
    assert DATA.startswith(MAGIC)
    (length,) = struct.unpack_from("<I", DATA, len(MAGIC))
    words = np.frombuffer(DATA[HEAD + length : -32], dtype="<u4")
    assert np.array_equal(words.reshape(-1, WORDS), PROGRAM.words)
    assert hashlib.sha256(DATA[:-32]).digest() == DATA[-32:]
    assert header()["hash"] == f"{PROGRAM.core.hash:016x}"


# Damage.


def test_every_truncation_is_refused() -> None:
    for end in range(len(DATA)):
        with pytest.raises(ArchError, match=r"^mine: "):
            Program.from_bytes(DATA[:end], name="mine")


def test_every_flipped_byte_is_refused() -> None:
    for position in range(len(DATA)):
        damaged = bytearray(DATA)
        damaged[position] ^= 0x20
        with pytest.raises(ArchError, match=r"^mine: "):
            Program.from_bytes(bytes(damaged), name="mine")


def test_anything_behind_it_is_refused() -> None:
    with pytest.raises(ArchError, match="damaged"):
        Program.from_bytes(DATA + b"\0")


@pytest.mark.parametrize("data", [b"", b"\x7fELF\x02\x01\x01\x00" + bytes(100), b"PK\x03\x04", MAGIC[:-1] + b"\x01"])
def test_foreign_files_are_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "foreign.bin"
    path.write_bytes(data)
    with pytest.raises(ArchError, match=r"foreign\.bin: not an insitu program") as error:
        Program.load(path)
    assert repr(data[:8]) in str(error.value)


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Program.load(tmp_path / "none.bin")


def test_another_architecture_is_refused() -> None:
    head = header() | {"hash": "0123456789abcdef"}
    with pytest.raises(ArchError, match=r"another version of the architecture \(parameter hash 0123456789abcdef\)"):
        Program.from_bytes(forge(head))


def test_the_hash_covers_the_cores_fields() -> None:
    head = header()
    head["core"]["act_depth"] += 1
    with pytest.raises(ArchError, match="another version"):
        Program.from_bytes(forge(head))


def test_a_forged_header_that_is_right_is_read() -> None:
    assert Program.from_bytes(forge(header())) == PROGRAM


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"3", b'"text"', b"{}", b"NaN"])
def test_headers_that_are_none(text: bytes) -> None:
    with pytest.raises(ArchError, match=r"^mine: "):
        Program.from_bytes(forge(text), name="mine")


@pytest.mark.parametrize("key", sorted(header()))
def test_a_header_lacks_a_field(key: str) -> None:
    head = {k: v for k, v in header().items() if k != key}
    with pytest.raises(ArchError, match=key):
        Program.from_bytes(forge(head))


def refused_or_whole(head: Any) -> None:
    """Refused with this room's error, or accepted as a program that writes itself again."""
    try:
        program = Program.from_bytes(forge(head), name="mine")
    except ArchError as error:
        message = str(error)
    else:
        message = "mine: "
        assert Program.from_bytes(program.to_bytes()) == program
    assert message.startswith("mine: ")


@pytest.mark.parametrize("key", sorted(header()))
def test_a_header_of_wrong_values_never_crashes(key: str) -> None:
    for value in (None, [], {}, "x", -5, 1.5, 10**30, [{}], {"x": 1}, {"x": {}}):
        refused_or_whole(header() | {key: value})


@pytest.mark.parametrize("key", sorted(header()["tensors"]["x"]))
def test_a_tensor_of_wrong_values_never_crashes(key: str) -> None:
    for value in (None, [], {}, "x", -5, 10**30):
        head = header()
        head["tensors"]["x"][key] = value
        refused_or_whole(head)


@pytest.mark.parametrize("count", [0, 1, 2, 4, -1, 2**40])
def test_the_count_of_instructions_is_checked(count: int) -> None:
    with pytest.raises(ArchError, match=r"^mine: "):
        Program.from_bytes(forge(header() | {"instructions": count}), name="mine")


def test_words_that_are_no_instruction() -> None:
    words = PROGRAM.words.copy()
    words[1, 15] = 1
    with pytest.raises(ArchError, match="mine: instruction word 15 is 0x00000001: reserved"):
        Program.from_bytes(forge(header(), words.tobytes()), name="mine")
    with pytest.raises(ArchError, match=r"^mine: "):
        Program.from_bytes(forge(header(), PROGRAM.words.tobytes()[:-2]), name="mine")


# What no program can be.


def place(**changes: Any) -> Tensor:
    matrix = Matrix(**({"memory": Memory.ERR, "base": 0, "rows": 8, "cols": 4, "pitch": 1} | changes))
    return Tensor(matrix=matrix, role=Role.ERROR, width=8, scale=0)


@pytest.mark.parametrize(
    ("changes", "bad"),
    [
        ({"instructions": ()}, "0 instructions: this core holds 1 to 8"),
        ({"instructions": PROGRAM.instructions * 3}, "9 instructions: this core holds 1 to 8"),
        ({"batch": 0}, "batch 0"),
        ({"scales": (0,) * 65}, "65 scale registers: this core has 64"),
        ({"scales": (0, 0, 128)}, "exponent 128: allowed are -128 to 127"),
        ({"scales": (0, 0, -129)}, "exponent -129"),
        ({"entries": {"answer": 3}}, "'answer' at 3: outside"),
        ({"entries": {"answer": -1}}, "'answer' at -1: outside"),
        ({"instructions": PROGRAM.instructions[:2], "entries": {"answer": 0}}, "'answer' does not reach a HALT"),
        ({"tensors": {"e": place(base=1)}}, "tensor 'e' ends at word 9 of ERR"),
        ({"tensors": {"e": place(pitch=2)}}, "tensor 'e' ends at word 15 of ERR"),
        ({"tensors": {"x": replace(PROGRAM.tensors["x"], scale=3)}}, "tensor 'x': no scale register 3"),
        ({"tensors": {"x": replace(PROGRAM.tensors["x"], scale=-1)}}, "tensor 'x': no scale register -1"),
    ],
)
def test_what_no_program_can_be(changes: dict[str, Any], bad: str) -> None:
    with pytest.raises(ArchError, match=bad):
        make(**changes)


def test_an_operand_beyond_its_memory() -> None:
    load, forward, halt = PROGRAM.instructions
    assert make(instructions=(load, replace(forward, d_base=12), halt))
    for operand, change in {"a": {"a_base": 15}, "b": {"b_base": 4}, "d": {"d_base": 13}}.items():
        with pytest.raises(ArchError, match=rf"instruction 1.*FORWARD.*operand {operand}.*ends at word"):
            make(instructions=(load, replace(forward, **change), halt))


def test_an_instruction_wider_than_its_core() -> None:
    load, forward, halt = PROGRAM.instructions
    with pytest.raises(ArchError, match=r"instruction 1.*FORWARD\.width=9"):
        make(instructions=(load, replace(forward, width=9), halt))


# Reading.


def test_entries_run_to_their_halt() -> None:
    assert PROGRAM.entry("answer") == PROGRAM.instructions
    assert PROGRAM.entry("stop") == PROGRAM.instructions[2:]
    with pytest.raises(ArchError, match="'train': this program has answer, stop"):
        PROGRAM.entry("train")


def test_initial_formats() -> None:
    assert PROGRAM.initial_format("x") == FixedFormat(width=8, exponent=-7)
    assert PROGRAM.initial_format("fc.weight") == FixedFormat(width=16, exponent=-15)


def test_the_listing_labels_its_entries() -> None:
    lines = PROGRAM.disassemble().split("\n")
    assert lines[0] == "answer:"
    assert lines[-2] == "stop:"
    assert [line.split(maxsplit=1)[1] for line in lines if not line.endswith(":")] == [
        str(i) for i in PROGRAM.instructions
    ]
