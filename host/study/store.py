"""Where a study is kept: Optuna's storage, SQLite or PostgreSQL, written by one process at a time.

A trial is made with its point, atomically; its record comes before its state, so a trial that has a record is done and
one that has none was never finished. Nothing else is needed to go on after a kill.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from insitu.host.errors import StudyError
from insitu.host.study.points import Point
from insitu.host.study.schema import Study
from insitu.host.study.space import Value

Record = Mapping[str, Any]
Aim = Literal["maximize", "minimize"]
#: Names of the attributes of a trial and of a study in Optuna's storage.
POINT, ARM, RECORD, PROBLEM = "insitu:point", "insitu:arm", "insitu:record", "insitu:problem"
_IDENTITY, _AREA = "insitu:study", "insitu:area:"
#: What a study's file may change though trials were run.
_FREE = (("search", "trials"), ("area",))


class Trials:
    """The trials of one of Optuna's studies: the points of a search, or what they are compared with."""

    def __init__(self, storage: RDBStorage, name: str, directions: Sequence[Aim]) -> None:
        self.storage = storage
        self.study = optuna.create_study(
            storage=storage, study_name=name, directions=list(directions), load_if_exists=True
        )

    def all(self) -> list[FrozenTrial]:
        """Every trial by its number, whatever its state."""
        return self.study.get_trials(deepcopy=False)

    def add(self, point: Point, distributions: Mapping[str, BaseDistribution]) -> None:
        """Make a waiting trial of a point, wholly or not at all."""
        known = {name: value for name, value in point.values.items() if name in distributions}
        template = create_trial(
            state=TrialState.WAITING,
            params=known,
            distributions={name: distributions[name] for name in known},
            user_attrs={POINT: dict(point.values), ARM: point.arm},
        )
        self.storage.create_new_trial(self.study._study_id, template)

    def begin(self, trial: FrozenTrial) -> None:
        """Show that a trial runs."""
        self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)

    def keep(self, trial: FrozenTrial, record: Record) -> None:
        """Keep what came of a trial."""
        self.storage.set_trial_user_attr(trial._trial_id, RECORD, dict(record))

    def complete(self, trial: FrozenTrial, values: Sequence[float]) -> None:
        """A trial that has its record is done."""
        self.storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, values)

    def fail(self, trial: FrozenTrial, problem: str) -> None:
        """A trial that cannot be is done, and why."""
        self.storage.set_trial_user_attr(trial._trial_id, PROBLEM, problem)
        self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def point_of(trial: FrozenTrial) -> Point:
    """The point a trial was made of."""
    attrs = trial.user_attrs
    values: dict[str, Value] = attrs[POINT] if POINT in attrs else dict(trial.params)
    return Point(values=values, arm=attrs.get(ARM, "insitu"))


class Store:
    """A study in its storage: `points` and, under the same name with " (compared)", `compared`."""

    def __init__(self, study: Study, storage: RDBStorage) -> None:
        aims: list[Aim] = ["maximize" if name == "accuracy" else "minimize" for name in study.search.objectives]
        self.points = Trials(storage, study.name, aims)
        self.compared = Trials(storage, f"{study.name} (compared)", ["maximize"])
        self._check(study)

    def _check(self, study: Study) -> None:
        """Know the study by what decides its results. Raises StudyError where it is another."""
        mine = json.loads(json.dumps(study.identity))
        kept = self.points.study.user_attrs.get(_IDENTITY)
        if kept is not None and (difference := _difference(_fixed(kept), _fixed(mine))):
            raise StudyError(
                f"{study.path}: study {study.name!r} in {shown(study.storage)} was begun with {difference}; give this "
                "one another name, or remove that one"
            )
        if kept != mine:
            self.points.study.set_user_attr(_IDENTITY, mine)

    def areas(self) -> dict[str, dict[str, Any]]:
        """Areas by what they are of (`area.key`)."""
        attrs = self.points.study.user_attrs
        return {name.removeprefix(_AREA): value for name, value in attrs.items() if name.startswith(_AREA)}

    def keep_area(self, key: str, area: Mapping[str, Any]) -> None:
        """Keep the area of a core."""
        self.points.study.set_user_attr(_AREA + key, dict(area))


