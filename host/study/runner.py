"""Runs what of a study is not done: trials, then the cores that its report prices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial

from insitu.arch.params import CoreParams
from insitu.fpga.targets import RESOURCES
from insitu.host.errors import HostError, StudyError
from insitu.host.study import area, points, search
from insitu.host.study.engine import Engine
from insitu.host.study.front import front
from insitu.host.study.schema import Area, Study
from insitu.host.study.setting import Setting
from insitu.host.study.store import RECORD, Store, Trials, point_of

Execute = Callable[[Mapping[str, Any]], dict[str, Any]]
#: Called with what ended ("trial", "core") and a line about it.
Told = Callable[[str, str], None]
#: Begin of the attribute of Optuna's study that holds the fitted model of a target.
_MODEL = "insitu:model:"
#: Random points that a model's cores are chosen from where the search has no list.
_DRAWN = 64


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs a study's trials by `execute` and its cores by `synthesise` on an engine; both are jobs of one JSON-ready
    argument. root: of the data."""

    study: Study
    engine: Engine
    execute: Execute
    synthesise: Execute = area.synthesise
    root: str | None = None
    told: Told = lambda kind, line: None

    def run(self, kept: Store) -> None:
        """Run all that is not done. What was done stays, whatever stops this. Raises HostError where a core cannot be
        synthesised."""
        asks_area = bool(self.study.search.areas)
        self._settle(kept)
        first = [(kept.compared, trial) for trial in search.compared(self.study, kept)]
        if asks_area and self.study.area.source == "model":
            self._fit(kept, self._drawn_cores())
        for batch in search.batches(self.study, kept):
            self._train(kept, [*first, *((kept.points, trial) for trial in batch)])
            first = []
            if asks_area:
                self._price(kept, [core for trial in batch if (core := _core(self._setting(trial)))])
            self._settle(kept)
        for last in (first, ((kept.compared, trial) for trial in search.twins(self.study, kept))):
            self._train(kept, list(last))
            self._settle(kept)
        self._price_all(kept)

    def _setting(self, trial: FrozenTrial) -> Setting | None:
        try:
            return point_of(trial).setting(self.study)
        except StudyError:
            return None

    def _train(self, kept: Store, todo: Sequence[tuple[Trials, FrozenTrial]]) -> None:
        """Have the trials that have no record run."""

        def jobs() -> Iterator[tuple[int, Any]]:
            for number, (trials, trial) in enumerate(todo):
                if RECORD in trial.user_attrs:
                    continue
                try:
                    setting = point_of(trial).setting(self.study)
                except StudyError as error:
                    trials.fail(trial, str(error), forever=True)
                    continue
                trials.begin(trial)
                request = {"setting": setting.to_json(), "folder": str(self.study.folder), "root": self.root}
                yield number, (self.execute, request)

        for number, record, problem in self.engine.results(jobs()):
            trials, trial = todo[number]
            if problem:
                trials.fail(trial, problem)
                self.told("trial", f"failed: {problem}")
                continue
            trials.keep(trial, record)
            if trials is kept.compared or self.study.search.objectives == ("accuracy",):
                trials.complete(trial, [score(record)])
            self.told("trial", _line(trial, record))

    def _settle(self, kept: Store) -> None:
        """Complete the trials that have their record and whose values are known."""
        model, areas = model_of(kept, self.study.area), kept.areas()
        for trials in (kept.points, kept.compared):
            for trial in trials.all():
                if trial.state.is_finished() or RECORD not in trial.user_attrs:
                    continue
                record = trial.user_attrs[RECORD]
                names = self.study.search.objectives if trials is kept.points else ("accuracy",)
                values = [self._value(name, record, areas, model) for name in names]
                if None not in values:
                    trials.complete(trial, [float(v) for v in values if v is not None])

    def _value(
        self, name: str, record: Mapping[str, Any], areas: Mapping[str, Any], model: area.Model | None
    ) -> float | None:
        if name == "accuracy":
            return score(record)
        if name == "cycles":
            return float(record["cycles_per_step"])
        core = CoreParams.from_json(record["setting"]["core"])
        if name == "bits":
            return float(area.memory_bits(core))
        known = areas.get(area.key(core, self.study.area.target))
        if known is None and model is not None:
            known = model.estimate(core)
        return None if known is None else float(known[name])

    # Area.

    def _drawn_cores(self) -> list[CoreParams]:
        """Cores of random points of the space."""
        found = []
        sampler = RandomSampler(seed=self.study.search.seed)
        for _ in range(_DRAWN):
            values = {a.name: sampler.sample_independent(None, None, a.name, a.distribution) for a in self.study.space}  # type: ignore[arg-type]
            try:
                core = _core(points.Point(values=values).setting(self.study))
            except StudyError:
                continue
            if core is not None and core not in found:
                found.append(core)
        if not found:
            raise StudyError(f"{self.study.path}: none of {_DRAWN} random points makes a core")
        return found

    def _price(self, kept: Store, cores: Sequence[CoreParams]) -> None:
        """Have the areas of cores known, unless the study estimates them."""
        if self.study.area.source == "synthesis":
            self._synthesise(kept, cores)

    def _price_all(self, kept: Store) -> None:
        """Have every core's area known: all synthesised, or a model fitted and the front's cores synthesised."""
        source = self.study.area.source
        records = [
            t.user_attrs[RECORD]
            for trials in (kept.points, kept.compared)
            for t in trials.all()
            if RECORD in t.user_attrs
        ]
        cores = [core for r in records if (core := _core(Setting.from_json(r["setting"])))]
        if source == "none" or not cores:
            return
        if source == "synthesis":
            self._synthesise(kept, cores)
            return
        self._fit(kept, list(dict.fromkeys(cores)))
        if model_of(kept, self.study.area) is None:  # few cores: each is known
            return
        while missing := area.unknown(self._front(kept, records), kept.areas(), self.study.area.target):
            self._synthesise(kept, missing)

    def _front(self, kept: Store, records: Sequence[Mapping[str, Any]]) -> list[CoreParams]:
        """The cores on a front of accuracy against any resource or the cycles."""
        model, areas = model_of(kept, self.study.area), kept.areas()
        assert model is not None
        mine = [r for r in records if r["setting"]["core"]]
        cores = [CoreParams.from_json(r["setting"]["core"]) for r in mine]
        found: list[CoreParams] = []
        for name in (*RESOURCES, "cycles", "bits"):
            values = [self._value(name, r, areas, model) for r in mine]
            pairs = [(float(v or 0.0), score(r)) for v, r in zip(values, mine, strict=True)]
            found += [cores[i] for i in front(pairs)]
        return found

    def _fit(self, kept: Store, cores: Sequence[CoreParams]) -> None:
        """Synthesise some of the cores, all unlike, and keep a model fitted to them."""
        if model_of(kept, self.study.area) is not None:
            return
        chosen = area.spread(cores, self.study.area.samples)
        self._synthesise(kept, chosen)
        if len(chosen) < 4:
            return  # so few that each is known
        areas = kept.areas()
        target = self.study.area.target
        fitted = area.fit(chosen, [areas[area.key(core, target)] for core in chosen])
        kept.points.study.set_user_attr(_model_key(self.study.area), fitted.to_json())

    def _synthesise(self, kept: Store, cores: Sequence[CoreParams]) -> None:
        target = self.study.area.target
        missing = area.unknown(cores, kept.areas(), target)
        requests = [{"core": core.to_json(), "target": target} for core in missing]
        jobs = ((i, (self.synthesise, request)) for i, request in enumerate(requests))
        for number, found, problem in self.engine.results(jobs):
            if problem:
                raise HostError(f"a core could not be synthesised: {problem}")
            kept.keep_area(area.key(missing[number], target), found)
            self.told("core", f"{found['lut']:,} LUT, {found['dsp']} DSP")


def model_of(kept: Store, wanted: Area) -> area.Model | None:
    """The model fitted for what a study wants; None where there is none, or it wants no model."""
    data = kept.points.study.user_attrs.get(_model_key(wanted)) if wanted.source == "model" else None
    return None if data is None else area.Model(**data)


def _model_key(wanted: Area) -> str:
    return f"{_MODEL}{wanted.target}:{wanted.samples}"


def score(record: Mapping[str, Any]) -> float:
    """The accuracy that trials are compared by: of the last epoch, the mean over seeds, of the images held out where
    there are some."""
    return float(np.mean([(run["held_out"] or run["accuracy"])[-1] for run in record["runs"]]))


def _core(setting: Setting | None) -> CoreParams | None:
    return setting.core if setting is not None and setting.arm == "insitu" else None


def _line(trial: FrozenTrial, record: Mapping[str, Any]) -> str:
    point = point_of(trial)
    what = ", ".join(f"{name}={value}" for name, value in point.values.items()) or "base"
    return f"{point.arm}, {what}: {score(record):.2%}"
