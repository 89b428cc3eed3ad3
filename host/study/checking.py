"""What can be known of a study before any of it runs: that its data are there, and that its points compile."""

from __future__ import annotations

from collections.abc import Iterator

from insitu.host.errors import HostError, StudyError
from insitu.host.study import arms, points, trial
from insitu.host.study.points import Point
from insitu.host.study.schema import Study
from insitu.host.study.setting import Setting
from insitu.models.datasets import Dataset

#: Axes whose values are right or wrong by themselves; a width may be wrong beside another one only.
_ALONE = ("student", "core", "format")


def check(study: Study, root: str | None) -> None:
    """See that the data are there and that every listed point compiles; of a search, its base and each value that is
    listed, and both ends of ranges. Raises HostError, ModelsError or ArchError."""
    try:
        data = trial.held_out(study.data, root, study.holdout).dataset
    except StudyError as error:
        raise StudyError(f"{study.path}: {error}") from error
    seen = set()
    for point in (*_points(study), *points.compared(study)):
        setting = point.setting(study)
        what = (setting.student, str(setting.declaration), setting.core, setting.batch, setting.preset, setting.arm)
        if what in seen:
            continue
        seen.add(what)
        try:
            _check(study, setting, data)
        except HostError as error:
            raise StudyError(f"{study.path}: {point.arm} {dict(point.values) or 'base'}: {error}") from error


def _points(study: Study) -> Iterator[Point]:
    if study.search.method in ("grid", "one-at-a-time"):
        yield from points.listed(study)
        return
    yield Point(values={})
    for axis in study.space:
        for value in axis.choices or ((int(axis.low), int(axis.high)) if axis.whole else (axis.low, axis.high)):
            point = Point(values={axis.name: value})
            try:
                point.setting(study)
            except StudyError:
                if axis.name in _ALONE:
                    raise
                continue
            yield point


def _check(study: Study, setting: Setting, data: Dataset) -> None:
    if setting.arm == "insitu":
        arms.compiled(setting, data, str(study.folder), 0)
        return
    arms.build(setting.student, data, str(study.folder), 0)
    if setting.arm == "qpytorch":
        from insitu.host.study import fake

        fake.check(setting)
