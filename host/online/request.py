"""What an online run is asked to do, and whether it can."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn

from insitu.arch.declaration import Declaration
from insitu.arch.files import is_unfinished, write_whole
from insitu.arch.isa import Opcode
from insitu.arch.params import CoreParams
from insitu.arch.program import Program
from insitu.host.batches import BatchComposer
from insitu.host.compiler.compile import Compiled, compile_module
from insitu.host.errors import CheckpointError, HostError
from insitu.host.online.checkpoint import Checkpoint, canonical, differences
from insitu.host.online.gold import check_gold
from insitu.host.online.policy import OnlinePolicy
from insitu.host.store import store_name
from insitu.models import students
from insitu.models.datasets import Dataset, load
from insitu.models.shifts import Shift

#: What a run writes into its folder.
PROGRAM, STORE, CHECKPOINT, TEACHER = "student.insitu", "feedback.db", "checkpoint.npz", "teacher.npz"
PICTURE, RESULT, SCALARS, IDENTITY, LOCK = "accuracy.png", "result.json", "scalars", "run.json", "run.lock"
PARTS = (PROGRAM, STORE, CHECKPOINT, TEACHER, PICTURE, RESULT, SCALARS, IDENTITY, LOCK)
#: What SQLite keeps beside the store.
_BESIDE = tuple(f"{STORE}-{suffix}" for suffix in ("wal", "shm", "journal"))
#: Parts that a run broken off before its first checkpoint left, and that the next would go on with.
_REUSED = (STORE, TEACHER)


def is_part(path: Path) -> bool:
    """Whether a run wrote this file of its folder, or was writing it when it was broken off."""
    stem, suffix = CHECKPOINT.split(".")
    before = re.fullmatch(rf"{stem}-\d+\.{suffix}", path.name)  # a shrinking
    return bool(before) or path.name in PARTS + _BESIDE or any(is_unfinished(path.name, part) for part in PARTS)


@dataclass(frozen=True, kw_only=True)
class OnlineRun:
    """What a run is made of.

    out: its folder: feedback store, checkpoint, teacher, program, scalars, picture and result. store: a database URL
    instead of the folder's own file. temperature: of the teacher's soft labels. flag_rate: share of wrong answers that
    a user flags. label_rate: share of the samples asked for whose true label arrives. gold: questions that go to the
    teacher with each chunk's, of the laboratory's images; 0 for none. curve: chunks between two points of the accuracy
    curve.
    """

    data: str
    shift: str
    model: str
    out: Path
    seed: int = 0
    core: CoreParams = field(default_factory=CoreParams)
    declaration: Declaration = field(default_factory=Declaration)
    batch: int = 32
    lr: float = 0.2
    temperature: float = 1.5
    policy: OnlinePolicy = field(default_factory=OnlinePolicy)
    flag_rate: float = 0.0
    label_rate: float = 0.0
    gold: int = 8
    backend: str = "emulator"
    store: str | None = None
    store_bytes: int = 1_000_000
    root: str | None = None
    curve: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise HostError(f"lr is {self.lr}: must be finite and above 0")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise HostError(f"temperature is {self.temperature}: must be finite and above 0")
        for name in ("flag_rate", "label_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise HostError(f"{name} is {getattr(self, name)}: must lie from 0 to 1")
        check_gold(self.gold, self.policy.label_budget)
        if self.curve < 1:
            raise HostError(f"curve is {self.curve}: must be at least 1")

    @property
    def meta(self) -> dict[str, Any]:
        """What the run's program says of the run, beside its numbers."""
        return {"data": self.data, "shift": self.shift, "model": self.model, "seed": self.seed}

    @property
    def identity(self) -> str:
        """All that decides what the run does but its length: JSON. Where it runs (folder, root, backend), its store's
        budget and its curve's points may change on the way."""
        named = ("data", "shift", "model", "seed", "batch", "lr", "temperature", "flag_rate", "label_rate", "gold")
        policy = asdict(self.policy)
        del policy["samples"]
        return canonical(
            {name: getattr(self, name) for name in named}
            | {
                "core": self.core.to_json(),
                "format": self.declaration.short,
                "declaration": self.declaration.to_json(),
                "policy": policy,
                "store": None if self.store is None else store_name(self.store),
            }
        )


def check(request: OnlineRun) -> tuple[Dataset, Program]:
    """Raise what would stop a run of this request: data, shift, model, core or declaration that are none or do not go
    together. Returns the data and the program, whose exponents are those of a student not yet trained."""
    Shift.parse(request.shift)
    dataset = load(request.data, request.root)
    policy = request.policy
    BatchComposer(batch=request.batch, seed=request.seed, replay_share=policy.replay_share).check_fresh()
    student = students.build(request.model, in_shape=dataset.in_shape, classes=dataset.classes, seed=request.seed)
    return dataset, compile_student(request, student, dataset).program


def check_folder(request: OnlineRun, program: Program) -> Checkpoint | None:
    """The checkpoint in the request's folder, if any. Raises CheckpointError where it, or anything else there that a
    run would go on with, is another run's, nobody knows whose, or damaged."""
    _check_identity(request)
    path = request.out / CHECKPOINT
    if path.exists():
        return Checkpoint.load(path, program, request.identity)
    found = [part for part in _REUSED if (request.out / part).exists()]
    if found and not (request.out / IDENTITY).exists():
        raise CheckpointError(
            f"{request.out / found[0]} is there, and no {IDENTITY} that says whose it is: give this run another folder"
        )
    return None


def _check_identity(request: OnlineRun) -> None:
    path = request.out / IDENTITY
    if not path.exists():
        return
    try:
        differ = differences(path.read_text(), request.identity)
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: no online run's identity, or a damaged one ({error})") from error
    if differ:
        raise CheckpointError(f"{request.out} holds a run of {differ}: give this one another folder")


def check_begun(folder: Path, *parts: str) -> None:
    """Raise CheckpointError where a folder has not these parts of a run's."""
    missing = [part for part in parts if not (folder / part).is_file()]
    if missing:
        raise CheckpointError(f"{folder} holds no online run that has begun: there is no {missing[0]}")


def claim(request: OnlineRun) -> None:
    """Write down whose the request's folder is, before anything is in it."""
    write_whole(request.out / IDENTITY, request.identity.encode() + b"\n")


def logits_encoding(program: Program) -> Literal["int8", "int16"]:
    """What the store must keep a student's answers in."""
    answer = [i.a for i in program.entry("infer") if i.opcode is Opcode.STORE][-1]
    width = next(t.width for t in program.tensors.values() if t.matrix == answer)
    return "int8" if width <= 8 else "int16"


class Compilable(Protocol):
    """What a request says of its program. meta: what the program says of the run, beside its numbers."""

    @property
    def core(self) -> CoreParams: ...
    @property
    def declaration(self) -> Declaration: ...
    @property
    def batch(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def meta(self) -> dict[str, Any]: ...


def compile_student(request: Compilable, student: nn.Module, dataset: Dataset) -> Compiled:
    """The request's program, and the weights the student has now."""
    return compile_module(
        student,
        core=request.core,
        declaration=request.declaration,
        batch=request.batch,
        calibration=dataset.x_train[:256],
        learning_rate=request.lr,
        sample_range=1.0,
        meta=request.meta,
    )
