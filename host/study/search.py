"""Which trials come next. A batch is chosen from what came of the batches before it and from nothing else, so the same
trials come on any number of workers, and after any interruption."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from insitu.host.study import points
from insitu.host.study.points import Point
from insitu.host.study.schema import Study
from insitu.host.study.store import Store, Trials, point_of

#: Trials drawn at random before the search follows what it saw.
STARTUP = 10


def batches(study: Study, store: Store) -> Iterator[list[FrozenTrial]]:
    """The trials of the search that are not done, batch after batch; ask for the next when all of one are done."""
    if study.search.method in ("grid", "one-at-a-time"):
        listed = points.listed(study)
        fill(store.points, listed, study)
        yield _unfinished(store.points)[: len(listed)]
        return
    asked = study.search.trials
    for first in range(0, asked, study.search.together):
        last = min(asked, first + study.search.together)
        known = store.points.all()
        for point in _drawn(study, store.points, first, range(max(first, len(known)), last)):
            store.points.add(point, _distributions(study))
        yield [t for t in store.points.all()[first:last] if not t.state.is_finished()]


def compared(study: Study, store: Store) -> list[FrozenTrial]:
    """The trials that the points are compared with, those not done."""
    fill(store.compared, points.compared(study), study)
    return _unfinished(store.compared)


def twins(study: Study, store: Store) -> list[FrozenTrial]:
    """float32 at the rate and so on of each trial of a search that none before it beats, the front's among them: trials
    that are new. What comes later changes none of them."""
    if study.search.method in ("grid", "one-at-a-time") or not study.compare.float32:
        return []
    signs = [1 if aim is StudyDirection.MAXIMIZE else -1 for aim in store.points.study.directions]
    best: list[list[float]] = []
    leading: list[Point] = []
    for trial in store.points.all():
        if trial.state is not TrialState.COMPLETE:
            continue
        mine = [sign * value for sign, value in zip(signs, trial.values, strict=True)]
        if not any(all(a >= b for a, b in zip(other, mine, strict=True)) for other in best):
            best.append(mine)
            leading.append(point_of(trial))
    before = len(store.compared.all())
    fill(store.compared, points.compared(study, leading), study)
    return store.compared.all()[before:]


def planned(study: Study, store: Store | None = None) -> int:
    """How many trials there will be, as far as is known; with what is in `store` beyond."""
    listing = study.search.method in ("grid", "one-at-a-time")
    beside = len(points.compared(study))
    if store is not None:
        beside = max(beside, len(store.compared.all()))
    return (len(points.listed(study)) if listing else study.search.trials) + beside


def fill(trials: Trials, wanted: list[Point], study: Study) -> None:
    """Make the trials that are not there yet."""
    known = [point_of(trial) for trial in trials.all()]
    for point in wanted:
        if point not in known:
            trials.add(point, _distributions(study))


def _distributions(study: Study) -> dict[str, BaseDistribution]:
    return {axis.name: axis.distribution for axis in study.space}


def _unfinished(trials: Trials) -> list[FrozenTrial]:
    return [t for t in trials.all() if not t.state.is_finished()]


def _drawn(study: Study, trials: Trials, first: int, numbers: Iterable[int]) -> Iterator[Point]:
    """What the sampler chooses for the trials of some numbers, each by a generator of its own, from those before the
    `first` of their batch. They alone are shown to it: what else there is depends on when a run ended."""
    shown = optuna.create_study(directions=trials.study.directions)
    for trial in trials.all()[:first]:
        if trial.state is TrialState.COMPLETE:
            shown.add_trial(create_trial(params=trial.params, distributions=trial.distributions, values=trial.values))
    for number in numbers:
        shown.sampler = _sampler(study, number)
        asked = shown.ask()
        yield Point(values={axis.name: axis.suggest(asked) for axis in study.space})


def _sampler(study: Study, number: int) -> BaseSampler:
    seed = int.from_bytes(hashlib.sha256(f"{study.search.seed} {number}".encode()).digest()[:4], "big")
    if study.search.method == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True)
