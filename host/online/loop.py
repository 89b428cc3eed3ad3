"""The online-fix loop: stream -> device -> detector -> teacher -> store -> mini-batches -> device -> guard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from insitu.arch.program import Program
from insitu.arch.registers import WORD_MASK
from insitu.host.batches import BatchComposer, ReplaySource
from insitu.host.device.driver import Driver
from insitu.host.errors import CheckpointError
from insitu.host.online.checkpoint import Checkpoint
from insitu.host.online.gold import Gold
from insitu.host.online.guard import Guard, Verdict
from insitu.host.online.policy import OnlinePolicy
from insitu.host.online.progress import Progress
from insitu.host.store import FeedbackBatch, Split
from insitu.models import draws

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
#: Among the verdicts: from this sample on the teacher's labels are not taken; are taken again.
REFUSED, BELIEVED = "teacher refused", "teacher believed"
#: The teacher: samples [n, ...] -> target distributions float32 [n, classes].
Teach = Callable[[Images], npt.NDArray[np.float32]]


class Stream(Protocol):
    """An endless stream of samples, the same at every call for the same position."""

    def stream(self, first: int, count: int) -> tuple[Images, Labels]:
        """Samples first .. first + count, and the labels a user would know: here only to count right answers."""

    def pictured(self, positions: Labels) -> npt.NDArray[np.uint64]:
        """uint64 [n]: what the samples at these positions show, the same number wherever it is the same: a stream that
        comes round to a picture again, disturbed in another way, shows the same. Where nothing comes twice, the
        position."""


class User(Protocol):
    """Whoever sees the student's answers and may say something about them; the same at every call."""

    def flags(self, first: int, answers: Labels) -> npt.NDArray[np.bool_]:
        """bool [n]: which of the answers to the samples from `first` on the user says are wrong."""

    def labels(self, positions: Labels) -> Labels:
        """int64 [n]: the true classes of samples the teacher was asked for, -1 where none arrives."""


