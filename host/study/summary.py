"""Trials over their seeds: one entry each, and what they are held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from insitu.fpga.targets import RESOURCES
from insitu.host.study.area import SYNTHESISED
from insitu.host.study.presets import PRESETS

#: Columns that say by what arithmetic and how a trial was trained; two trials that agree in all are the same point.
WIDTHS = ("weight", "activation", "error", "gradient", "master")
_SETTING = (
    *("student", "n", "epochs", "batch", "lr", "schedule", "exponents", "layers"),
    *(f"{role}_bits" for role in (*WIDTHS, "accumulator", "target")),
    *(f"{role}_rounding" for role in WIDTHS),
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A trial: `row` is its first seed's, accuracies are of all.

    score: what points are chosen by, of the images held out where there are some; accuracy: of the test images; both
    the mean of last epochs, shares of 1. spread: population standard deviation of the accuracy over seeds.
    """

    row: Mapping[str, Any]
    score: float
    accuracy: float
    spread: float
    seeds: int

    @property
    def name(self) -> str:
        """The format in short, or the arm."""
        row = self.row
        return (
            str(row["format"])
            if row["arm"] == "insitu"
            else f"{row['arm']} {row['format']}".replace("32 float32", "32")
        )

    @property
    def preset(self) -> bool:
        """Whether it is of a published setting."""
        return self.row["format"] in PRESETS

    @property
    def known_area(self) -> bool:
        """Whether its core was synthesised."""
        return self.row["area_source"] == SYNTHESISED

    def cost(self, name: str) -> float | None:
        """A resource, `cycles` of a training step or `memory_bits`; None where nobody knows it."""
        value = self.row["cycles_per_step" if name == "cycles" else name]
        return None if value is None else float(value)

    def same_but(self, *columns: str) -> tuple[Any, ...]:
        """All of its setting but some columns: equal in trials that differ in these alone."""
        return tuple(self.row[c] for c in _SETTING if c not in columns)


def entries(rows: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """The trials that have a result, in the order of the rows."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["accuracy"] is not None:
            groups.setdefault((row["kind"], row["trial"]), []).append(row)
    found = []
    for group in groups.values():
        accuracy = np.array([row["accuracy"] for row in group])
        held = [row["accuracy"] if row["held_out"] is None else row["held_out"] for row in group]
        found.append(
            Entry(
                row=group[0],
                score=float(np.mean(held)),
                accuracy=float(accuracy.mean()),
                spread=float(accuracy.std()),
                seeds=len(group),
            )
        )
    return found


def floats(found: Sequence[Entry]) -> list[Entry]:
    """The float32 trials."""
    return [e for e in found if e.row["arm"] == "float32"]


def reference(found: Sequence[Entry], entry: Entry) -> Entry | None:
    """The float32 trial of an entry's student, rate and so on; where there is none, the best of that student."""
    mine = [e for e in floats(found) if e.row["student"] == entry.row["student"]]
    same = ("batch", "epochs", "lr", "schedule")
    exact = [e for e in mine if all(e.row[c] == entry.row[c] for c in same)]
    return max(exact or mine, key=lambda e: e.score, default=None)


def resources() -> tuple[tuple[str, str], ...]:
    """(column, words) of everything that a core costs."""
    words = {"lut": "LUT", "ff": "flip-flops", "dsp": "DSP", "bram": "block RAMs of 36 kb"}
    return (
        *((name, words[name]) for name in RESOURCES),
        ("cycles", "cycles of a training step"),
        ("memory_bits", "bits of memory"),
    )
