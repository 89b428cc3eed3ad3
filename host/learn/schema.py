"""A curriculum's file: who learns what in which stages, beside which baseline; checked before anything runs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from insitu.arch.declaration import Declaration
from insitu.arch.errors import ArchError
from insitu.arch.params import CoreParams
from insitu.host.errors import StudyError
from insitu.host.learn import policies
from insitu.host.learn.prepare import PoolSpec, TeacherSpec
from insitu.host.study.reading import Reader, toml
from insitu.models.curricula.noise import Noise
from insitu.models.curricula.stage import Curriculum, Stage, Trainable
from insitu.models.errors import InvalidInputError, ModelsError
from insitu.models.schedules import SCHEDULES
from insitu.models.shifts import Shift

SEED_MAX = 2**31 - 2


@dataclass(frozen=True, kw_only=True)
class Point:
    """One value of what a file varies, or all there is of one that varies nothing.

    value: None there. scene: that the test set, and pools that do not say otherwise, are seen in. arms: curricula by
    name, all for the same student on the same pools.
    """

    value: Any
    student: str
    declaration: Declaration
    core: CoreParams
    batch: int
    scene: Shift
    pools: Mapping[str, PoolSpec]
    teacher: TeacherSpec | None
    arms: Mapping[str, Curriculum]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A file. baseline: the arm that others are held against. varied: what the points' values
    are of, or ""."""

    name: str
    path: Path
    title: str
    data: str
    seeds: tuple[int, ...]
    baseline: str
    varied: str
    points: tuple[Point, ...]


def load(path: Path, data: str | None = None) -> Plan:
    """Read a file, with another data set where `data` names one. Raises StudyError, which quotes the value and says
    what is allowed."""
    found = toml(path)
    try:
        return parse(found if data is None else {**found, "data": data}, path)
    except (StudyError, ArchError, ModelsError) as error:
        raise StudyError(f"{path}: {error}") from error


def parse(data: Mapping[str, Any], path: Path) -> Plan:
    """The plan that a file's content says; `path` is where it lies. Raises StudyError, ArchError or
    InvalidInputError."""
    whole = dict(data)
    vary = Reader(whole.pop("vary", {}), "vary")
    keys = vary.texts("keys", ())
    values = vary.take("values", [])
    varied = vary.text("name", keys[0] if keys else "")
    vary.finish()
    if bool(keys) != bool(values) or not isinstance(values, list):
        raise StudyError(f"vary.values is {values!r}: allowed is a list of values, beside the keys they are of")
    points = tuple(_point(Reader(_with(whole, keys, v)), v) for v in values) if values else (_point(Reader(whole)),)
    top = Reader(whole)
    arms = list(points[0].arms)
    baseline = top.text("baseline", arms[0], arms)
    return Plan(
        name=path.stem,
        path=path,
        title=top.text("title", path.stem),
        data=top.text("data", "digits"),
        seeds=top.integers("seeds", (0, 1, 2), 0, SEED_MAX),
        baseline=baseline,
        varied=varied,
        points=points,
    )


