"""A fleet: the same bits wherever its devices take their turns, labels shared fairly, a teacher that fills batches."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from insitu.arch.declaration import Declaration
from insitu.host.device import Driver
from insitu.host.errors import HostError
from insitu.host.fleet import member, runner
from insitu.host.fleet.memory import Memory
from insitu.host.fleet.peers import circle
from insitu.host.fleet.request import FleetRun, check
from insitu.host.fleet.runner import Fleet, Lesson
from insitu.host.fleet.service import TeacherService
from insitu.host.fleet.sharing import granted, shares
from insitu.host.online.checkpoint import canonical
from insitu.host.online.gold import Gold
from insitu.host.online.guard import GuardPolicy
from insitu.host.online.loop import OnlineLoop
from insitu.host.online.policy import OnlinePolicy
from insitu.host.online.progress import Progress
from insitu.host.store import FeedbackBatch, FeedbackStore
from insitu.host.store.codec import Codec
from insitu.host.study import engine
from insitu.models import teachers
from tests.host import digits
from tests.host.device_suite import same

REQUEST = FleetRun(
    data="digits",
    scenes=("rotate:3", "contrast:4"),
    model="mlp:64-24-10",
    devices=(2,),
    core=digits.CORE,
    declaration=Declaration.parse("w8a8e8g8"),
    batch=digits.BATCH,
    policy=OnlinePolicy(samples=128, chunk=32, rehearsals=1, audit=0.3),
)


@cache
def lesson() -> Lesson:
    """A quickly trained teacher, as the student of tests/host/digits.py is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "IMAGES_SEEN", 30_000)
        return runner.prepare(REQUEST, check(REQUEST))


def operated(name: str = "processes", workers: int = 1, devices: int = 2, **changed: Any) -> Fleet:
    with engine.opened(name, workers) as pool:
        return runner.operate(replace(REQUEST, **changed), lesson(), devices, pool)


@cache
def here() -> Fleet:
    """Two devices in this process."""
    return operated()


def assert_same(one: Fleet, other: Fleet) -> None:
    """The same weights in training and in service, the same samples, the same cost."""
    assert len(one.members) == len(other.members)
    for a, b in zip(one.members, other.members, strict=True):
        assert a.checkpoint is not None
        assert b.checkpoint is not None
        assert same(a.checkpoint.training, b.checkpoint.training)
        assert same(a.checkpoint.served, b.checkpoint.served)
        assert a.checkpoint.progress["cycles"] == b.checkpoint.progress["cycles"] > 0
        assert len(a.memory) == len(b.memory) > 0
        kept = [FeedbackBatch.concat(list(m.memory.iterate(64))) for m in (a, b)]
        np.testing.assert_array_equal(kept[0].x, kept[1].x)
        np.testing.assert_array_equal(kept[0].teacher, kept[1].teacher)
    assert one.service.load == other.service.load
    assert (one.bytes_up, one.bytes_down) == (other.bytes_up, other.bytes_down)


@pytest.mark.parametrize(
    ("name", "devices"), [("processes", 3), ("dask", 2), pytest.param("ray", 2, marks=pytest.mark.slow)]
)
def test_the_same_bits_wherever_devices_take_their_turns(name: str, devices: int) -> None:
    pytest.importorskip({"processes": "joblib", "dask": "distributed", "ray": "ray"}[name])
    assert_same(operated(name, 2, devices), here() if devices == 2 else operated(devices=devices))


def test_whom_a_device_asks() -> None:
    assert [circle(k, 7, 2, 2) for k in range(7)] == [[2, 4], [3, 5], [4, 6], [5, 1], [6, 0], [1, 3], [0, 2]]
    assert circle(1, 7, 2, 9) == [3, 5]
    assert circle(0, 1, 2, 3) == circle(0, 9, 2, 0) == []


