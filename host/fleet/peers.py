"""Students teaching each other: what the teacher has no label left for, other devices of the same scene answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from insitu.host.fleet.member import Member, device
from insitu.host.fleet.request import FleetRun
from insitu.host.fleet.service import Answers, Pixels
from insitu.host.study.engine import Engine
from insitu.models.curricula.numbers import softmax

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Telling:
    """Members that others ask, for a process that has nothing but this. samples: by member, of all who ask it.
    temperature: that answers are softened by. program: their container."""

    program: bytes
    temperature: float
    members: list[Member]
    samples: list[Pixels]


def circle(number: int, devices: int, scenes: int, count: int) -> list[int]:
    """Whom a device asks: the `count` next ones of its scene, in a ring; all others where they are fewer."""
    before = range(number % scenes, number, scenes)
    return [*range(number + scenes, devices, scenes), *before][:count]


def hear(
    request: FleetRun,
    program: bytes,
    members: list[Member],
    asked: Sequence[Pixels],
    answers: list[Answers],
    engine: Engine,
) -> list[tuple[int, int, int]]:
    """Have peers answer what the teacher did not: their answers join `answers`, their cycles `members`. Of each device
    the samples that were answered, and the bytes that it sent to its peers and got back."""
    rows = [_wanting(*given) for given in zip(members, asked, answers, strict=True)]
    askers: list[list[int]] = [[] for _ in members]
    for k, wanted in enumerate(rows):
        if len(wanted):
            for peer in circle(k, len(members), len(request.scenes), request.peers):
                askers[peer].append(k)
    tellers = [peer for peer, those in enumerate(askers) if those and not members[peer].fault]
    parts = [tellers[worker :: engine.workers] for worker in range(min(engine.workers, len(tellers)))]
    jobs = [
        Telling(
            program=program,
            temperature=request.temperature,
            members=[members[peer] for peer in part],
            samples=[np.concatenate([asked[k][rows[k]] for k in askers[peer]]) for peer in part],
        )
        for part in parts
    ]
    said: list[list[Answers]] = [[] for _ in members]
    for part, told in zip(parts, engine.all(tell, jobs), strict=True):
        for peer, (member, answered) in zip(part, told, strict=True):
            members[peer] = member
            cuts = np.cumsum([len(rows[k]) for k in askers[peer]])[:-1]
            for k, mine in zip(askers[peer], np.split(answered, cuts), strict=True):
                said[k].append(mine)
    found = []
    for k, heard in enumerate(said):
        if heard:
            answers[k] = _joined(len(asked[k]), answers[k], rows[k], heard)
        sent = len(heard) * asked[k][rows[k]].nbytes
        found.append((len(rows[k]) if heard else 0, sent, sum(one.nbytes for one in heard)))
    return found


def tell(telling: Telling) -> list[tuple[Member, Answers]]:
    """What each member says of its samples, by the weights that it trains, float16 [n, classes]; and the member, with
    the cycles that it took."""
    driver, found = device(telling.program), []
    for member, pixels in zip(telling.members, telling.samples, strict=True):
        assert member.checkpoint is not None
        driver.restore(member.checkpoint.training)
        before = driver.counters
        logits = driver.infer(pixels.astype(np.float32) / np.float32(255))
        after, progress = driver.counters, dict(member.checkpoint.progress)
        progress["cycles"] += after.cycles - before.cycles
        progress["macs"] += after.macs - before.macs
        told = replace(member, checkpoint=replace(member.checkpoint, progress=progress))
        found.append((told, softmax(logits, telling.temperature).astype(np.float16)))
    return found


def _wanting(member: Member, asked: Pixels, answers: Answers) -> Rows:
    """Which of the samples it asked about peers are asked about: those the teacher said nothing of, but for held-out
    ones, by whose labels its guard judges."""
    if member.asking is None:
        return np.empty(0, np.int64)
    return len(answers) + np.flatnonzero(~member.asking.held_out[len(answers) : len(asked)])


def _joined(asked: int, answers: Answers, rows: Rows, said: Sequence[Answers]) -> Answers:
    """The teacher's answers and at `rows` the mean of the peers', float16 [asked, classes]; NaN where there is none."""
    mean = np.mean(np.stack(said).astype(np.float32), axis=0)
    found = np.full((asked, mean.shape[1]), np.nan, np.float16)
    if len(answers):
        found[: len(answers)] = answers
    found[rows] = mean
    return found
