"""The online-fix loop: stream -> device -> detector -> teacher -> store -> mini-batches -> device -> guard."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from insitu.arch.program import write_whole
from insitu.host.batches import BatchComposer
from insitu.host.detector import Detector
from insitu.host.device.driver import Counters, Driver
from insitu.host.device.snapshot import Snapshot
from insitu.host.errors import CheckpointError, HostError
from insitu.host.online.guard import Guard, GuardPolicy, Verdict
from insitu.host.store import FeedbackBatch, FeedbackStore

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
#: The teacher: samples [n, ...] -> target distributions float32 [n, classes].
Teach = Callable[[Images], npt.NDArray[np.float32]]


class Stream(Protocol):
    """An endless stream of samples, the same at every call for the same position."""

    def stream(self, first: int, count: int) -> tuple[Images, Labels]:
        """Samples first .. first + count, and the labels a user would know."""


@dataclass(frozen=True, kw_only=True)
class OnlinePolicy:
    """How the loop learns.

    samples: of the stream, in all. chunk: samples answered before the device trains. audit: share of samples that go to
    the teacher whatever the student thinks, and are kept for the guard. rehearsals: further mini-batches from the store
    alone after each chunk. label_budget: samples the teacher may be asked for, None for any number.
    """

    samples: int = 3000
    chunk: int = 64
    audit: float = 0.1
    rehearsals: int = 4
    replay_share: float = 0.5
    label_budget: int | None = None
    detector: Detector = field(default_factory=lambda: Detector(kind="margin", threshold=0.9))
    guard: GuardPolicy = field(default_factory=GuardPolicy)

    def __post_init__(self) -> None:
        for name, low in (("samples", 1), ("chunk", 1), ("rehearsals", 0)):
            if getattr(self, name) < low:
                raise HostError(f"{name} is {getattr(self, name)}: must be at least {low}")
        if not 0 < self.audit < 1:
            raise HostError(f"audit is {self.audit}: must lie between 0 and 1, the guard needs held-out samples")
        if self.label_budget is not None and self.label_budget < 1:
            raise HostError(f"label_budget is {self.label_budget}: must be at least 1")


@dataclass
class Progress:
    """Where a run stands. samples: of the stream, answered. labels: the teacher was asked for. steps: trained.

    stream_right: answers of the stream that were right when given. verdicts: what the guard did at which sample.
    """

    samples: int = 0
    labels: int = 0
    steps: int = 0
    stream_right: int = 0
    loss: float = float("nan")
    saturated_share: float = 0.0
    verdicts: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What one turn of the loop did, for whoever watches."""

    progress: Progress
    asked: int
    loss: float
    agreement: float
    verdict: Verdict | None
    counters: Counters