def test_peers_answer_what_the_teacher_has_no_label_for() -> None:
    """Twenty labels for four devices in two scenes, then those of the other device there, but of nothing held out."""
    alone, together = (operated(labels=20, peers=peers, devices=4, gold=0) for peers in (0, 3))
    assert together.service.given == alone.service.given
    assert alone.heard == [0] * 4
    for k, one in enumerate(together.members):
        assert one.checkpoint is not None
        assert 0 < together.heard[k] < together.service.refused[k]
        assert one.checkpoint.progress["labels"] == together.service.given[k] + together.heard[k]
        kept = FeedbackBatch.concat(list(one.memory.iterate(64)))
        assert kept.held_out.sum() <= together.service.given[k]
        np.testing.assert_allclose(kept.teacher.sum(axis=1), 1, atol=0.01)
        asked, answered = together.bytes_up[k], together.bytes_down[k]
        assert answered == 2 * 10 * (together.service.given[k] + together.heard[k])
        assert asked == 64 * (together.service.given[k] + together.service.refused[k] + together.heard[k])
        before = alone.members[k].checkpoint
        assert before is not None
        assert one.checkpoint.progress["cycles"] > before.progress["cycles"]
    assert_same(together, operated("processes", 2, 4, labels=20, peers=3, gold=0))


