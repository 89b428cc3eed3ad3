"""Gold questions: an honest teacher is believed, a liar is not, and nothing of a lie is kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from insitu.host.errors import HostError
from insitu.host.online.gold import WINDOW, Gold
from insitu.host.online.loop import REFUSED, OnlineLoop
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


def test_questions_are_drawn_by_position_and_graded_by_class() -> None:
    gold = Gold(x=X, y=Y, ask=8)
    assert gold.rows(64).tolist() == gold.rows(64).tolist() != gold.rows(96).tolist()
    seen = Counter(int(row) for position in range(300) for row in gold.rows(position))
    assert set(seen) == set(range(50))
    answers = np.eye(5, dtype=np.float32)[Y[gold.rows(7)]]
    assert gold.right(7, answers) == [True] * 8
    answers[2] = np.roll(answers[2], 1)
    assert gold.right(7, answers) == [True, True, False] + [True] * 5


@pytest.mark.parametrize(
    ("given", "quoted"), [({"ask": 0}, "0 gold"), ({"ask": 17}, "17 gold"), ({"error": 1}, "is 1")]
)
def test_gold_that_is_none(given: dict[str, int], quoted: str) -> None:
    with pytest.raises(HostError, match=quoted):
        Gold(x=X, y=Y, **given)  # type: ignore[arg-type]


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


def gold() -> Gold:
    dataset = digits.scene().dataset
    return Gold(x=dataset.x_train, y=dataset.y_train)


def test_nothing_of_a_lie_is_kept(tmp_path: Path) -> None:
    with looping(tmp_path, samples=640) as loop:
        loop.gold, loop.teach = gold(), Lying(loop, honest=10)
        progress = loop.run()
        page = next(loop.store.iterate(1000))
        truth = digits.scene().dataset.y_train[digits.scene()._order(page.keys[:, 8:].copy().view("<i8")[:, 0])]
        np.testing.assert_array_equal(page.target_class, truth)
        assert progress.refused > 0
        assert progress.labels == len(loop.store) > 0
        refused = [at for at, what in progress.verdicts if what == REFUSED]
        assert refused == list(range(11 * 32, 641, 32))


def test_a_teacher_that_is_honest_again_is_believed_again(tmp_path: Path) -> None:
    with looping(tmp_path, samples=640) as loop:
        lying = Lying(loop, honest=0)
        loop.gold, loop.teach = gold(), lambda x: lying.table.teach(x) if loop.progress.samples > 96 else lying(x)
        progress = loop.run()
        assert progress.refused > 0
        assert progress.labels > 0
        assert max(at for at, what in progress.verdicts if what == REFUSED) < 320


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
