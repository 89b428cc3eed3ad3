"""One injected collapse: the same run with its guard and without, and what came of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from insitu.arch.declaration import Declaration
from insitu.arch.params import CoreParams
from insitu.host.collapse.faults import Fault, FaultyDevice, Injection
from insitu.host.compiler.compile import Compiled
from insitu.host.device import Driver, open_device
from insitu.host.device.snapshot import Snapshot
from insitu.host.errors import HostError, MemoryFault
from insitu.host.fleet.memory import Memory
from insitu.host.online.gold import Gold
from insitu.host.online.guard import GuardPolicy, Verdict
from insitu.host.online.loop import BELIEVED, Chunk, OnlineLoop
from insitu.host.online.policy import OnlinePolicy
from insitu.host.online.request import compile_student, logits_encoding
from insitu.host.online.scene import Scene
from insitu.host.store.codec import Codec
from insitu.host.train import accuracy
from insitu.models import teachers

#: A guard that never acts.
BLIND = GuardPolicy(every=1 << 30, loss_factor=1e30, saturated_share=1 - 1e-12)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What faults are injected into: an online fix. at: sample of the stream at which they begin. temperature: of the
    teacher's labels. gold: questions beside each batch; 0 for none. memory_bytes: of feedback kept."""

    scene: Scene
    core: CoreParams
    declaration: Declaration
    batch: int = 16
    lr: float = 0.1
    temperature: float = 1.5
    at: int = 640
    gold: int = 8
    memory_bytes: int = 100_000
    seed: int = 0
    policy: OnlinePolicy = field(
        default_factory=lambda: OnlinePolicy(
            samples=1280, chunk=32, rehearsals=2, audit=0.2, guard=GuardPolicy(every=16)
        )
    )

    def __post_init__(self) -> None:
        samples, chunk = self.policy.samples, self.policy.chunk
        if not 0 < self.at < samples or self.at % chunk:
            raise HostError(f"at is {self.at}: must be a multiple of the chunk, {chunk}, below the {samples} samples")

    @property
    def meta(self) -> dict[str, Any]:
        """What the program says of the run: nothing."""
        return {}

    def compiled(self) -> Compiled:
        """The student as it is shipped."""
        return compile_student(self, self.scene.student, self.scene.dataset)

    def ship(self, compiled: Compiled, *drivers: Driver) -> None:
        """Have devices as they are shipped: the program, its masters, the seed of their rounding."""
        for driver in drivers:
            driver.load(compiled.program)
            driver.write_weights(compiled.masters)
            driver.seed = self.seed + 1

    def memory(self, compiled: Compiled) -> Memory:
        """An empty memory of feedback."""
        dataset = self.scene.dataset
        codec = Codec(shape=dataset.in_shape, classes=dataset.classes, logits=logits_encoding(compiled.program))
        return Memory(codec, byte_budget=self.memory_bytes, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Course:
    """A run with a fault. delay: samples from the fault to the first thing said after it, None where nothing was; said:
    what that was: a teacher refused, a device rolled back or taken out of service (stopped) for its memory. promotions:
    after the fault. bought: labels in all; questions: gold ones among them.
    Accuracies in the scene, at_fault: of what was served then; served: of the incumbent at the end, on a sound device;
    in_place: of the incumbent on the device itself, whose memory may be faulty; lowest: of the weights that the device
    trained, after the fault, on a sound one."""

    delay: int | None
    said: str
    stopped: bool
    promotions: int
    bought: int
    questions: int
    at_fault: float
    served: float
    in_place: float
    lowest: float


def run(setup: Setup, fault: Fault | None, compiled: Compiled, *, guarded: bool) -> Course:
    """Run the online fix with a fault, or with none. Without a guard what is served is what was trained last."""
    scene, policy = setup.scene, setup.policy
    injection = Injection(fault, lambda x: teachers.soft_labels(scene.teacher, x, setup.temperature))
    stopped = False
    with Driver(FaultyDevice(setup.core)) as driver, open_device(setup.core) as sound:
        setup.ship(compiled, driver, sound)
        loop = OnlineLoop(
            driver,
            scene,
            injection.teach,
            setup.memory(compiled),
            policy=policy if guarded else replace(policy, guard=BLIND),
            seed=setup.seed,
            identity="{}",
            gold=Gold.of(scene.dataset, setup.gold) if guarded else None,
        )

        def of(snapshot: Snapshot, device: Driver = sound) -> float:
            device.restore(snapshot)
            return accuracy(device, scene.x_test, scene.y_test)

        trained: list[float] = []
        at_fault = 0.0
        training = driver.snapshot()

        def watch(chunk: Chunk) -> None:
            nonlocal at_fault, training
            training = driver.snapshot()
            if injection.struck:
                trained.append(of(training))
            elif chunk.progress.samples >= setup.at:
                at_fault = of(loop.guard.incumbent if guarded else training)
                injection.strike(driver)

        try:
            loop.run(watch)
        except MemoryFault:
            stopped = True
        incumbent = loop.guard.incumbent if guarded else training
        served, in_place = of(incumbent), of(incumbent, driver)
    verdicts = [(at, what) for at, what in loop.progress.verdicts if at > setup.at]
    noticed = [(at, what) for at, what in verdicts if what not in (Verdict.PROMOTED, BELIEVED)]
    if stopped:
        noticed.append((loop.progress.samples, "memory fault"))
    return Course(
        delay=noticed[0][0] - setup.at if noticed else None,
        said=noticed[0][1] if noticed else "",
        stopped=stopped,
        promotions=sum(what == Verdict.PROMOTED for _, what in verdicts),
        bought=loop.progress.bought,
        questions=loop.progress.questions,
        at_fault=at_fault,
        served=served,
        in_place=in_place,
        lowest=min(trained, default=at_fault),
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault, beginning at a sample of the stream: the run with its guard, and accuracy of what the same run without
    one ends with."""

    fault: str
    at: int
    guarded: Course
    unguarded: float

    @property
    def saved(self) -> float:
        """Accuracy that the guard saved."""
        return self.guarded.served - self.unguarded

    def to_json(self) -> dict[str, Any]:
        return {
            "fault": self.fault,
            "at": self.at,
            "unguarded": self.unguarded,
            "saved": self.saved,
            **asdict(self.guarded),
        }


def alarms(setup: Setup, compiled: Compiled, streams: Sequence[int]) -> list[str]:
    """What is said first where nothing is wrong, "" for nothing: a run of each stream, named by its seed."""
    first = replace(setup, at=setup.policy.chunk)
    sound = (replace(first, scene=replace(setup.scene, seed=seed), seed=seed) for seed in streams)
    return [run(one, None, compiled, guarded=True).said for one in sound]


def floor(setup: Setup, compiled: Compiled) -> float:
    """Accuracy in the scene of the student as it was shipped."""
    with open_device(setup.core) as device:
        device.load(compiled.program)
        device.write_weights(compiled.masters)
        return accuracy(device, setup.scene.x_test, setup.scene.y_test)


def study(setup: Setup, injections: Sequence[tuple[Fault, int]]) -> dict[str, Any]:
    """Each fault, from its sample of the stream on, with guard and without; JSON-ready. stopped: devices taken out of
    service; lowest_in_place: the least accuracy that the incumbent has on any of them."""
    compiled = setup.compiled()
    lowest = floor(setup, compiled)
    rows = []
    for fault, at in injections:
        struck = replace(setup, at=at)
        guarded, bare = (run(struck, fault, compiled, guarded=one) for one in (True, False))
        rows.append(Row(fault=str(fault), at=at, guarded=guarded, unguarded=bare.served))
    stopped = [row.guarded.in_place for row in rows if row.guarded.stopped]
    delays = [row.guarded.delay for row in rows if row.guarded.delay is not None]
    return {
        "seed": setup.seed,
        "floor": lowest,
        "samples": setup.policy.samples,
        "gold": setup.gold,
        "rows": [row.to_json() for row in rows],
        "noticed": len(delays),
        "median_delay": float(np.median(delays)) if delays else None,
        "mean_saved": float(np.mean([row.saved for row in rows])),
        "stopped": len(stopped),
        "lowest_in_place": min(stopped, default=None),
        "below_floor": sum(row.guarded.served < lowest for row in rows),
    }