@contextlib.contextmanager
def opened(study: Study, *, write: bool) -> Iterator[Store]:
    """The study's storage; to write it, by nobody else meanwhile. Raises StudyError where it cannot be opened, another
    process writes it, or, to read it, nothing was run."""
    url = _url(study)
    if not write:
        _check_there(study, url)
    storage = _storage(study, url)
    try:
        with _alone(study, url) if write else contextlib.nullcontext():
            if not write and study.name not in optuna.get_all_study_names(storage):
                raise StudyError(f"{study.path}: no study {study.name!r} in {shown(study.storage)}: run it first")
            yield Store(study, storage)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def shown(url: str) -> str:
    """A storage's URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


def exists(study: Study) -> bool:
    """Whether a SQLite storage is there; a server's is looked for when it is opened."""
    url = _url(study)
    return url.get_backend_name() != "sqlite" or Path(url.database).exists()


def _url(study: Study) -> Any:
    try:
        url = make_url(study.storage)
    except SQLAlchemyError as error:
        raise StudyError(
            f"storage {study.storage!r}: not a URL such as sqlite:///study.db or postgresql://..."
        ) from error
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise StudyError(f"storage {shown(study.storage)}: allowed are sqlite and postgresql")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise StudyError(f"storage {shown(study.storage)}: trials are kept in a file, such as sqlite:///study.db")
    if url.get_backend_name() == "sqlite":
        # A relative path begins where the file lies, wherever the command runs.
        url = url.set(database=str(study.folder / str(url.database)))
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return url


def _check_there(study: Study, url: Any) -> None:
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise StudyError(f"{study.path}: there is no {url.database}: run the study first")


def _storage(study: Study, url: Any) -> RDBStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url.get_backend_name() == "sqlite" and not Path(url.database or ".").parent.is_dir():
        raise StudyError(f"storage {shown(study.storage)}: there is no folder {Path(url.database).parent}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return RDBStorage(url.render_as_string(hide_password=False))
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise StudyError(f"storage {shown(study.storage)} cannot be opened: {reason}") from error
    except ImportError as error:
        raise StudyError(
            f"storage {shown(study.storage)} needs psycopg, which is not installed: pip install 'insitu[postgres]'"
        ) from error


@contextlib.contextmanager
def _alone(study: Study, url: Any) -> Iterator[None]:
    """Nobody else writes this study: two would train each trial twice."""
    busy = StudyError(f"study {study.name!r} in {shown(study.storage)} is being run by another process")
    if url.get_backend_name() == "sqlite":
        try:
            with FileLock(f"{url.database}.lock", timeout=0):
                yield
        except Timeout as error:
            raise busy from error
        return
    key = int.from_bytes(hashlib.sha256(study.name.encode()).digest()[:8], "big", signed=True)
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            # The server lets go of it when the connection ends, however that is.
            if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar():
                raise busy
            yield
    finally:
        engine.dispose()


def _fixed(identity: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(identity))
    for path in _FREE:
        inner = found
        for name in path[:-1]:
            inner = inner.get(name, {})
        inner.pop(path[-1], None)
    return found


def _difference(kept: Mapping[str, Any], mine: Mapping[str, Any], where: str = "") -> str:
    """The first key in which two files differ, and what it was; "" where they do not."""
    for key in sorted({*kept, *mine}):
        before, now = kept.get(key), mine.get(key)
        if before == now:
            continue
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            return _difference(before, now, f"{where}{key}.")
        return f"{where}{key} = {before!r}, not {now!r}" if before is not None else f"no {where}{key}, now {now!r}"
    return ""
