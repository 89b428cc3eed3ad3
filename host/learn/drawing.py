"""The figure of a run, by Matplotlib: the same bytes of the same result."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from insitu.host.learn.results import scores, spread
from insitu.host.study.drawing import COLOURS

_MARKERS = ("o", "s", "D", "^", "P", "X", "*", "v")


def to_svg(result: Mapping[str, Any]) -> bytes:
    """Accuracy of each arm on the device and in float32: against what the file varies, or side by side."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": "insitu", "font.size": 8, "svg.fonttype": "none"}
    with mpl.rc_context(settings):
        canvas = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = canvas.add_subplot()
        (_curves if result["vary"] else _dots)(axes, result)
        axes.set(ylabel="test accuracy, %", title=result["title"])
        axes.grid(alpha=0.3, linewidth=0.5)
        axes.legend(fontsize=6)
        written = io.BytesIO()
        canvas.savefig(written, format="svg", metadata={"Date": None})
    # Matplotlib leaves blanks at the ends of lines.
    return b"".join(line.rstrip() + b"\n" for line in written.getvalue().splitlines())


def _curves(axes: Any, result: Mapping[str, Any]) -> None:
    """Against the values varied, which stand at equal distances."""
    values = [str(point["value"]) for point in result["points"]]
    found = scores(result)
    for i, arm in enumerate(result["points"][0]["arms"]):
        for arithmetic in ("device", "float"):
            mine = [s for s in found if s.arm == arm and s.arithmetic == arithmetic]
            if not mine:
                continue
            axes.errorbar(
                range(len(values)),
                [s.mean for s in mine],
                yerr=[spread(s.accuracy) for s in mine],
                **_style(i, arithmetic),
                label=_label(arm, arithmetic),
                linewidth=1,
                elinewidth=0.7,
            )
    taught = [point["teacher"] for point in result["points"]]
    if all(None not in t for t in taught):
        axes.plot(range(len(values)), [_teacher(t) for t in taught], color="0.5", ls="--", lw=0.8, label="teacher")
    axes.set_xticks(range(len(values)), values)
    axes.set_xlabel(result["vary"])


def _dots(axes: Any, result: Mapping[str, Any]) -> None:
    """Side by side, a dot a seed, a bar at the mean."""
    arms = list(result["points"][0]["arms"])
    named = set()
    for score in scores(result):
        i = arms.index(score.arm)
        x = i + (-0.12 if score.arithmetic == "device" else 0.12)
        label = None if score.arithmetic in named else _label("", score.arithmetic)
        named.add(score.arithmetic)
        style = _style(0 if score.arithmetic == "device" else 1, score.arithmetic) | {"linestyle": "none"}
        axes.plot([x] * len(score.accuracy), score.accuracy, **style, label=label)
        axes.plot([x - 0.09, x + 0.09], [score.mean] * 2, color=style["color"], linewidth=1.5)
    taught = result["points"][0]["teacher"]
    if None not in taught:
        axes.axhline(_teacher(taught), color="0.5", linestyle="--", linewidth=0.8, label="teacher")
    axes.set_xticks(range(len(arms)), arms)


def _teacher(taught: Sequence[Mapping[str, float]]) -> float:
    """Mean accuracy over seeds, in percent."""
    return float(100 * np.mean([one["accuracy"] for one in taught]))


def _style(i: int, arithmetic: str) -> dict[str, Any]:
    colour = COLOURS[i % len(COLOURS)]
    device = arithmetic == "device"
    return {
        "color": colour,
        "marker": _MARKERS[i % len(_MARKERS)],
        "markersize": 3.5,
        "markerfacecolor": colour if device else "none",
        "linestyle": "-" if device else ":",
    }


def _label(arm: str, arithmetic: str) -> str:
    return f"{arm}, {'device' if arithmetic == 'device' else 'float32'}".removeprefix(", ")