class OnlineLoop:
    """One student's online fix. `run()` from wherever the folder's checkpoint says.

    The device holds the student; `folder` keeps `feedback.db` and `checkpoint.npz`. A sample the store acknowledged is
    kept whatever happens to this process; the checkpoint is written whole after each chunk. Keys of samples follow from
    (seed, position), so a chunk that is met again after a crash is stored once.
    """

    def __init__(
        self,
        driver: Driver,
        stream: Stream,
        teach: Teach,
        store: FeedbackStore,
        *,
        policy: OnlinePolicy,
        seed: int,
        folder: str | Path | None = None,
    ) -> None:
        self.driver, self.stream, self.teach, self.store = driver, stream, teach, store
        self.policy, self.seed = policy, seed
        self.guard = Guard(driver, policy.guard)
        self.progress = Progress()
        self._checkpoint = None if folder is None else Path(folder) / "checkpoint.npz"
        self._composer = BatchComposer(batch=driver.program.batch, seed=seed, replay_share=policy.replay_share)
        self._elements = sum(i.rows * i.cols for i in driver.program.entry("train") if i.width)

    def run(self, watch: Callable[[Chunk], None] | None = None) -> Progress:
        """Go through the stream; `watch` is called after each chunk. Ends with the incumbent in the device."""
        self._resume()
        while self.progress.samples < self.policy.samples:
            chunk = self._turn(min(self.policy.chunk, self.policy.samples - self.progress.samples))
            self._save()
            if watch is not None:
                watch(chunk)
        self._look()
        self.guard.serve()
        self._save()
        return self.progress

    def _turn(self, count: int) -> Chunk:
        first = self.progress.samples
        x, labels = self.stream.stream(first, count)
        logits = self.driver.infer(x)
        self.progress.stream_right += int((logits.argmax(axis=1) == labels).sum())
        fresh = self._ask(first, x, logits)
        self.progress.samples += count
        losses: list[float] = []
        if fresh is not None:
            self.store.append(fresh)
            self.progress.labels += len(fresh)
            if not fresh.held_out.all():
                for batch in self._composer.epoch(self.store, self.progress.steps, fresh):
                    losses.append(self._train(batch.samples))
        if self.store.counts_by_class("train").sum():
            for _ in range(self.policy.rehearsals):
                losses.append(self._train(self._composer.compose(self.store, self.progress.steps).samples))
        self.progress.loss = float(np.mean(losses)) if losses else self.progress.loss
        verdict, agreement = self._look() if self.guard.due else (None, float("nan"))
        return Chunk(
            progress=self.progress,
            asked=0 if fresh is None else len(fresh),
            loss=self.progress.loss,
            agreement=agreement,
            verdict=verdict,
            counters=self.driver.counters,
        )

    def _ask(self, first: int, x: Images, logits: npt.NDArray[np.float32]) -> FeedbackBatch | None:
        """The samples of a chunk that go to the teacher, labelled by it; None where there are none."""
        rng = np.random.default_rng((self.seed, first))
        audited = rng.random(len(x)) < self.policy.audit
        found = self.policy.detector.detect(logits)
        rows = np.flatnonzero(found.asks | audited)
        if self.policy.label_budget is not None:
            rows = rows[: max(0, self.policy.label_budget - self.progress.labels)]
        if len(rows) == 0:
            return None
        source = np.where(audited, "audit", found.source)[rows]
        fmt = self.driver.format(self.driver.logits_tensor)
        return FeedbackBatch.of(
            np.rint(x[rows] * 255).astype(np.uint8),
            self.teach(x[rows]),
            fmt.quantise(logits[rows]),
            source=source,
            held_out=audited[rows],
            keys=_keys(self.seed, first + rows),
            logits_exponent=fmt.exponent,
        )

    def _train(self, samples: FeedbackBatch) -> float:
        """One training step; the mean cross-entropy before it."""
        before = self.driver.counters.saturated
        logits = self.driver.train(_real(samples), samples.teacher)
        self.progress.steps += 1
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        loss = float(-(samples.teacher * log_p).sum(axis=1).mean())
        # SATURATED counts modulo 2**32.
        self.progress.saturated_share = ((self.driver.counters.saturated - before) & 0xFFFFFFFF) / self._elements
        self.guard.observe(loss, self.progress.saturated_share)
        return loss

    def _look(self) -> tuple[Verdict, float]:
        x, labels = self._held_out()
        verdict = self.guard.look(x, labels)
        if verdict is not Verdict.KEPT:
            self.progress.verdicts.append((self.progress.samples, verdict.value))
        agreement = float((self.driver.infer(x).argmax(axis=1) == labels).mean()) if len(x) else float("nan")
        return verdict, agreement

    def _held_out(self) -> tuple[Images, Labels]:
        """The samples kept for the guard, and the best label known of each."""
        parts = list(self.store.iterate(1024, split="held_out"))
        if not parts:
            return np.empty((0, 1), np.float32), np.empty(0, np.int64)
        batch = FeedbackBatch.concat(parts)
        return _real(batch), batch.target_class

    # Checkpoints.

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        now, served = self.driver.snapshot(), self.guard.incumbent
        progress = asdict(self.progress)
        state = json.dumps({"seed": self.seed, "progress": progress, "guard": self.guard.state()})
        extra: dict[str, Any] = {f"served/{k}": q for k, q in served.masters.items()}
        extra |= {"served_scales": served.scales, "served_seed": np.int64(served.seed)}
        write_whole(self._checkpoint, now.to_bytes(state=np.frombuffer(state.encode(), np.uint8), **extra))

    def _resume(self) -> None:
        if self._checkpoint is None:
            return
        for left in self._checkpoint.parent.glob(f".{self._checkpoint.name}.*"):
            left.unlink()  # a write that was killed; the checkpoint itself is whole
        if not self._checkpoint.exists():
            return
        snapshot, extra = Snapshot.load(self._checkpoint, self.driver.program)
        try:
            state = json.loads(extra["state"].tobytes())
            served = Snapshot(
                masters={k.removeprefix("served/"): q for k, q in extra.items() if k.startswith("served/")},
                scales=extra["served_scales"],
                seed=int(extra["served_seed"]),
            )
            progress = Progress(**state["progress"])
            guard = state["guard"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self._checkpoint}: no online run's checkpoint ({error!r})") from error
        if state["seed"] != self.seed:
            raise CheckpointError(f"{self._checkpoint}: made with seed {state['seed']}, not {self.seed}")
        progress.verdicts = [(int(at), str(what)) for at, what in progress.verdicts]
        self.progress = progress
        self.guard.resume(served, guard)
        self.driver.restore(snapshot)


def _real(samples: FeedbackBatch) -> Images:
    """Stored bytes -> what the student takes: float32 [n, ...] in [0, 1]."""
    return samples.x.astype(np.float32) / np.float32(255)


def _keys(seed: int, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """16-byte keys of stream positions: uint8 [n, 16]."""
    words = np.stack([np.full(len(positions), seed, np.int64), positions.astype(np.int64)], axis=1)
    return np.ascontiguousarray(words).view(np.uint8)
