"""What a fleet is asked to do, and whether it can."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from insitu.arch.declaration import Declaration
from insitu.arch.params import CoreParams
from insitu.arch.program import Program
from insitu.host.batches import BatchComposer
from insitu.host.errors import HostError
from insitu.host.fleet.memory import Memory
from insitu.host.fleet.sharing import Sharing, check_sharing
from insitu.host.online.gold import check_gold
from insitu.host.online.policy import OnlinePolicy, check_pace
from insitu.host.online.request import compile_student, logits_encoding
from insitu.host.store.codec import Codec
from insitu.models import students
from insitu.models.datasets import Dataset, load
from insitu.models.shifts import Shift


@dataclass(frozen=True, kw_only=True)
class FleetRun:
    """What a fleet's run is made of.

    devices: sizes of the fleet, each run by itself; a device meets the same in every fleet that it is in. scenes:
    device k is in the one at k modulo their number. labels: bought of the teacher in all, None for any number; pace: of
    them, at most so many a sample of the devices' streams so far; sharing: who gets them. peers: other devices of
    its scene that a device asks about what the teacher has no label left for; 0 for none. teacher_batch: samples it
    takes at a time. gold: questions beside each round's, of the laboratory's images, labels like any other; 0 for none.
    memory_bytes: feedback that a device keeps. policy: of each.
    """

    data: str
    scenes: tuple[str, ...]
    model: str
    devices: tuple[int, ...]
    seed: int = 0
    core: CoreParams = field(default_factory=CoreParams)
    declaration: Declaration = field(default_factory=Declaration)
    batch: int = 16
    lr: float = 0.1
    temperature: float = 1.5
    labels: int | None = None
    pace: float | None = None
    sharing: Sharing = "lent"
    peers: int = 0
    teacher_batch: int = 256
    gold: int = 8
    memory_bytes: int = 50_000
    policy: OnlinePolicy = field(default_factory=lambda: OnlinePolicy(samples=320, chunk=32, rehearsals=2, audit=0.2))
    root: str | None = None

    def __post_init__(self) -> None:
        if not self.devices or min(self.devices) < 1:
            raise HostError(f"devices is {list(self.devices)}: one number or more, each at least 1")
        if not self.scenes:
            raise HostError("no scenes: at least one is wanted, such as rotate:2")
        for name in ("lr", "temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise HostError(f"{name} is {getattr(self, name)}: must be finite and above 0")
        for name in ("labels", "teacher_batch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise HostError(f"{name} is {getattr(self, name)}: must be at least 1")
        if self.peers < 0:
            raise HostError(f"peers is {self.peers}: must be at least 0")
        check_gold(self.gold)
        if self.labels is not None and self.labels <= self.gold * self.rounds:
            raise HostError(
                f"labels is {self.labels}: {self.rounds} rounds of {self.gold} gold questions leave none of them; must "
                f"be at least {self.gold * self.rounds + 1}, or fewer questions"
            )
        check_pace(self.pace)
        check_sharing(self.sharing)

    @property
    def rounds(self) -> int:
        """In which the teacher is asked: the chunks of a device's stream."""
        return -(-self.policy.samples // self.policy.chunk)

    @property
    def meta(self) -> dict[str, Any]:
        """What the devices' program says of the run, beside its numbers."""
        return {"data": self.data, "model": self.model, "seed": self.seed}

    def scene(self, device: int) -> str:
        """The scene of a device."""
        return self.scenes[device % len(self.scenes)]


def check(request: FleetRun) -> Dataset:
    """Raise what would stop a run of this request. Returns its data."""
    for scene in request.scenes:
        Shift.parse(scene)
    dataset = load(request.data, request.root)
    replay = request.policy.replay_share
    BatchComposer(batch=request.batch, seed=request.seed, replay_share=replay).check_fresh()
    student = students.build(request.model, in_shape=dataset.in_shape, classes=dataset.classes, seed=request.seed)
    memory_of(request, dataset, compile_student(request, student, dataset).program, 0)
    return dataset


def memory_of(request: FleetRun, dataset: Dataset, program: Program, seed: int) -> Memory:
    """An empty memory of a device. Raises HostError where it has no room for a sample."""
    codec = Codec(shape=dataset.in_shape, classes=dataset.classes, logits=logits_encoding(program))
    return Memory(codec, byte_budget=request.memory_bytes, seed=seed)
