"""The one-page answer: the cheapest core whose student comes within some points of float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from insitu.host.study.summary import Entry, reference, resources

#: What cores are compared by: the first that is known of all.
_PRICES = ("lut", "memory_bits")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """float32: the reference, the best point where the study has none. chosen: None where no point comes so near.
    price: the column it is the cheapest in. widest: the point with the most bits, to compare with."""

    within: float
    float32: Entry | None
    chosen: Entry | None
    price: str
    widest: Entry | None


def answer(found: Sequence[Entry], within: float) -> Answer:
    """The cheapest point within `within` points (hundredths) of the float32 trained like it."""
    points = [e for e in found if e.row["kind"] == "point"]
    best = max(points, key=lambda e: e.score, default=None)
    held = {id(e): reference(found, e) for e in points}
    against = {id(e): held[id(e)] or best for e in points}
    near = [e for e in points if (r := against[id(e)]) and e.score >= r.score - within / 100 - 1e-12]
    price = next((p for p in _PRICES if all(e.cost(p) is not None for e in near)), "memory_bits")
    chosen = min(near, key=lambda e: (e.cost(price) or 0, e.cost("cycles") or 0, -e.score), default=None)
    widest = max(points, key=lambda e: (e.cost(price) or 0, e.score), default=None)
    first = chosen or best
    return Answer(
        within=within,
        float32=(held[id(first)] if first else None),
        chosen=chosen,
        price=price,
        widest=widest,
    )


def lines(found: Answer) -> list[str]:
    """The answer in sentences."""
    said = []
    if found.float32 is not None:
        said.append(f"float32: {percent(found.float32)}")
    what = f"within {found.within:g} points of {'float32' if found.float32 else 'the best point'}"
    if found.chosen is None:
        return [*said, f"no point comes {what}"]
    entry = found.chosen
    where = f", {entry.row['student']} on {entry.row['n']} x {entry.row['n']} cells"
    said.append(f"cheapest core {what}: {entry.name}{where}: {percent(entry)}")
    said.append("it costs " + ", ".join(priced(entry)))
    if found.widest is not None and found.widest is not entry:
        before, after = found.widest.cost(found.price), entry.cost(found.price)
        if before and after is not None:
            words = dict(resources())[found.price]
            said.append(f"{1 - after / before:.0%} less {words} than {found.widest.name} ({percent(found.widest)})")
    return said


def percent(entry: Entry) -> str:
    """Accuracy and its spread over seeds."""
    spread = f" +- {100 * entry.spread:.2f}" if entry.seeds > 1 else ""
    return f"{100 * entry.accuracy:.2f}{spread} %"


def priced(entry: Entry) -> list[str]:
    """What an entry's core costs, in words; estimates are marked with the model's error."""
    said = []
    for name, words in resources():
        value = entry.cost(name)
        if value is not None:
            said.append(f"{value:,.0f} {words}")
    if entry.row["area_source"] == "model":
        said.append(f"area estimated, LUT +- {entry.row['area_error_lut']:.1%}")
    return said