class Elementwise(nn.Module):
    """A teacher whose answer to a sample is the same bits in any batch: no product of matrices."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 8 * x.flatten(1)[:, 20 : 20 + digits.CLASSES]


def test_a_device_is_the_same_in_a_larger_fleet() -> None:
    """Whoever else there is, and whoever was before it on the emulator; no two devices are the same."""
    taught = replace(lesson(), teacher=Elementwise())  # type: ignore[arg-type]
    request = replace(REQUEST, gold=0)  # which none would believe
    with engine.opened("processes", 1) as pool:
        small = runner.operate(request, taught, 2, pool)
        emulator = member.device(taught.compiled.program.to_bytes())
        emulator.write_weights({name: q // 2 for name, q in taught.compiled.masters.items()})
        emulator.seed = 999
        for scale in range(len(emulator.program.scales)):
            emulator.set_scale(scale, emulator.scale(scale) + 1)
        large = runner.operate(request, taught, 5, pool)
    ends = [one.checkpoint for one in large.members]
    for one, end in zip(small.members, ends, strict=False):
        assert one.checkpoint is not None
        assert end is not None
        assert same(one.checkpoint.training, end.training)
        assert Progress.of(one.checkpoint.progress) == Progress.of(end.progress)
        assert end.progress["steps"] > 0
    streams = [next(one.memory.iterate(64)).x.tobytes() for one in large.members]
    assert len(set(streams)) == 5


def test_a_fleet_learns_and_is_measured() -> None:
    request = replace(REQUEST, devices=(4,), policy=replace(REQUEST.policy, samples=512, rehearsals=2))
    with engine.opened("processes", 1) as pool:
        found = runner.measured(request, lesson(), runner.operate(request, lesson(), 4, pool))
    turned = [one for one in found["each"] if one["scene"] == "rotate:3"]
    assert len(turned) == 2
    assert all(one["accuracy_after"] > one["accuracy_before"] + 0.05 for one in turned)
    assert found["below_before"] == 0
    rounds = request.policy.samples // request.policy.chunk
    assert found["teacher"]["samples"] == sum(one["labels"] for one in found["each"]) + rounds * request.gold
    assert found["teacher"]["lies"] == found["faulty"] == 0
    assert all(one["bytes_up"] == 64 * one["labels"] for one in found["each"])
    assert all(one["bytes_down"] == 2 * 10 * one["labels"] for one in found["each"])
    assert found["teacher"]["refused"] == 0
    assert found["teacher"]["spent"] is None


@pytest.mark.parametrize("sharing", ["equal", "lent"])
def test_a_spent_budget_ends_labels_and_not_the_fleet(sharing: Any) -> None:
    fleet = operated(labels=41, sharing=sharing, gold=0)
    assert sum(fleet.service.given) == fleet.service.load.samples == 41
    assert min(fleet.service.given) > 15
    assert fleet.service.load.refused == sum(fleet.service.refused) > 0
    assert fleet.service.load.spent is not None
    for one in fleet.members:
        assert one.checkpoint is not None
        assert one.checkpoint.progress["samples"] == REQUEST.policy.samples
        assert one.checkpoint.progress["steps"] > 0


@pytest.mark.parametrize("sharing", ["equal", "lent"])
def test_gold_questions_are_paid_for_by_the_budget(sharing: Any) -> None:
    """Those of all rounds are laid by; at a pace of 24 a round each round has its own."""
    short = replace(REQUEST.policy, samples=96)
    fast, paced = (operated(labels=72, pace=pace, sharing=sharing, policy=short).service for pace in (None, 72 / 192))
    assert sum(fast.given) == sum(paced.given) == 72 - 8 * 3
    assert fast.load.samples == sum(fast.given) + fast.load.questions < 72
    assert (paced.load.samples, paced.load.questions) == (72, 24)


@pytest.mark.parametrize("sharing", ["equal", "lent"])
def test_a_paced_budget_lasts(sharing: Any) -> None:
    gold = Gold(x=np.zeros((1, 2), np.float32), y=np.zeros(1, np.int64), count=2)
    service = TeacherService(
        lambda x: np.eye(2, dtype=np.float32)[np.zeros(len(x), int)],
        devices=3,
        budget=50,
        sharing=sharing,
        pace=10,
        rounds=6,
        gold=gold,
    )
    bought = []
    for each in (9, 0, 9, 9, 9, 9):
        service.answer([np.zeros((each, 2), np.uint8)] * 3)
        bought.append(service.load.samples)
    # A round's share is ten, two of them questions: six rounds' are laid by.
    assert bought == [10, 10, 28, 38, 46, 46]
    assert max(service.given) - min(service.given) <= 1
    assert sum(service.given) == 50 - 6 * 2


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6),
    st.integers(0, 60),
)
def test_lent_labels_are_max_min_fair(pairs: list[tuple[int, int]], left: int) -> None:
    asked, had = [a for a, _ in pairs], [h for _, h in pairs]
    found = granted(asked, had, sum(had) + left, "lent")
    assert all(0 <= got <= wanted for got, wanted in zip(found, asked, strict=True))
    assert sum(found) == min(left, sum(asked))
    for k, got in enumerate(found):
        if got < asked[k]:  # whoever goes short has no less than anybody who was given something, to within one
            assert all(had[k] + got + 1 >= had[j] + found[j] for j in range(len(found)) if found[j])


@given(st.integers(1, 100), st.integers(1, 20))
def test_equal_parts_are_the_whole(budget: int, devices: int) -> None:
    parts = shares(budget, devices)
    assert sum(parts) == budget
    assert max(parts) - min(parts) <= 1
    assert granted([200] * devices, [0] * devices, budget, "equal") == parts
    assert granted([200] * devices, parts, budget, "equal") == [0] * devices


def test_a_teacher_who_lies_is_heard_by_nobody() -> None:
    class Liar(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.roll(lesson().teacher(x), 1, dims=1)

    lied = replace(lesson(), teacher=Liar())  # type: ignore[arg-type]
    with engine.opened("processes", 1) as pool:
        misled, warned = (runner.operate(replace(REQUEST, gold=gold), lied, 2, pool) for gold in (0, 8))
    assert warned.service.load.lies == sum(warned.service.given) > 0
    assert warned.bytes_down == [0, 0]
    assert [len(one.memory) for one in warned.members] == [0, 0]
    assert misled.service.load.lies == 0
    assert all(len(one.memory) > 0 for one in misled.members)


def test_a_device_of_faulty_memory_is_set_aside_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are read back while the first device learns come with a bit upset."""
    learning = ""
    read, learn = Driver.read_weights, OnlineLoop.learn

    def learns(self: OnlineLoop, *given: Any) -> Any:
        nonlocal learning
        learning = self.identity
        return learn(self, *given)

    def upset(self: Driver) -> Any:
        found = read(self)
        if learning == canonical({"device": 0, "seed": REQUEST.seed}):
            next(iter(found.values()))[0, 0] ^= 1
        return found

    monkeypatch.setattr(OnlineLoop, "learn", learns)
    monkeypatch.setattr(Driver, "read_weights", upset)
    fleet = operated(policy=replace(REQUEST.policy, guard=GuardPolicy(every=1)))
    first, second = fleet.members
    assert "numbers of" in first.fault
    assert not second.fault
    assert first.checkpoint is not None
    assert second.checkpoint is not None
    assert 0 < first.checkpoint.progress["samples"] < REQUEST.policy.samples
    # All of it of the moment in which the fault was found, but for weights, which are the incumbent's.
    assert first.checkpoint.progress["labels"] == len(first.memory) > 0
    assert first.checkpoint.progress["steps"] > 0 < first.checkpoint.progress["cycles"]
    assert same(first.checkpoint.training, first.checkpoint.served)
    assert second.checkpoint.progress["samples"] == REQUEST.policy.samples
    found = runner.measured(REQUEST, lesson(), fleet)
    assert found["faulty"] == 1
    assert [one["fault"] for one in found["each"]] == [first.fault, ""]


