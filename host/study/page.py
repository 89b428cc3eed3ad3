"""A report's page: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from insitu.host.study import drawing
from insitu.host.study.answer import percent
from insitu.host.study.figures import Figure
from insitu.host.study.presets import PRESETS
from insitu.host.study.schema import Study
from insitu.host.study.summary import Entry, reference, resources

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: .2rem .6rem; border-bottom: 1px solid #ddd;
text-align: right; white-space: nowrap; } td:first-child, th:first-child { text-align: left; }
.wide { overflow-x: auto; max-height: 32rem; overflow-y: auto; } .answer { background: #eef5fb; padding: .8rem 1.2rem; }
.note { color: #666; font-size: 13px; } pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: 12px; }
"""


def page(
    study: Study,
    found: Sequence[Entry],
    rows: Sequence[Mapping[str, Any]],
    figures: Iterable[Figure],
    said: Sequence[str],
) -> str:
    """The whole page."""
    name = escape(study.name)
    parts = [
        f"<h1>{name}</h1>",
        f'<div class="answer">{"".join(f"<p>{escape(line)}</p>" for line in said)}</div>',
        f'<p class="note">{escape(_basis(study, found))}</p>',
    ]
    for figure in figures:
        parts += [f"<h2>{escape(figure.title)}</h2>", drawing.to_html(figure)]
        if figure.note:
            parts.append(f'<p class="note">{escape(figure.note)}</p>')
    parts += _compared(found)
    parts += _collapsed(rows)
    parts += ["<h2>All trials</h2>", _trials(found), *_failed(rows)]
    parts += ["<h2>The study's file</h2>", f"<pre>{escape(study.path.read_text(encoding='utf-8'))}</pre>"]
    head = (
        f'<meta charset="utf-8"><title>{name}</title><link rel="icon" href="data:,"><style>{_STYLE}</style>'
        f"<script>{drawing.plotly_script()}</script>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{"".join(parts)}</body></html>\n'


def _basis(study: Study, found: Sequence[Entry]) -> str:
    """What the figures are of."""
    said = [f"{study.data}, {len(study.seeds)} seeds, accuracy of the last epoch on all test images"]
    if study.holdout:
        said.append(f"points are chosen by {study.holdout:.0%} of the training images, held out")
    else:
        said.append("points are chosen by the test images, which flatters the chosen one a little")
    sources = {e.row["area_source"] for e in found} - {None}
    if "synthesis" in sources:
        said.append(f"area of {study.area.target} by yosys" + ("" if study.area.target != "xc7" else ", not placed"))
    if "model" in sources:
        error = next(e.row["area_error_lut"] for e in found if e.row["area_source"] == "model")
        said.append(f"estimated areas are marked; the model's LUTs are {error:.1%} off cores it was not fitted to")
    return "; ".join(said) + "."


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in line) for line in body)
    return f'<div class="wide"><table><tr>{top}</tr>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def _trials(found: Sequence[Entry]) -> str:
    head = ["", "student", "accuracy", "to float32", "lr", "batch", *(words for _, words in resources()), "area"]

    def line(e: Entry) -> list[str]:
        float32 = reference(found, e)
        lost = "" if float32 is None or float32 is e else f"{100 * (e.accuracy - float32.accuracy):+.2f}"
        costs = ["" if (v := e.cost(name)) is None else f"{v:,.0f}" for name, _ in resources()]
        row = e.row
        return [
            _what(e),
            row["student"],
            percent(e),
            lost,
            f"{row['lr']:g}",
            str(row["batch"]),
            *costs,
            row["area_source"] or "",
        ]

    return _table(head, map(line, found))


def _what(e: Entry) -> str:
    point = "" if e.row["point"] == "{}" else e.row["point"].strip("{}").replace('"', "")
    return f"{e.name} ({point})" if point and e.row["kind"] == "point" else e.name


def _compared(found: Sequence[Entry]) -> list[str]:
    beside = [e for e in found if e.row["kind"] == "compared"]
    if not beside:
        return []
    parts = [
        "<h2>Compared with</h2>",
        _table(["", "student", "accuracy"], [[e.name, e.row["student"], percent(e)] for e in beside]),
    ]
    for name in sorted({str(e.row["format"]) for e in found if e.preset}):
        preset = PRESETS[name]
        points = "".join(f"<li>{escape(sentence)}</li>" for sentence in preset.deviations)
        parts.append(f'<p class="note">{name}: {escape(preset.paper)}. Deviations:</p><ul class="note">{points}</ul>')
    return parts


def _collapsed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    fallen = [r for r in rows if r["collapsed"]]
    if not fallen:
        return ["<h2>Where training collapsed</h2>", "<p>Nowhere.</p>"]
    body = [
        [
            str(r["format"]),
            r["point"].strip("{}").replace('"', ""),
            str(r["seed"]),
            f"{r['accuracy']:.1%}",
            f"{r['best_epoch_accuracy']:.1%}",
            r["cause"],
        ]
        for r in fallen
    ]
    head = ["", "point", "seed", "last epoch", "best epoch", "why"]
    return ["<h2>Where training collapsed, and why</h2>", _table(head, body)]


def _failed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    failed = [r for r in rows if r["problem"]]
    if not failed:
        return []
    return ["<h2>Trials that could not be</h2>", _table(["point", "why"], [[r["point"], r["problem"]] for r in failed])]
