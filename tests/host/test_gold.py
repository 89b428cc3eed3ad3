"""Gold questions: an honest teacher is believed, a liar is not, and nothing of a lie is kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from insitu.host.errors import HostError
from insitu.host.online.gold import WINDOW, Gold, check_gold
from insitu.host.online.loop import BELIEVED, REFUSED, OnlineLoop
from tests.host import digits
from tests.host.looping import Stopped, looping, stop_after

Real = npt.NDArray[np.float32]
X, Y = np.zeros((50, 1), np.float32), np.arange(50, dtype=np.int64) % 5


def test_errors_within_chance_are_believed_and_more_are_not() -> None:
    gold = Gold(x=X, y=Y, error=0.1, alpha=1e-3)
    believed = [gold.trusts([False] * wrong + [True] * (WINDOW - wrong)) for wrong in range(WINDOW + 1)]
    # Of 16 with an error of 0.1, seven wrong or more come once in 2,000 times, six once in 300.
    assert believed == [True] * 7 + [False] * (WINDOW - 6)
    assert gold.trusts([])


def test_an_honest_teacher_is_refused_as_seldom_as_is_said() -> None:
    gold, rng = Gold(x=X, y=Y, error=0.1, alpha=0.05), np.random.default_rng(0)
    refused = sum(not gold.trusts((rng.random(WINDOW) > 0.1).tolist()) for _ in range(2000))
    assert 0 < refused <= 0.05 * 2000


def test_questions_go_with_a_batch_and_its_answers_come_back_alone() -> None:
    gold, batch = Gold(x=np.arange(50, dtype=np.float32)[:, None], y=Y, count=8), np.full((3, 1), 7, np.float32)
    asked: list[Real] = []

    def teach(x: Real) -> Real:
        asked.append(x)
        return np.eye(5, dtype=np.float32)[x[:, 0].astype(int) % 5]

    recent: list[bool] = []
    for position in (0, 32, 64):
        np.testing.assert_array_equal(gold.ask(teach, batch, position, recent), np.eye(5, dtype=np.float32)[[2, 2, 2]])
    assert [len(x) for x in asked] == [11, 11, 11]
    assert recent == [True] * WINDOW
    assert gold.ask(lambda x: np.roll(teach(x), 1, axis=1), batch, 96, recent) is None
    assert recent == [True] * 8 + [False] * 8


def test_questions_are_drawn_by_position() -> None:
    gold = Gold(x=X, y=Y, count=8)
    assert gold.rows(64).tolist() == gold.rows(64).tolist() != gold.rows(96).tolist()
    seen = Counter(int(row) for position in range(300) for row in gold.rows(position))
    assert set(seen) == set(range(50))


@pytest.mark.parametrize(
    ("given", "quoted"),
    [
        ({"count": 0}, "0 gold questions of 50 samples"),
        ({"x": X[:0]}, "8 gold questions of 0 samples"),
        ({"count": 17}, "gold is 17: must lie from 0 to 16"),
        ({"error": 1}, "gold error is 1"),
    ],
)
def test_gold_that_is_none(given: dict[str, Any], quoted: str) -> None:
    with pytest.raises(HostError, match=quoted):
        Gold(**{"x": X, "y": Y} | given)


class Lying:
    """The table of labels, and from a call on another class for each, asked about gold as well."""

    def __init__(self, loop: OnlineLoop, honest: int) -> None:
        assert isinstance(loop.stream, digits.Table)
        self.table, self.honest, self.calls = loop.stream, honest, 0
        scene = digits.scene().dataset
        known = zip(scene.x_train, scene.y_train, strict=True)
        self.table.known |= {one.tobytes(): int(label) for one, label in known}

    def __call__(self, x: Real) -> Real:
        self.calls += 1
        answers = self.table.teach(x)
        return answers if self.calls <= self.honest else np.roll(answers, 1, axis=1)


def gold() -> Gold | None:
    return Gold.of(digits.scene().dataset, 8)


def test_nothing_of_a_lie_is_kept(tmp_path: Path) -> None:
    with looping(tmp_path, samples=640) as loop:
        loop.gold, loop.teach = gold(), Lying(loop, honest=10)
        progress = loop.run()
        page = next(loop.store.iterate(1000))
        truth = digits.scene().dataset.y_train[digits.scene()._order(page.keys[:, 8:].copy().view("<i8")[:, 0])]
        np.testing.assert_array_equal(page.target_class, truth)
        assert progress.refused > 0
        assert progress.labels == len(loop.store) > 0
        assert [(at, what) for at, what in progress.verdicts if what in (REFUSED, BELIEVED)] == [(11 * 32, REFUSED)]


def test_a_teacher_that_is_honest_again_is_believed_again(tmp_path: Path) -> None:
    with looping(tmp_path, samples=640) as loop:
        lying = Lying(loop, honest=0)
        loop.gold, loop.teach = gold(), lambda x: lying.table.teach(x) if loop.progress.samples > 96 else lying(x)
        progress = loop.run()
        assert progress.refused > 0
        assert progress.labels > 0
        said = [what for _, what in progress.verdicts if what in (REFUSED, BELIEVED)]
        assert said == [REFUSED, BELIEVED]


def test_what_a_refused_teacher_said_is_paid_for_and_so_are_questions(tmp_path: Path) -> None:
    with looping(tmp_path, samples=320, label_budget=100) as loop:
        loop.gold, loop.teach = gold(), (lying := Lying(loop, honest=2))
        progress = loop.run()
        assert progress.labels > 0
        assert progress.refused > 0
        assert progress.questions == 8 * lying.calls
        assert lying.table.asked == progress.bought == progress.labels + progress.refused + progress.questions
        assert 100 - 16 < progress.bought <= 100


def test_questions_are_never_most_of_what_is_bought(tmp_path: Path) -> None:
    with looping(tmp_path, samples=320, pace=0.4) as loop:
        loop.gold, loop.teach = gold(), Lying(loop, honest=99)
        asked: list[int] = []
        progress = loop.run(lambda chunk: asked.append(chunk.asked))
        assert 0 in asked  # a chunk's share of labels is 12, and its questions are 8
        assert all(count >= 8 for count in asked if count)
        assert progress.questions == 8 * sum(count > 0 for count in asked)
        assert progress.bought <= 0.4 * 320


@pytest.mark.parametrize(("count", "budget"), [(8, 15), (16, 31)])
def test_a_budget_that_questions_would_eat_up(count: int, budget: int) -> None:
    with pytest.raises(HostError, match=f"a budget of {budget} labels and {count} gold questions beside each batch"):
        check_gold(count, budget)
    check_gold(count, budget + 1)


def test_a_run_broken_off_knows_what_gold_was_answered(tmp_path: Path) -> None:
    ends = []
    for name, stops in (("whole", 0), ("broken", 5)):
        if stops:
            with looping(tmp_path / name, samples=320) as loop:
                loop.gold, loop.teach = gold(), Lying(loop, honest=3)
                with pytest.raises(Stopped):
                    loop.run(stop_after(stops))
        with looping(tmp_path / name, samples=320) as loop:
            loop.gold, loop.teach = gold(), Lying(loop, honest=0 if stops else 3)
            ends.append(loop.run())
    assert ends[0] == ends[1]
    assert len(ends[0].gold) == WINDOW
