"""What a run came to: accuracies and gains over the baseline, seed by seed, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of one arm at one point, over seeds: final accuracies and gains over the baseline's, both in percent.

    accuracy, least: of all test images, and of the class with the least. gains: one a seed, 0 of the baseline.
    """

    arm: str
    value: Any
    arithmetic: str
    accuracy: tuple[float, ...]
    least: tuple[float, ...]
    gains: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean accuracy over seeds."""
        return float(np.mean(self.accuracy))

    @property
    def gain(self) -> tuple[float, float]:
        """Mean gain, and its spread: the standard deviation over seeds (n - 1), 0 of one."""
        return float(np.mean(self.gains)), spread(self.gains)

    def to_json(self) -> dict[str, Any]:
        gain, spread = self.gain
        return {
            "arm": self.arm,
            "value": self.value,
            "arithmetic": self.arithmetic,
            "accuracy": self.mean,
            "accuracy_of_least_class": float(np.mean(self.least)),
            "gain": gain,
            "gain_spread": spread,
            "gains": list(self.gains),
        }


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds (n - 1), 0 of one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def scores(result: Mapping[str, Any]) -> list[Score]:
    """Scores of all points, arms and arithmetics of `experiment.run`'s result."""
    return [score for point in result["points"] for score in _of_point(point, result["baseline"])]


def _of_point(point: Mapping[str, Any], baseline: str) -> Iterator[Score]:
    for arm, by_arithmetic in point["arms"].items():
        for arithmetic, runs in by_arithmetic.items():
            held = point["arms"][baseline][arithmetic]
            accuracy = tuple(100 * run[-1]["accuracy"] for run in runs)
            yield Score(
                arm=arm,
                value=point["value"],
                arithmetic=arithmetic,
                accuracy=accuracy,
                least=tuple(100 * min(a for a in run[-1]["by_class"] if a is not None) for run in runs),
                gains=tuple(a - 100 * run[-1]["accuracy"] for a, run in zip(accuracy, held, strict=True)),
            )


def table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table: each arm but the baseline, at each point, on the device beside its float32 twin."""
    lines = [
        "| curriculum | arm | data, seeds | baseline | device | float32 | gain, device | gain, float32 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        by_key = {(s.value, s.arm, s.arithmetic): s for s in scores(result)}
        for (value, arm, arithmetic), score in by_key.items():
            if arithmetic != "device" or arm == result["baseline"]:
                continue
            held, twin = by_key[value, result["baseline"], "device"], by_key.get((value, arm, "float"))
            at = f", {result['vary'].rpartition('.')[2]} {value}" if result["vary"] else ""
            lines.append(
                f"| {result['curriculum']} | {arm}{at} | {result['data']}, {len(result['seeds'])} | {held.mean:.1f} "
                f"| {score.mean:.1f} | {f'{twin.mean:.1f}' if twin else ''} | {signed(score)} "
                f"| {signed(twin) if twin else ''} |"
            )
    return lines


def signed(score: Score) -> str:
    """A gain with its spread, as `+1.2 ± 0.3`."""
    gain, spread = score.gain
    return f"{gain:+.1f} ± {spread:.1f}"
