"""A study's file: what is asked for, checked as far as it can be before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from insitu.arch.errors import ArchError
from insitu.fpga.targets import RESOURCES, TARGETS
from insitu.host.errors import StudyError
from insitu.host.study.presets import PRESETS
from insitu.host.study.reading import Reader, toml
from insitu.host.study.space import POLICIES, ROUNDINGS, Axis, read_axes
from insitu.models.schedules import SCHEDULES

METHODS = ("grid", "one-at-a-time", "random", "optuna")
#: What a search can aim at: the largest accuracy, the least of all else.
OBJECTIVES = ("accuracy", "cycles", "bits", *RESOURCES)
SOURCES = ("synthesis", "model", "none")


@dataclass(frozen=True, kw_only=True)
class Search:
    """How points are chosen. trials: of random and optuna. together: trials chosen at once, from what came of all those
    before them: part of the result, the number of workers is not."""

    method: str = "grid"
    trials: int = 60
    together: int = 8
    seed: int = 0
    objectives: tuple[str, ...] = ("accuracy",)

    @property
    def areas(self) -> tuple[str, ...]:
        """The objectives that a core's area tells."""
        return tuple(name for name in self.objectives if name in RESOURCES)


@dataclass(frozen=True, kw_only=True)
class Compare:
    """What else is trained beside the points: float32, given formats or presets, and QPyTorch at those formats."""

    float32: bool = True
    formats: tuple[str, ...] = ()
    qpytorch: bool = False


@dataclass(frozen=True, kw_only=True)
class Area:
    """Where a core's area comes from. samples: cores synthesised to fit the model to."""

    source: str = "none"
    target: str = "xc7"
    samples: int = 8


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study as its file says it. base: what every trial has unless an axis says otherwise (`setting.Base`)."""

    name: str
    path: Path
    storage: str
    data: str
    holdout: float
    seeds: tuple[int, ...]
    base: Mapping[str, Any]
    search: Search
    space: tuple[Axis, ...]
    compare: Compare
    area: Area
    #: Everything that decides the results, to know the study by.
    identity: Mapping[str, Any] = field(repr=False)

    @property
    def folder(self) -> Path:
        """Where relative paths of the file begin."""
        return self.path.parent


def load(path: Path) -> Study:
    """Read a study's file. Raises StudyError, which quotes the value and says what is allowed."""
    data = toml(path)
    try:
        return parse(data, path)
    except (StudyError, ArchError) as error:
        raise StudyError(f"{path}: {error}") from error


def parse(data: Mapping[str, Any], path: Path) -> Study:
    """The study that a file's content says; `path` is where it lies. Raises StudyError."""
    top = Reader(data)
    name = top.text("name", path.stem)
    storage = top.text("storage", f"sqlite:///{path.resolve().with_suffix('.db')}")
    dataset = top.text("data", "digits")
    holdout = top.number("holdout", 0.0, "0 to 0.5", lambda v: 0 <= v <= 0.5)
    seeds = top.integers("seeds", (0,), 0, 2**32 - 2)
    base: dict[str, Any] = {"student": top.text("student", "mlp:64-32-10"), "core": top.text("core", "tiny4")}
    train = top.table("train")
    base |= {
        "epochs": train.integer("epochs", 5, 1),
        "batch": train.integer("batch", 32, 1, 65535),
        "lr": train.number("lr", 0.2, "numbers above 0", lambda v: v > 0),
        "schedule": train.text("schedule", "linear", tuple(SCHEDULES)),
    }
    train.finish()
    base |= _format(top.table("format"))
    search = _search(top.table("search"), holdout)
    space = read_axes(top.table("space"))
    compare = _compare(top.table("compare"))
    area = _area(top.table("area"), search)
    top.finish()
    if search.method in ("grid", "one-at-a-time"):
        for axis in space:
            _ = axis.values
    elif not space:
        raise StudyError(f"search.method {search.method!r} without a table [space]: there is nothing to search")
    if not name:
        raise StudyError("name is '': a study has one")
    identity = {k: v for k, v in data.items() if k not in ("name", "storage")}
    return Study(
        name=name,
        path=path,
        storage=storage,
        data=dataset,
        holdout=holdout,
        seeds=seeds,
        base=base,
        search=search,
        space=space,
        compare=compare,
        area=area,
        identity=identity,
    )


def _format(reader: Reader) -> dict[str, Any]:
    """The formats that trials start from."""
    if "preset" in reader:
        preset = reader.text("preset", "", tuple(PRESETS))
        reader.finish()  # its formats are its own
        return {"format": preset}
    found: dict[str, Any] = {"format": reader.text("bits", "w8a8e8g8")}
    if "exponents" in reader:
        found["exponents"] = reader.text("exponents", "", POLICIES)
    roundings = reader.table("rounding")
    for role, value in roundings.rest().items():
        if value not in ROUNDINGS:
            raise StudyError(f"{roundings.name(role)} is {value!r}: allowed are {', '.join(ROUNDINGS)}")
        found[f"{role}.rounding"] = value
    reader.finish()
    return found


def _search(reader: Reader, holdout: float) -> Search:
    method = reader.text("method", "grid", METHODS)
    objectives = reader.texts("objectives", ("accuracy",), OBJECTIVES)
    search = Search(
        method=method,
        trials=reader.integer("trials", 60, 1),
        together=reader.integer("together", 8, 1),
        seed=reader.integer("seed", 0, 0, 2**32 - 2),
        objectives=objectives,
    )
    reader.finish()
    if not objectives:
        raise StudyError(f"search.objectives is []: of {', '.join(OBJECTIVES)} at least one is wanted")
    if method == "optuna" and "accuracy" in objectives and holdout == 0:
        raise StudyError(
            "search.method 'optuna' chooses by accuracy: hold training images out to judge by, "
            "holdout = 0.1 for a tenth (the test images would flatter what was chosen by them)"
        )
    if method != "optuna" and objectives != ("accuracy",):
        raise StudyError(f"search.objectives {list(objectives)}: only method 'optuna' aims at anything")
    return search


def _compare(reader: Reader) -> Compare:
    found = Compare(
        float32=reader.flag("float32", True),
        formats=reader.texts("formats", ()),
        qpytorch=reader.flag("qpytorch", False),
    )
    reader.finish()
    return found


def _area(reader: Reader, search: Search) -> Area:
    area = Area(
        source=reader.text("source", "none", SOURCES),
        target=reader.text("target", "xc7", TARGETS),
        samples=reader.integer("samples", 8, 4),
    )
    reader.finish()
    if search.areas and area.source == "none":
        raise StudyError(
            f"search.objectives has {search.areas[0]!r}: say where area comes from, area.source of {SOURCES[:2]}"
        )
    return area