def test_samples_of_all_devices_share_batches() -> None:
    sizes: list[int] = []

    def teach(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        sizes.append(len(x))
        return np.repeat(x.reshape(len(x), -1)[:, :1], 2, axis=1)

    service = TeacherService(teach, devices=3, batch=8)
    asked = [np.full((n, 2), value, np.uint8) for n, value in ((5, 51), (0, 0), (7, 255))]
    answers = service.answer(asked)
    assert sizes == [8, 4]
    assert [len(a) for a in answers] == [5, 0, 7]
    assert np.allclose(answers[0], 0.2, atol=1e-3)
    assert np.allclose(answers[2], 1.0)
    assert service.load.to_json()["mean_batch"] == 6


def test_memory_keeps_what_the_store_would(tmp_path: Any) -> None:
    """The same samples, the same draws, under the same budget."""
    rng = np.random.default_rng(3)
    codec = Codec(shape=(2, 3), classes=4)
    budget = 20 * codec.sample_bytes
    memory = Memory(codec, byte_budget=budget, seed=5)
    with FeedbackStore.open(
        tmp_path / "s", shape=(2, 3), classes=4, byte_budget=budget, seed=5, durability="process"
    ) as store:
        for _ in range(6):
            probability = rng.dirichlet(np.ones(4), size=9).astype(np.float16).astype(np.float32)
            batch = FeedbackBatch.of(
                rng.integers(0, 256, (9, 2, 3), dtype=np.uint8),
                probability,
                rng.integers(-9, 9, (9, 4), dtype=np.int8),
                held_out=rng.random(9) < 0.3,
            )
            ids = memory.append(batch)
            assert ids == store.append(batch)
            labels = rng.integers(0, 4, 3)
            np.testing.assert_array_equal(memory.attach_label(ids[:3], labels), store.attach_label(ids[:3], labels))
            np.testing.assert_array_equal(memory.counts_by_class("train"), store.counts_by_class("train"))
            one, other = memory.draw(12, np.random.default_rng(1)), store.draw(12, np.random.default_rng(1))
            np.testing.assert_array_equal(one.ids, other.ids)
            np.testing.assert_array_equal(one.x, other.x)
            np.testing.assert_array_equal(one.labels, other.labels)
        for split in ("train", "held_out"):
            ours = FeedbackBatch.concat(list(memory.iterate(4, split)))  # type: ignore[arg-type]
            theirs = FeedbackBatch.concat(list(store.iterate(4, split)))  # type: ignore[arg-type]
            np.testing.assert_array_equal(ours.ids, theirs.ids)
            np.testing.assert_array_equal(ours.x, theirs.x)
        assert (len(memory), memory.bytes) == (len(store), store.usage().bytes)


@pytest.mark.parametrize(
    ("changed", "quoted"),
    [
        ({"devices": (0,)}, r"devices is \[0\]"),
        ({"scenes": ()}, "no scenes"),
        ({"labels": 0}, "labels is 0"),
        ({"labels": 32}, "labels is 32: 4 rounds of 8 gold questions leave none"),
        ({"pace": -1}, "pace is -1"),
        ({"peers": -1}, "peers is -1"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"sharing": "first"}, "sharing 'first': allowed are equal, lent"),
        ({"memory_bytes": 5}, "a memory of 5 bytes"),
        ({"gold": 17}, "gold is 17"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(changed: dict[str, Any], quoted: str) -> None:
    with pytest.raises(HostError, match=quoted):
        check(replace(REQUEST, **changed))