def _with(data: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """The file's content with another value at dotted keys that are there already; numbers count a list's places."""
    made: Any = copy.deepcopy(dict(data))
    for key in keys:
        at = made
        *above, last = key.split(".")
        try:
            for name in above:
                at = at[int(name)] if isinstance(at, list) else at[name]
            at[last]
            at[last] = value
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise StudyError(
                f"vary.keys has {key!r}: the file has no such value; write e.g. pools.labelled.count"
            ) from error
    return made


def _point(top: Reader, value: Any = None) -> Point:
    for key in ("title", "data", "seeds", "baseline"):  # the plan's
        top.take(key, None)
    scene = Shift.parse(top.text("scene", "none"))
    declaration = Declaration.parse(
        top.text("format", "w8a8e8g8m16"), exponent=top.text("exponents", "delayed", ("static", "delayed", "exact"))
    )
    tables = {name: Reader(table, f"pools.{name}") for name, table in top.table("pools").rest().items()}
    pools = {name: _pool(reader, scene) for name, reader in tables.items()}
    if not pools:
        raise StudyError("there are no pools: write e.g. [pools.labelled] with count = 250")
    teacher = _teacher(top.table("teacher"), pools) if "teacher" in top else None
    arms = {name: _arm(Reader(a, f"arms.{name}"), pools, teacher) for name, a in top.table("arms").rest().items()}
    if not arms:
        raise StudyError("there are no arms: write e.g. [[arms.baseline.stages]]")
    point = Point(
        value=value,
        student=top.text("student", "mlp:64-32-10"),
        declaration=declaration,
        core=CoreParams.parse(top.text("core", "edge8")).with_declaration(declaration),
        batch=top.integer("batch", 32, 1, 65535),
        scene=scene,
        pools=pools,
        teacher=teacher,
        arms=arms,
    )
    top.finish()
    return point


def _pool(reader: Reader, scene: Shift) -> PoolSpec:
    spec = PoolSpec(
        count=reader.integer("count", 0, 1),
        labels=reader.flag("labels", True),
        noise=Noise.parse(reader.text("noise", "none")),
        skew=reader.number("skew", 1.0, "numbers from 1 up", lambda v: v >= 1),
        classes=reader.integers("classes", (), 0, 65535) if "classes" in reader else (),
        even=reader.flag("even", False),
        scene=Shift.parse(reader.text("scene", str(scene))),
    )
    reader.finish()
    return spec


def _teacher(reader: Reader, pools: Mapping[str, PoolSpec]) -> TeacherSpec:
    labelled = [name for name, spec in pools.items() if spec.labels]
    spec = TeacherSpec(
        pool=reader.text("pool", "", labelled),
        model=reader.text("model", "teacher"),
        width=reader.integer("width", 16, 1, 256),
        epochs=reader.integer("epochs", 10, 1),
    )
    reader.finish()
    return spec


def _arm(reader: Reader, pools: Mapping[str, PoolSpec], teacher: TeacherSpec | None) -> Curriculum:
    where = reader.name("stages")
    tables = reader.take("stages", [])
    if not isinstance(tables, list) or not tables:
        raise StudyError(f"{where} is {tables!r}: a list of stages is wanted, [[{where}]]")
    curriculum = Curriculum(
        stages=tuple(_stage(Reader(t, f"{where}.{i}"), pools, teacher) for i, t in enumerate(tables)),
        students=reader.integer("students", 1, 1, 64),
    )
    reader.finish()
    alone = [s for s in curriculum.stages if isinstance(s.labels, policies.LABELS["peers"])]
    if alone and curriculum.students == 1:
        raise StudyError(f"{reader.name('students')} is 1: labels of peers need 2 and more")
    return curriculum


def _stage(reader: Reader, pools: Mapping[str, PoolSpec], teacher: TeacherSpec | None) -> Stage:
    chosen = tuple(name.strip() for name in reader.text("pool", next(iter(pools))).split("+"))
    unknown = [name for name in chosen if name not in pools]
    if unknown:
        raise StudyError(f"{reader.name('pool')} has {unknown[0]!r}: allowed are {', '.join(pools)}, joined by +")
    sampling, samples = policies.read(reader, "samples", "uniform", policies.SAMPLES)
    labelling, labels = policies.read(reader, "labels", "given", policies.LABELS)
    for key, policy in (("samples", samples), ("labels", labels)):
        if teacher is None and (getattr(policy, "of", "") == "teacher" or labelling == "distilled"):
            raise StudyError(f"{reader.name(key)} asks a teacher and there is none: give the file a table [teacher]")
    # What the samples are chosen or turned by is their label.
    needs = labelling not in policies.UNLABELLED and not (labelling == "distilled" and labels.share == 1)
    blind = [name for name in chosen if not pools[name].labels]
    if blind and needs and sampling not in ("top-k", "rotations"):
        raise StudyError(
            f"{reader.name('labels')} is {labelling!r} and pool {blind[0]!r} has no labels: allowed are "
            f"{', '.join(policies.UNLABELLED)}, and distilled with share = 1"
        )
    if blind and sampling in ("class-balanced", "stream") and samples != policies.SAMPLES["stream"]():
        raise StudyError(f"{reader.name('samples')} is {sampling!r} and pool {blind[0]!r} has no labels to go by")
    classes = reader.integer("classes", 0, 2) if "classes" in reader else None
    if classes is not None:
        if samples.pretext:
            raise StudyError(
                f"{reader.name('classes')} is {classes} and {sampling} have classes of their own: leave it out"
            )
        others = [name for name in chosen if not pools[name].classes or max(pools[name].classes) >= classes]
        if others:
            raise StudyError(
                f"{reader.name('classes')} is {classes} and pool {others[0]!r} has others: give it classes, all below"
            )
        if labelling == "distilled" or getattr(labels, "of", "") == "teacher":
            raise StudyError(f"{reader.name('classes')} is {classes} and the teacher tells all classes apart")
    stage = Stage(
        pools=chosen,
        samples=samples,
        labels=labels,
        epochs=reader.integer("epochs", 1, 1),
        lr=reader.number("lr", 0.1, "numbers above 0", lambda v: v > 0),
        schedule=reader.text("schedule", "constant", tuple(SCHEDULES)),
        classes=classes,
        trainable=_named(reader, "trainable", reader.text("trainable", "all")),
        name=reader.text("name", ""),
    )
    reader.finish()
    return stage


def _named(reader: Reader, key: str, text: str) -> Trainable:
    try:
        return Trainable.parse(text)
    except InvalidInputError as error:
        raise StudyError(f"{reader.name(key)}: {error}") from error


def with_seeds(plan: Plan, seeds: tuple[int, ...]) -> Plan:
    """The same plan over other seeds. Raises StudyError for none, the same twice, or one out of range."""
    if not seeds or len(set(seeds)) != len(seeds) or not all(0 <= s <= SEED_MAX for s in seeds):
        raise StudyError(f"seeds {list(seeds)}: allowed are different whole numbers, 0 to {SEED_MAX}")
    return replace(plan, seeds=seeds)
