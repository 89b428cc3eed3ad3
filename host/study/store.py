"""Where a study is kept: Optuna's storage, SQLite or PostgreSQL, written by one process at a time.

A trial is made with its point, atomically; its record comes before its state, so a trial that has a record is done and
one that has none was never finished. Nothing else is needed to go on after a kill. Reading writes nothing.
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
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from insitu.arch.params import ARCH_VERSION
from insitu.host.errors import StudyError, StudyNotBegun
from insitu.host.study.points import Point
from insitu.host.study.schema import Study
from insitu.host.study.space import Value

Record = Mapping[str, Any]
Aim = Literal["maximize", "minimize"]
#: Names of the attributes of a trial and of a study in Optuna's storage.
POINT, ARM, RECORD, PROBLEM = "insitu:point", "insitu:arm", "insitu:record", "insitu:problem"
_IDENTITY, _RECORDS, _AREA = "insitu:study", "insitu:records", "insitu:area:"
#: What records hold: a number raised by one whenever that changes, and the architecture their cores and cycles are of.
#: Studies begun before there was a number have records of 1.
RECORDS = f"2 of architecture {ARCH_VERSION}"


class Trials:
    """The trials of one of Optuna's studies: the points of a search, or what they are compared with."""

    def __init__(self, storage: RDBStorage, name: str, directions: Sequence[Aim], *, write: bool) -> None:
        self.storage = storage
        if write:
            self.study = optuna.create_study(
                storage=storage, study_name=name, directions=list(directions), load_if_exists=True
            )
        else:
            self.study = optuna.load_study(storage=storage, study_name=name)

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

    def fail(self, trial: FrozenTrial, problem: str, *, forever: bool = False) -> None:
        """Keep why a trial failed. One that can never be is done; another waits for the next run."""
        self.storage.set_trial_user_attr(trial._trial_id, PROBLEM, problem)
        self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL if forever else TrialState.WAITING)


def point_of(trial: FrozenTrial) -> Point:
    """The point a trial was made of."""
    attrs = trial.user_attrs
    values: dict[str, Value] = attrs[POINT] if POINT in attrs else dict(trial.params)
    return Point(values=values, arm=attrs.get(ARM, "insitu"))


def problem_of(trial: FrozenTrial) -> str | None:
    """Why a trial failed; None where it did not, or did better when it was tried again."""
    return None if RECORD in trial.user_attrs else trial.user_attrs.get(PROBLEM)


class Store:
    """A study in its storage: `points` and, under the same name with " (compared)", `compared`."""

    def __init__(self, study: Study, storage: RDBStorage, *, write: bool) -> None:
        aims: list[Aim] = ["maximize" if name == "accuracy" else "minimize" for name in study.search.objectives]
        # The points come last: where they are, all is.
        self.compared = Trials(storage, f"{study.name} (compared)", ["maximize"], write=write)
        self.points = Trials(storage, study.name, aims, write=write)
        self._check(study)
        if write:
            self.points.study.set_user_attr(_RECORDS, RECORDS)
            self.points.study.set_user_attr(_IDENTITY, dict(study.identity))

    def _check(self, study: Study) -> None:
        """Know the study by what decides its results. Raises StudyError where it is another."""
        attrs = self.points.study.user_attrs
        if _IDENTITY not in attrs:
            return
        where, remedy = f"{study.path}: study {study.name!r} in {shown(study.storage)}", "give this one another name"
        if (version := attrs.get(_RECORDS, 1)) != RECORDS:
            raise StudyError(f"{where} has records of version {version}, not {RECORDS}; {remedy}, or remove that one")
        if difference := _difference(_fixed(attrs[_IDENTITY], study), _fixed(study.identity, study)):
            raise StudyError(f"{where} was begun with {difference}; {remedy}, or remove that one")

    def areas(self) -> dict[str, dict[str, Any]]:
        """Areas by what they are of (`area.key`)."""
        attrs = self.points.study.user_attrs
        return {name.removeprefix(_AREA): value for name, value in attrs.items() if name.startswith(_AREA)}

    def keep_area(self, key: str, area: Mapping[str, Any]) -> None:
        """Keep the area of a core."""
        self.points.study.set_user_attr(_AREA + key, dict(area))


@contextlib.contextmanager
def opened(study: Study, *, write: bool) -> Iterator[Store]:
    """The study's storage; to write it, by nobody else meanwhile. Raises StudyError where it cannot be opened or
    another process writes it; StudyNotBegun where, to read it, nothing was run."""
    url = _url(study)
    storage = _storage(study, url, write=write)
    try:
        with _alone(study, url) if write else contextlib.nullcontext():
            if not write and study.name not in optuna.get_all_study_names(storage):
                raise _not_begun(study)
            yield Store(study, storage, write=write)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def shown(url: str) -> str:
    """A storage's URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


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


def _not_begun(study: Study) -> StudyNotBegun:
    return StudyNotBegun(f"{study.path}: no study {study.name!r} in {shown(study.storage)}: run the study first")


def _has_tables(url: Any) -> bool:
    """Whether Optuna made its tables, of which this is the last, in a storage."""
    if url.get_backend_name() == "sqlite" and not Path(url.database).exists():
        return False
    engine = create_engine(url)
    try:
        return inspect(engine).has_table("alembic_version")
    finally:
        engine.dispose()


def _storage(study: Study, url: Any, *, write: bool) -> RDBStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url.get_backend_name() == "sqlite" and not Path(url.database or ".").parent.is_dir():
        raise StudyError(f"storage {shown(study.storage)}: there is no folder {Path(url.database).parent}")
    try:
        if not write and not _has_tables(url):
            raise _not_begun(study)
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


def _fixed(identity: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """What of a file may not change once trials were run: all but how many there are and, where no trial is chosen by
    its area, where areas come from."""
    found: dict[str, Any] = json.loads(json.dumps(identity))
    found.get("search", {}).pop("trials", None)
    if not study.search.areas:
        found.pop("area", None)
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
