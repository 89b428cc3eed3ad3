"""A device of a fleet: what it is between two turns, and a turn of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from insitu.arch.program import Program
from insitu.host.compiler.compile import Compiled
from insitu.host.device import Driver, open_device
from insitu.host.errors import MemoryFault
from insitu.host.fleet.memory import Memory
from insitu.host.fleet.request import FleetRun, memory_of
from insitu.host.fleet.service import Answers, Pixels
from insitu.host.online.checkpoint import Checkpoint, canonical
from insitu.host.online.loop import Asking, OnlineLoop
from insitu.host.online.scene import Surroundings
from insitu.models import draws
from insitu.models.datasets import Dataset, load
from insitu.models.shifts import Shift


@dataclass(frozen=True, kw_only=True)
class Member:
    """A device between two turns: all that its next one depends on, but what the teacher says.

    checkpoint: of its loop; None before its first turn. memory: its feedback. asking: the chunk whose answers it waits
    for; None before its first turn and after its last. fault: of its memory, for which it takes no more turns; its
    checkpoint, of when that was found, then has the incumbent in place of what the memory holds.
    """

    number: int
    memory: Memory
    checkpoint: Checkpoint | None = None
    asking: Asking | None = None
    fault: str = ""

    def asked(self, shape: tuple[int, ...]) -> Pixels:
        """What it sends to the teacher, uint8 [n, *shape]."""
        if self.asking is None:
            return np.empty((0, *shape), np.uint8)
        return np.rint(self.asking.x * 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Turns of some devices, for a process that has nothing but this. program: its container. masters: what devices
    begin with. answers: the teacher's, by member."""

    request: FleetRun
    program: bytes
    masters: dict[str, npt.NDArray[np.int32]]
    members: list[Member]
    answers: list[Answers]


def begin(request: FleetRun, dataset: Dataset, compiled: Compiled, number: int) -> Member:
    """A device that has not had a turn."""
    return Member(number=number, memory=memory_of(request, dataset, compiled.program, _seed(request, number)))


def take(turns: Turns) -> list[Member]:
    """Take a turn of each device: it trains on what the teacher said, then answers its next chunk; after the last one
    it ends with the incumbent. One whose memory is found faulty is set aside; the others go on.

    The devices take turns on one emulator of this process: a device is its masters, velocities, scale registers and
    seed, which come and go with it, so that a fleet needs one prepared program however large it is.
    """
    driver = device(turns.program)
    return [_turn(turns, driver, member, said) for member, said in zip(turns.members, turns.answers, strict=True)]


def _turn(turns: Turns, driver: Driver, member: Member, said: Answers) -> Member:
    if member.fault:
        return member
    request, seed = turns.request, _seed(turns.request, member.number)
    policy = request.policy
    if member.checkpoint is None:
        driver.load(driver.program)  # its scale registers as they begin
        driver.write_weights(turns.masters)
        driver.seed = seed + 1
    loop = OnlineLoop(
        driver,
        Surroundings(
            dataset=_data(request.data, request.root), shift=Shift.parse(request.scene(member.number)), seed=seed
        ),
        _nobody,
        member.memory,
        policy=policy,
        seed=seed,
        identity=canonical({"device": member.number, "seed": request.seed}),
    )
    if member.checkpoint is not None:
        loop.go_on(member.checkpoint)
    asking = None
    try:
        with loop.counted():
            if member.asking is not None:
                loop.learn(member.asking, said.astype(np.float32))
            if loop.progress.samples < policy.samples:
                asking = loop.answer(min(policy.chunk, policy.samples - loop.progress.samples))
        if asking is None:
            loop.end()
    except MemoryFault as error:
        sound = replace(loop.checkpoint(), training=loop.guard.incumbent)
        return replace(member, checkpoint=sound, asking=None, fault=str(error))
    return replace(member, checkpoint=loop.checkpoint(), asking=asking)


def _nobody(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    raise AssertionError("a fleet's teacher answers between turns")


def _seed(request: FleetRun, number: int) -> int:
    """A seed a device, below 2**31, the same in every fleet that it is in."""
    return int(draws.keys(request.seed, [number], "device")[0] >> np.uint64(33))


@lru_cache(maxsize=1)
def device(program: bytes) -> Driver:
    """This process's emulator, the program in it."""
    made = Program.from_bytes(program)
    driver = open_device(made.core)
    driver.load(made)
    return driver


@lru_cache(maxsize=1)
def _data(name: str, root: str | None) -> Dataset:
    return load(name, root)
