"""The points of a study: those of its grid, in order, and those that are trained beside them to compare with."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from insitu.host.errors import StudyError
from insitu.host.study import setting
from insitu.host.study.presets import PRESETS
from insitu.host.study.schema import Study
from insitu.host.study.setting import Arm, Setting
from insitu.host.study.space import Value

#: Axes that a float32 student has too.
_FLOAT_AXES = ("student", "batch", "epochs", "lr", "schedule")


@dataclass(frozen=True, kw_only=True)
class Point:
    """Values of axes, and by which arm they are trained."""

    values: Mapping[str, Value]
    arm: Arm = "insitu"

    def setting(self, study: Study) -> Setting:
        """What its trial is trained with. Raises StudyError where there is no such thing."""
        common: dict[str, Any] = {"data": study.data, "holdout": study.holdout, "seeds": study.seeds, "arm": self.arm}
        return setting.make(study.base, self.values, **common)


def listed(study: Study) -> list[Point]:
    """The points of a grid, or of one axis at a time with the base first; none twice. Raises StudyError where one
    makes no setting."""
    points = (Point(values=values) for values in _values(study))
    return _distinct(study, points)


def compared(study: Study, leading: Sequence[Point] = ()) -> list[Point]:
    """What is trained beside the points: float32 for every student, batch, rate and so on of a grid, of the presets
    named and of `leading`, a search's; the formats named, and QPyTorch at those of them that are no presets. Raises
    StudyError."""
    found: list[Point] = []
    compare = study.compare
    students = next((axis.values for axis in study.space if axis.name == "student"), (study.base["student"],))
    if compare.float32:
        listing = study.search.method in ("grid", "one-at-a-time")
        seen = listed(study) if listing else [Point(values={"student": s}) for s in students]
        found += map(_float, seen)
    for student, text in itertools.product(students, compare.formats):
        values: dict[str, Value] = {"student": student, "format": text}
        found.append(Point(values=values))
        if compare.float32:
            found.append(_float(found[-1]))
        if compare.qpytorch and text not in PRESETS:
            found.append(Point(values=values, arm="qpytorch"))
    return _distinct(study, [*found, *map(_float, leading)])


def _values(study: Study) -> Iterator[dict[str, Value]]:
    space = study.space
    if study.search.method == "grid":
        for values in itertools.product(*(axis.values for axis in space)):
            yield dict(zip((axis.name for axis in space), values, strict=True))
    else:
        yield {}
        for axis in space:
            yield from ({axis.name: value} for value in axis.values)


def _float(point: Point) -> Point:
    """The float32 student that is trained like a point's: what a preset trains with stays."""
    kept = {name: v for name, v in point.values.items() if name in _FLOAT_AXES or (name == "format" and v in PRESETS)}
    return Point(values=kept, arm="float32")


def _distinct(study: Study, points: Any) -> list[Point]:
    found: list[Point] = []
    seen: set[str] = set()
    for point in points:
        try:
            made = point.setting(study)
        except StudyError as error:
            raise StudyError(f"{point.arm}: {error}" if point.arm != "insitu" else str(error)) from error
        known = json.dumps(made.to_json(), sort_keys=True)
        if known not in seen:
            seen.add(known)
            found.append(point)
    return found
