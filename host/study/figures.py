"""The figures of a report, described once and drawn twice: Plotly's for the page, Matplotlib's for papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from insitu.fpga.targets import RESOURCES
from insitu.host.study.front import front, sensitivity
from insitu.host.study.summary import WIDTHS, Entry, floats, resources


@dataclass(frozen=True, kw_only=True)
class Series:
    """Numbers x, y; spread: half the length of error bars. line: joined. hollow: estimates. text: a label a point."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()
    text: Sequence[str] = ()
    line: bool = True
    hollow: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure. key: the name of its files. levels: (name, y) of horizontal lines. bars: y as bars over the names of
    the series, one each."""

    key: str
    title: str
    x: str
    y: str
    series: Sequence[Series]
    levels: Sequence[tuple[str, float]] = field(default_factory=tuple)
    bars: bool = False
    note: str = ""


ACCURACY = "test accuracy, %"


def figures(found: Sequence[Entry], within: float) -> list[Figure]:
    """All figures that these trials have something to show in."""
    points = [e for e in found if e.row["kind"] == "point" and not e.preset]
    made = [
        by_bits(points, found),
        *fronts(found),
        narrowest(points, within),
        by_rounding(points, found),
        curves(found),
    ]
    return [figure for figure in made if figure is not None and figure.series]


def _levels(found: Sequence[Entry]) -> tuple[tuple[str, float], ...]:
    return tuple((f"float32 {e.row['student']}", 100 * e.accuracy) for e in floats(found)[:1])


def _series(name: str, along: Sequence[tuple[float, Entry]], **more: Any) -> Series:
    along = sorted(along, key=lambda pair: pair[0])
    return Series(
        name=name,
        x=[x for x, _ in along],
        y=[100 * e.accuracy for _, e in along],
        spread=[100 * e.spread for _, e in along],
        text=[f"{e.name}, {e.seeds} seeds" for _, e in along],
        **more,
    )


def _role_runs(points: Sequence[Entry]) -> dict[str, list[tuple[float, Entry]]]:
    """For each role, and for all but the master together, the widths tried while nothing else changed."""
    found: dict[str, list[tuple[float, Entry]]] = {}
    together = [e for e in points if len({e.row[f"{r}_bits"] for r in WIDTHS[:4]}) == 1]
    columns = {"all but master": (together, tuple(f"{r}_bits" for r in WIDTHS))}
    columns |= {role: (list(points), (f"{role}_bits",)) for role in WIDTHS}
    for name, (among, free) in columns.items():
        groups: dict[Any, dict[float, Entry]] = {}
        for e in among:
            groups.setdefault(e.same_but(*free), {}).setdefault(float(e.row[free[0]]), e)
        longest = max(groups.values(), key=len, default={})
        if len(longest) > 1:
            found[name] = sorted(longest.items())
    return found


def by_bits(points: Sequence[Entry], found: Sequence[Entry]) -> Figure:
    """Accuracy against the width of each role, the others as they were."""
    series = [_series(name, along) for name, along in _role_runs(points).items()]
    title = "Accuracy against the bits of each role"
    note = "Each line varies one role; the others stay. Bars are the spread over seeds."
    return Figure(key="bits", title=title, x="bits", y=ACCURACY, series=series, levels=_levels(found), note=note)


def narrowest(points: Sequence[Entry], within: float) -> Figure:
    """For each role the narrowest width within some points of its widest."""
    series = []
    for name, along in _role_runs(points).items():
        least = sensitivity([int(x) for x, _ in along], [100 * e.accuracy for _, e in along], within)
        if least is not None:
            series.append(Series(name=name, x=[], y=[float(least)]))
    title = f"Narrowest width within {within:g} points of the widest tried"
    return Figure(key="sensitivity", title=title, x="role", y="bits", series=series, bars=True)


def fronts(found: Sequence[Entry]) -> list[Figure]:
    """Accuracy against each thing that a core costs, the Pareto front joined."""
    made = []
    for name, words in resources():
        priced = [(cost, e) for e in found if (cost := e.cost(name)) is not None and e.row["arm"] == "insitu"]
        if len({cost for cost, _ in priced}) < 2:
            continue
        on = {id(priced[i][1]) for i in front([(cost, e.score) for cost, e in priced])}
        area = name in RESOURCES
        known = [(c, e) for c, e in priced if id(e) not in on and (e.known_area or not area)]
        estimated = [(c, e) for c, e in priced if id(e) not in on and area and not e.known_area]
        series = [
            _series("Pareto front", [(c, e) for c, e in priced if id(e) in on]),
            *([_series("others", known, line=False)] if known else []),
            *([_series("others, area estimated", estimated, line=False, hollow=True)] if estimated else []),
        ]
        title, note = f"Accuracy against {words}", ""
        if area:
            unknown = sum(not e.known_area for _, e in priced if id(e) in on)
            note = (
                "Every point of the front is of a synthesised core."
                if not unknown
                else f"{unknown} of the front estimated."
            )
        made.append(
            Figure(
                key=f"pareto-{name}", title=title, x=words, y=ACCURACY, series=series, levels=_levels(found), note=note
            )
        )
    return made


def by_rounding(points: Sequence[Entry], found: Sequence[Entry]) -> Figure | None:
    """Roundings side by side over the bits of weights."""
    named: dict[str, list[tuple[float, Entry]]] = {}
    free = (*(f"{r}_rounding" for r in WIDTHS), *(f"{r}_bits" for r in WIDTHS))
    groups: dict[Any, list[Entry]] = {}
    for e in points:
        groups.setdefault(e.same_but(*free), []).append(e)
    group = max(groups.values(), key=lambda g: len({_rounding(e) for e in g}), default=[])
    for e in group:
        along = named.setdefault(_rounding(e), [])
        if float(e.row["weight_bits"]) not in {x for x, _ in along}:
            along.append((float(e.row["weight_bits"]), e))
    if len(named) < 2:
        return None
    series = [_series(name, along) for name, along in named.items()]
    title = "Roundings side by side"
    return Figure(key="rounding", title=title, x="bits of weights", y=ACCURACY, series=series, levels=_levels(found))


def _rounding(e: Entry) -> str:
    roles = ("activation", "error", "gradient", "master")
    names = [str(e.row[f"{role}_rounding"]) for role in roles]
    if len(set(names)) == 1:
        return names[0]
    return ", ".join(f"{role} {name}" for role, name in zip(roles, names, strict=True))


def curves(found: Sequence[Entry]) -> Figure | None:
    """Accuracy after each epoch of what is compared, and of the first point; the first seed's."""
    shown = [e for e in found if e.row["kind"] == "compared"] + [e for e in found if e.row["kind"] == "point"][:1]
    series = [
        Series(
            name=e.name,
            x=list(range(1, len(e.row["accuracy_by_epoch"]) + 1)),
            y=[100 * a for a in e.row["accuracy_by_epoch"]],
        )
        for e in shown
        if len(e.row["accuracy_by_epoch"]) > 1
    ]
    return Figure(key="epochs", title="Accuracy after each epoch, first seed", x="epoch", y=ACCURACY, series=series)
