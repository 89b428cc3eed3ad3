"""Which trials come next. A batch is chosen from what came of the batches before it and from nothing else, so the same
trials come on any number of workers, and after any interruption."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial

from insitu.host.study import points
from insitu.host.study.points import Point
from insitu.host.study.schema import Study
from insitu.host.study.store import ARM, POINT, Store, Trials

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
        for number in range(first, last):
            _ask(study, store.points, number)
        yield [t for t in store.points.all()[first:last] if not t.state.is_finished()]


def compared(study: Study, store: Store) -> list[FrozenTrial]:
    """The trials that the points are compared with, those not done."""
    fill(store.compared, points.compared(study), study)
    return _unfinished(store.compared)


def planned(study: Study) -> int:
    """How many trials there will be."""
    listing = study.search.method in ("grid", "one-at-a-time")
    return (len(points.listed(study)) if listing else study.search.trials) + len(points.compared(study))


def fill(trials: Trials, wanted: list[Point], study: Study) -> None:
    """Make the trials that are not there yet."""
    distributions = {axis.name: axis.distribution for axis in study.space}
    for point in wanted[len(trials.all()) :]:
        trials.add(point, distributions)


def _unfinished(trials: Trials) -> list[FrozenTrial]:
    return [t for t in trials.all() if not t.state.is_finished()]


def _ask(study: Study, trials: Trials, number: int) -> None:
    """Have the sampler choose the trial of a number, unless it has. It draws from a generator of the number's own, so a
    trial that a kill left half chosen gets the values that it would have got."""
    known = trials.all()
    if len(known) > number and POINT in known[number].user_attrs:
        return
    trials.study.sampler = _sampler(study, number)
    if len(known) > number:
        trial = Trial(trials.study, known[number]._trial_id)
    else:
        trial = trials.study.ask()
    assert trial.number == number
    values = {axis.name: axis.suggest(trial) for axis in study.space}
    trial.set_user_attr(ARM, "insitu")
    trial.set_user_attr(POINT, values)


def _sampler(study: Study, number: int) -> BaseSampler:
    seed = int.from_bytes(hashlib.sha256(f"{study.search.seed} {number}".encode()).digest()[:4], "big")
    if study.search.method == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True)
