"""A study's trials as a table: one row a trial and seed, and one row a trial with means over its seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from optuna.trial import FrozenTrial, TrialState

from insitu.arch.declaration import Declaration, Role
from insitu.arch.params import CoreParams
from insitu.fpga.targets import RESOURCES
from insitu.host.study import area, runner
from insitu.host.study.diagnosis import diagnose
from insitu.host.study.schema import Study
from insitu.host.study.setting import Setting
from insitu.host.study.store import RECORD, Store, Trials, point_of, problem_of

#: Roles whose rounding and width have columns.
ROLES = tuple(role.value for role in Role)


def rows(study: Study, kept: Store) -> list[dict[str, Any]]:
    """One flat row for each seed of each trial that is done or failed, points first, in the order of numbers."""
    areas, model = kept.areas(), runner.model_of(kept, study.area)
    found: list[dict[str, Any]] = []
    for which, trials in (("point", kept.points), ("compared", kept.compared)):
        for trial in trials.all():
            if RECORD in trial.user_attrs or problem_of(trial):
                found += _rows(study, which, trial, areas, model)
    return found


def trials_json(study: Study, kept: Store) -> list[dict[str, Any]]:
    """Every trial with all that is known of it, JSON-ready."""
    areas, model = kept.areas(), runner.model_of(kept, study.area)
    return [
        {
            "trial": trial.number,
            "kind": which,
            "state": trial.state.name.lower(),
            "arm": point_of(trial).arm,
            "point": dict(point_of(trial).values),
            "record": trial.user_attrs.get(RECORD),
            "area": _area(study, trial.user_attrs.get(RECORD), areas, model),
            "problem": problem_of(trial),
        }
        for which, trials in (("point", kept.points), ("compared", kept.compared))
        for trial in trials.all()
    ]


def frame(study: Study, kept: Store) -> pl.DataFrame:
    """`rows` as a data frame."""
    return pl.DataFrame(rows(study, kept), infer_schema_length=None)


def counts(trials: Trials) -> dict[str, int]:
    """How many trials are done, failed (those that another run may try again too) and left."""
    found = trials.all()
    done = sum(t.state is TrialState.COMPLETE for t in found)
    failed = sum(problem_of(t) is not None for t in found)
    return {"done": done, "failed": failed, "left": len(found) - done - failed}


def _rows(
    study: Study, which: str, trial: FrozenTrial, areas: Mapping[str, Any], model: area.Model | None
) -> list[dict[str, Any]]:
    record, point = trial.user_attrs.get(RECORD), point_of(trial)
    head: dict[str, Any] = {
        "kind": which,
        "trial": trial.number,
        "arm": point.arm,
        "point": json.dumps(dict(point.values), sort_keys=True),
        "problem": problem_of(trial),
    }
    if record is None:
        return [{**head, **_setting_columns(None), **_area_columns(None), **_run_columns(None, None)}]
    setting = Setting.from_json(record["setting"])
    cost = _area(study, record, areas, model)
    middle = {**_setting_columns(setting), **_area_columns(cost)}
    return [{**head, **middle, **_run_columns(record, run)} for run in record["runs"]]


def _setting_columns(setting: Setting | None) -> dict[str, Any]:
    declaration: Declaration | None = setting.declaration if setting else None
    core: CoreParams | None = setting.core if setting else None
    found: dict[str, Any] = {
        "student": setting.student if setting else None,
        "data": setting.data if setting else None,
        "format": setting.format if setting else None,
        "epochs": setting.epochs if setting else None,
        "batch": setting.batch if setting else None,
        "lr": setting.lr if setting else None,
        "schedule": setting.schedule if setting else None,
        "n": core.n if core else None,
        "core_hash": f"{core.hash:016x}" if core else None,
        "memory_bits": area.memory_bits(core) if core else None,
    }
    for role in ROLES:
        found[f"{role}_bits"] = declaration.role(Role(role)).width if declaration else None
    for role in ("weight", "master", "activation", "error", "gradient"):
        fmt = declaration.role(Role(role)) if declaration else None
        found[f"{role}_rounding"] = fmt.rounding.name.lower() if fmt else None
    found["exponents"] = declaration.activation.exponent.value if declaration else None
    found["layers"] = json.dumps(declaration.to_json()["layers"], sort_keys=True) if declaration else None
    return found


def _area(
    study: Study, record: Mapping[str, Any] | None, areas: Mapping[str, Any], model: area.Model | None
) -> dict[str, Any] | None:
    if record is None or not record["setting"]["core"] or record["setting"]["arm"] != "insitu":
        return None
    core = CoreParams.from_json(record["setting"]["core"])
    found: dict[str, Any] | None = areas.get(area.key(core, study.area.target))
    if found is None and model is not None:
        return model.estimate(core)
    return found


def _area_columns(cost: Mapping[str, Any] | None) -> dict[str, Any]:
    found: dict[str, Any] = {name: cost[name] if cost else None for name in RESOURCES}
    return found | {
        "area_source": cost["source"] if cost else None,
        "area_error_lut": cost["error"]["lut"] if cost and cost["source"] == area.ESTIMATED else None,
    }


def _run_columns(record: Mapping[str, Any] | None, run: Mapping[str, Any] | None) -> dict[str, Any]:
    if record is None or run is None:
        names = ("seed", "accuracy", "held_out", "accuracy_by_epoch", "best_epoch_accuracy", "cycles")
        more = ("cycles_per_step", "busy", "saturated", "overflow", "collapsed", "cause")
        return dict.fromkeys((*names, *more))
    found = diagnose(run)
    return {
        "seed": run["seed"],
        "accuracy": run["accuracy"][-1],
        "held_out": run["held_out"][-1] if run["held_out"] else None,
        "accuracy_by_epoch": [float(a) for a in run["accuracy"]],
        "best_epoch_accuracy": float(np.max(run["accuracy"])),
        "cycles": run.get("cycles"),
        "cycles_per_step": record.get("cycles_per_step"),
        "busy": record.get("busy"),
        "saturated": run.get("saturated"),
        "overflow": run.get("overflow"),
        "collapsed": found is not None,
        "cause": found,
    }
