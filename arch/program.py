"""The program container: one file with the core's parameters, the instructions, the memory map and the formats.

    magic, 8 bytes | header length, uint32 | header, JSON | instruction words, uint32 each | SHA-256 of all before

All integers little-endian. A file is whole or refused; it is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.check import check, check_apart
from insitu.arch.declaration import Declaration, Role
from insitu.arch.errors import ArchError, require
from insitu.arch.files import write_whole
from insitu.arch.isa import MOMENTUM_ONE, UPDATES, WORDS, Instruction, Opcode, assemble, disassemble
from insitu.arch.layout import Matrix, Memory
from insitu.arch.numbers import EXPONENT_MAX, EXPONENT_MIN, FixedFormat
from insitu.arch.optimizer import Optimizer
from insitu.arch.params import CoreParams
from insitu.arch.samples import Samples

MAGIC = b"INSITU\x00\x03"
_LENGTH = struct.Struct("<I")
_DIGEST = hashlib.sha256().digest_size
#: What a tensor's place is written as, beside its memory.
_PLACE = ("base", "rows", "cols", "pitch", "groups", "tail")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A named matrix of the program: its place, role, width in bits and scale register.

    layer: the student's layer it belongs to, "" for the program's inputs. bias: the last column is the layer's bias.
    samples: how the host lays samples into it; None where a row of values is a row of the matrix.
    """

    matrix: Matrix
    role: Role
    width: int
    scale: int
    layer: str = ""
    bias: bool = False
    samples: Samples | None = None

    def to_json(self) -> dict[str, Any]:
        m = self.matrix
        return {
            "memory": m.memory.name,
            **{k: getattr(m, k) for k in _PLACE},
            **{k: getattr(self, k) for k in ("role", "width", "scale", "layer", "bias")},
            "samples": None if self.samples is None else self.samples.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tensor:
        place = {k: data[k] for k in _PLACE}
        return cls(
            matrix=Matrix(memory=Memory[data["memory"]], **place),
            role=Role(data["role"]),
            width=data["width"],
            scale=data["scale"],
            layer=data["layer"],
            bias=data["bias"],
            samples=None if data["samples"] is None else Samples.from_json(data["samples"]),
        )


@dataclass(frozen=True, kw_only=True)
class Program:
    """A compiled student.

    entries: name -> index of the first instruction; each entry runs to its HALT.
    scales: the scale registers' exponents a run starts from. bias_exponents: layer -> exponent of its bias operand.
    tables: tensor in TAB -> its words, which `load_tables` loads before anything else runs.
    optimizer: the step that `train` takes: a whole one, of a batch in one part; `micro_step` makes the others of it.
    meta: free JSON for people (model, batch policy, versions); no part of what runs.
    """

    core: CoreParams
    declaration: Declaration
    instructions: tuple[Instruction, ...]
    entries: Mapping[str, int]
    tensors: Mapping[str, Tensor]
    scales: tuple[int, ...]
    batch: int
    bias_exponents: Mapping[str, int] = field(default_factory=dict)
    tables: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    optimizer: Optimizer = field(default_factory=Optimizer)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(
            1 <= len(self.instructions) <= self.core.program_depth,
            f"{len(self.instructions)} instructions: this core holds 1 to {self.core.program_depth}",
        )
        require(self.batch >= 1, f"batch {self.batch}: must be at least 1")
        has = self.core.scales
        require(len(self.scales) <= has, f"{len(self.scales)} scale registers: this core has {has}")
        for exponent in self.scales:
            require(
                EXPONENT_MIN <= exponent <= EXPONENT_MAX,
                f"scale exponent {exponent}: allowed are {EXPONENT_MIN} to {EXPONENT_MAX}",
            )
        for name, entry in self.entries.items():
            require(0 <= entry < len(self.instructions), f"entry {name!r} at {entry}: outside the program")
            require(
                any(i.opcode is Opcode.HALT for i in self.instructions[entry:]), f"entry {name!r} does not reach a HALT"
            )
        for index, instruction in enumerate(self.instructions):
            try:
                check(instruction, self.core)
                check_apart(instruction, self.core.n)
            except ArchError as error:
                raise ArchError(f"instruction {index}: {error}") from error
        for name, words in self.tables.items():
            tables = self.tensors.get(name)
            require(tables is not None, f"table {name!r}: no tensor of that name")
            assert tables is not None
            rows, half = tables.matrix.rows, 1 << (tables.width - 1)
            require(len(words) == rows, f"table {name!r} of {len(words)} words: its tensor has {rows}")
            require(
                all(isinstance(word, int) and -half <= word < half for word in words),
                f"table {name!r}: its words are not all integers of {tables.width} bits",
            )
        for name, tensor in self.tensors.items():
            memory = tensor.matrix.memory
            end, depth = tensor.matrix.end(self.core.n), self.core.depth(memory)
            require(end <= depth, f"tensor {name!r} ends at word {end} of {memory.name}, which has {depth}")
            require(0 <= tensor.scale < len(self.scales), f"tensor {name!r}: no scale register {tensor.scale}")
            if tensor.samples is not None:
                wanted = (tensor.samples.pixels * self.batch, tensor.samples.cols)
                found = (tensor.matrix.rows, tensor.matrix.width)
                require(found == wanted, f"tensor {name!r} of {found}: {self.batch} of its samples take {wanted}")

    @property
    def step_samples(self) -> int:
        """Samples of a training step, in all its parts."""
        return self.batch * self.optimizer.micro_batches

    def micro_step(self, *, first: bool, last: bool) -> Program:
        """The program of one part of a batch's step: the first takes the momentum and the decay, the last moves the
        masters. The same where it is both."""
        if (first and last) or self.optimizer.plain:
            return self
        changes: dict[str, int] = {"hold": int(not last)}
        if not first:
            changes |= {"momentum_mul": MOMENTUM_ONE, "decay_mul": 0, "decay_shift": 0}
        words = tuple(replace(i, **changes) if i.opcode in UPDATES else i for i in self.instructions)  # type: ignore[arg-type]
        return replace(self, instructions=words)

    @cached_property
    def exact(self) -> bool:
        """Whether a pass takes an exponent from its own range: in two passes, which the emulator alone makes."""
        return any(i.exact for i in self.instructions)

    @cached_property
    def words(self) -> npt.NDArray[np.uint32]:
        """The instruction words, uint32 [count, WORDS]."""
        return assemble(self.instructions)

    def start(self, name: str) -> int:
        """The index of an entry's first instruction. Raises ArchError for an unknown name."""
        if name not in self.entries:
            raise ArchError(f"entry {name!r}: this program has {', '.join(self.entries)}")
        return self.entries[name]

    def entry(self, name: str) -> tuple[Instruction, ...]:
        """The instructions of an entry, its HALT included. Raises ArchError for an unknown name."""
        start = self.start(name)
        end = next(i for i in range(start, len(self.instructions)) if self.instructions[i].opcode is Opcode.HALT)
        return self.instructions[start : end + 1]

    def initial_format(self, tensor: str) -> FixedFormat:
        """A tensor's format with the exponent a run starts from."""
        t = self.tensors[tensor]
        return FixedFormat(width=t.width, exponent=self.scales[t.scale])

    def used(self, memory: Memory) -> int:
        """Words of a memory up to the end of its last tensor."""
        here = (t.matrix for t in self.tensors.values() if t.matrix.memory is memory)
        return max((matrix.end(self.core.n) for matrix in here), default=0)

    def table(self, name: str) -> npt.NDArray[np.int64]:
        """A table as its LOAD takes it: its words, the same in every lane, int64 [words, N]."""
        return np.repeat(np.array(self.tables[name], dtype=np.int64)[:, None], self.core.n, axis=1)

    def disassemble(self) -> str:
        """A readable listing: entries as labels, an instruction a line."""
        labels: dict[int, list[str]] = {}
        for name, start in self.entries.items():
            labels.setdefault(start, []).append(name)
        lines = disassemble(self.words).split("\n")
        return "\n".join("\n".join([*(f"{name}:" for name in labels.get(i, [])), line]) for i, line in enumerate(lines))

    def to_bytes(self) -> bytes:
        """The container. The same program gives the same bytes."""
        header = {
            "core": self.core.to_json(),
            "hash": f"{self.core.hash:016x}",
            "declaration": self.declaration.to_json(),
            "instructions": len(self.instructions),
            "entries": dict(self.entries),
            "tensors": {name: t.to_json() for name, t in self.tensors.items()},
            "scales": list(self.scales),
            "batch": self.batch,
            "bias_exponents": dict(self.bias_exponents),
            "tables": {name: list(words) for name, words in self.tables.items()},
            "optimizer": self.optimizer.to_json(),
            "meta": dict(self.meta),
        }
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        body = MAGIC + _LENGTH.pack(len(text)) + text + self.words.astype("<u4").tobytes()
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str = "program") -> Program:
        """Read a container; `name` appears in errors. Raises ArchError unless every byte is right."""
        require(data[: len(MAGIC)] == MAGIC, f"{name}: not an insitu program (it begins with {data[:8]!r})")
        require(len(data) >= len(MAGIC) + _LENGTH.size + _DIGEST, f"{name}: truncated at {len(data)} bytes")
        body, digest = data[:-_DIGEST], data[-_DIGEST:]
        (length,) = _LENGTH.unpack_from(body, len(MAGIC))
        start = len(MAGIC) + _LENGTH.size
        require(start + length <= len(body), f"{name}: truncated at {len(data)} bytes")
        require(hashlib.sha256(body).digest() == digest, f"{name}: damaged or truncated (its checksum differs)")
        try:
            header = json.loads(body[start : start + length])
            core = CoreParams.from_json(header["core"])
            require(
                header["hash"] == f"{core.hash:016x}",
                f"{name}: made for another version of the architecture (parameter hash {header['hash']})",
            )
            count = header["instructions"]
            require(isinstance(count, int) and count >= 1, f"{name}: a header of {count!r} instructions")
            for key in ("meta", "bias_exponents", "entries", "tensors", "tables"):
                require(isinstance(header[key], dict), f"{name}: header field {key!r} is no mapping")
            words = np.frombuffer(body[start + length :], dtype="<u4").reshape(count, WORDS)
            return cls(
                core=core,
                declaration=Declaration.from_json(header["declaration"]),
                instructions=tuple(Instruction.decode(w) for w in words),
                entries=header["entries"],
                tensors={k: Tensor.from_json(t) for k, t in header["tensors"].items()},
                scales=tuple(header["scales"]),
                batch=header["batch"],
                bias_exponents=header["bias_exponents"],
                tables={name: tuple(words) for name, words in header["tables"].items()},
                optimizer=Optimizer.from_json(header["optimizer"]),
                meta=header["meta"],
            )
        except ArchError as error:
            text = str(error)
            raise ArchError(text if text.startswith(name) else f"{name}: {text}") from error
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ArchError(f"{name}: its header is not a program's ({error!r})") from error

    def save(self, path: str | Path) -> None:
        """Write the container whole or not at all. Raises OSError where the disk does not take it."""
        write_whole(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read a container from a file. Raises ArchError for a file that is none, OSError where it cannot be read."""
        return cls.from_bytes(Path(path).read_bytes(), name=str(path))