class Feedback(ReplaySource, Protocol):
    """What the loop needs of a store; `insitu.host.store.FeedbackStore` is one."""

    def append(self, samples: FeedbackBatch) -> list[int]:
        """Keep samples, and give each its id: the one it has where its key is known already."""

    def attach_label(self, ids: npt.ArrayLike, labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Give samples their true class; bool [n]: whether each is still kept."""

    def iterate(self, batch: int, split: Split | None = None) -> Iterator[FeedbackBatch]:
        """Everything kept, in order of id, up to `batch` samples at a time."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What one turn of the loop did, for whoever watches."""

    progress: Progress
    asked: int
    loss: float
    agreement: float
    verdict: Verdict | None


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A chunk that was answered, and which of its samples go to the teacher: rows of it, with all that is kept of each.

    first, count: of the stream. rows: int64 [n]. x: float32 [n, ...]. logits: integers [n, classes], the student's
    answers, value = q * 2**exponent. source: str [n]. held_out: bool [n].
    """

    first: int
    count: int
    rows: npt.NDArray[np.int64]
    x: Images
    logits: npt.NDArray[Any]
    exponent: int
    source: npt.NDArray[np.str_]
    held_out: npt.NDArray[np.bool_]


class OnlineLoop:
    """One student's online fix. `run()` from wherever the folder's checkpoint says.

    The device holds the student; `folder` keeps `checkpoint.npz`. A sample the store acknowledged is kept whatever
    happens to this process; the checkpoint is written whole after each chunk.

    identity: all that decides what the run does but its length, as `checkpoint.canonical` writes it. A checkpoint of
    another identity is refused. Keys of samples follow from identity and position, so a chunk that is met again after a
    crash is stored once, and other runs may share the store. user: who flags wrong answers and knows true labels; a
    label arrives one chunk after its sample was asked for, and from then on is what that sample teaches. gold:
    questions that go to the teacher with each chunk's; one that answers them wrongly is not believed. notes: what
    whoever runs the loop wants kept in the checkpoint, JSON-ready.
    """

    def __init__(
        self,
        driver: Driver,
        stream: Stream,
        teach: Teach,
        store: Feedback,
        *,
        policy: OnlinePolicy,
        seed: int,
        identity: str,
        user: User | None = None,
        gold: Gold | None = None,
        folder: str | Path | None = None,
    ) -> None:
        self.driver, self.stream, self.teach, self.store = driver, stream, teach, store
        self.policy, self.seed, self.identity, self.user = policy, seed, identity, user
        self.gold = gold
        self.guard = Guard(driver, policy.guard)
        self.progress = Progress()
        self.notes: dict[str, Any] = {}
        self._shrunk: Program | None = None  # what the driver has, where it is not what the run compiled
        self._name = np.frombuffer(blake2b(identity.encode(), digest_size=8).digest(), np.uint8)
        self._checkpoint = None if folder is None else Path(folder) / "checkpoint.npz"
        self._composer = BatchComposer(batch=driver.program.step_samples, seed=seed, replay_share=policy.replay_share)
        self._composer.check_fresh()
        self._elements = sum(i.d.rows * i.d.width for i in driver.program.entry("train") if i.width)
        self._clock = 0.0

    def run(
        self, watch: Callable[[Chunk], None] | None = None, record: Callable[[Chunk], None] | None = None
    ) -> Progress:
        """Go through the stream. After each chunk come `record`, which may change `notes`, the checkpoint, `watch`.
        Ends with the incumbent in the device; a run that had ended already does nothing more."""
        self._clock = time.monotonic()
        self._resume()
        if self.progress.ended and self.progress.samples >= self.policy.samples:
            return self.progress
        while self.progress.samples < self.policy.samples:
            with self.counted():
                chunk = self._turn(min(self.policy.chunk, self.policy.samples - self.progress.samples))
            if record is not None:
                record(chunk)
            self._save()
            if watch is not None:
                watch(chunk)
        self.end()
        self._save()
        return self.progress

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what the device does in the block as the run's."""
        before = self.driver.counters
        try:
            yield
        finally:  # what a device did before its memory was found faulty it did
            after = self.driver.counters
            self.progress.cycles += after.cycles - before.cycles
            self.progress.macs += after.macs - before.macs

    def _turn(self, count: int) -> Chunk:
        asking = self.answer(count)
        return self.learn(asking, self._taught(asking) if len(asking.x) else None)

    def _taught(self, asking: Asking) -> npt.NDArray[np.float32] | None:
        """What the teacher says of the samples asked, float32 [n, classes]; None where it is not to be believed."""
        if self.gold is None:
            return self.teach(asking.x)
        progress = self.progress
        before = self.gold.trusts(progress.gold)
        answers = self.gold.ask(self.teach, asking.x, asking.first, progress.gold)
        progress.questions += self.gold.count
        if answers is None:
            progress.refused += len(asking.x)
        if before != (answers is not None):
            progress.verdicts.append((progress.samples, REFUSED if before else BELIEVED))
        return answers

    def answer(self, count: int) -> Asking:
        """Take true labels that have arrived, answer the stream's next `count` samples, find what to ask about."""
        first = self.progress.samples
        self.progress.ended = False
        self._take_labels()
        x, labels = self.stream.stream(first, count)
        logits = self.driver.infer(x)
        answers = logits.argmax(axis=1)
        self.progress.stream_right += int((answers == labels).sum())
        flagged = np.zeros(count, np.bool_) if self.user is None else self.user.flags(first, answers)
        self.progress.flagged += int(flagged.sum())
        self.progress.samples += count
        audited = self._audited(first + np.arange(count))
        found = self.policy.detector.detect(logits, flagged)
        rows = np.flatnonzero(found.asks | audited)[: self._affordable()]
        fmt = self.driver.format(self.driver.logits_tensor)
        return Asking(
            first=first,
            count=count,
            rows=rows,
            x=x[rows],
            logits=fmt.quantise(logits[rows]),
            exponent=fmt.exponent,
            source=np.where(audited, "audit", found.source)[rows],
            held_out=audited[rows],
        )

    def _affordable(self) -> int | None:
        """Samples that the teacher may be asked about now, None for any number. The gold questions that go with them
        are paid for first; where they would be most of what is bought it is saved for later."""
        allowed = self.policy.allowed(self.progress.samples)
        if allowed is None:
            return None
        gold = 0 if self.gold is None else self.gold.count
        left = allowed - self.progress.bought - gold
        return left if left >= max(1, gold) else 0

    def learn(self, asking: Asking, taught: npt.NDArray[np.float32] | None) -> Chunk:
        """Train on what was said, float32 [m, classes] of the first m samples asked, NaN of those that nothing was said
        of; None: of none of them. Then have the guard look, if it is time."""
        losses: list[float] = []
        said = np.empty(0, np.int64) if taught is None else np.flatnonzero(~np.isnan(taught).any(axis=1))
        if taught is not None and len(said):
            fresh = self._feedback(asking, said, taught[said])
            ids = self.store.append(fresh)
            self.progress.labels += len(fresh)
            if self.user is not None:
                positions = (asking.first + asking.rows[said]).tolist()
                self.progress.asked = list(zip(positions, ids, strict=True))
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
            asked=len(asking.rows),
            loss=self.progress.loss,
            agreement=agreement,
            verdict=verdict,
        )

    def end(self) -> None:
        """Take the last labels, have the guard look once more, serve the incumbent."""
        with self.counted():
            self._take_labels()
            self._look()
        self.guard.serve()
        self.progress.ended = True

    def _take_labels(self) -> None:
        """Store the true labels that have arrived for the last chunk's samples."""
        if self.user is None or not self.progress.asked:
            return
        positions, ids = np.array(self.progress.asked, np.int64).T
        labels = self.user.labels(positions)
        known = labels >= 0
        if known.any():
            self.progress.true_labels += int(self.store.attach_label(ids[known], labels[known]).sum())
        self.progress.asked = []

    def _feedback(self, asking: Asking, said: Labels, taught: npt.NDArray[np.float32]) -> FeedbackBatch:
        """What the store gets of a chunk: the samples asked that something was said of."""
        return FeedbackBatch.of(
            np.rint(asking.x[said] * 255).astype(np.uint8),
            taught,
            asking.logits[said],
            source=asking.source[said],
            held_out=asking.held_out[said],
            keys=_keys(self._name, asking.first + asking.rows[said]),
            logits_exponent=asking.exponent,
        )

    def _audited(self, positions: Labels) -> npt.NDArray[np.bool_]:
        """bool [n]: whether the samples at these positions are held out. Drawn by picture, and by no seed: of what a
        run holds out another one that shares its store, and audits as much, trains on nothing either."""
        return draws.uniform(draws.keys(0, self.stream.pictured(positions), "audit"), 1)[:, 0] < self.policy.audit

    def _train(self, samples: FeedbackBatch) -> float:
        """One training step; the mean cross-entropy before it."""
        before = self.driver.counters.saturated
        targets = targets_of(samples)
        logits = self.driver.train(real(samples), targets)
        self.progress.steps += 1
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        loss = float(-(targets * log_p).sum(axis=1).mean())
        # SATURATED counts modulo what a register holds.
        self.progress.saturated_share = ((self.driver.counters.saturated - before) & WORD_MASK) / self._elements
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
        """The newest samples kept for the guard, and the best label known of each: of a picture that came more than
        once the last alone, as the sign test counts each difference as one that owes nothing to the others. Other runs'
        samples in the store are theirs."""
        pages = list(self.store.iterate(1024, split="held_out"))
        if not pages:
            return np.empty((0, 1), np.float32), np.empty(0, np.int64)
        batch = FeedbackBatch.concat(pages)
        batch = batch.select((batch.keys[:, :8] == self._name).all(axis=1))
        positions = _positions(batch.keys)
        newest = np.argsort(-positions)
        _, first = np.unique(self.stream.pictured(positions[newest]), return_index=True)
        batch = batch.select(np.sort(newest[np.sort(first)[: self.policy.guard.recent]]))
        return real(batch), batch.target_class

    # Checkpoints.

    def _save(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self._clock
        self._clock = now
        if self._checkpoint is not None:
            self.checkpoint().save(self._checkpoint)

    def checkpoint(self) -> Checkpoint:
        """Where the run stands: with what its store holds, all that it goes on from."""
        return Checkpoint(
            identity=self.identity,
            training=self.driver.snapshot(),
            served=self.guard.incumbent,
            first=self.guard.first,
            progress=asdict(self.progress),
            guard=self.guard.state(),
            notes=self.notes,
            program=self._shrunk,
        )

    def _resume(self) -> None:
        if self._checkpoint is None or not self._checkpoint.exists():
            return
        kept = Checkpoint.load(self._checkpoint, self.driver.program, self.identity)
        try:
            self.go_on(kept)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self._checkpoint}: no online run's checkpoint ({error!r})") from error

    def go_on(self, kept: Checkpoint) -> None:
        """Go on from a checkpoint. Raises KeyError, TypeError or ValueError where it lacks something."""
        progress = Progress.of(kept.progress)
        self.guard.resume(kept.served, kept.first, kept.guard)
        self.progress, self.notes, self._shrunk = progress, kept.notes, kept.program
        self.driver.restore(kept.training)


def real(samples: FeedbackBatch) -> Images:
    """Stored bytes -> what the student takes: float32 [n, ...] in [0, 1]."""
    return samples.x.astype(np.float32) / np.float32(255)


def targets_of(samples: FeedbackBatch) -> npt.NDArray[np.float32]:
    """What samples teach, float32 [n, classes]: the true class where it is known, else the teacher's distribution."""
    true = np.eye(samples.classes, dtype=np.float32)[samples.labels]
    return np.where(samples.labels[:, None] >= 0, true, samples.teacher)


def _keys(name: npt.NDArray[np.uint8], positions: Labels) -> npt.NDArray[np.uint8]:
    """16-byte keys, uint8 [n, 16]: the 8 bytes by which a run's samples are known, 8 of the stream position."""
    keys = np.empty((len(positions), 16), np.uint8)
    keys[:, :8] = name
    keys[:, 8:] = positions.astype("<i8")[:, None].view(np.uint8)
    return keys


def _positions(keys: npt.NDArray[np.uint8]) -> Labels:
    """The stream positions int64 [n] in keys."""
    return np.ascontiguousarray(keys[:, 8:]).view("<i8")[:, 0].astype(np.int64)
