"""What a report says: the answer, its figures in both drawings, the table in both forms, the page in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from insitu.arch.declaration import Declaration
from insitu.arch.params import PRESETS
from insitu.host.errors import StudyError
from insitu.host.study import answer, area, store, summary, table, writing
from insitu.host.study.diagnosis import diagnose
from insitu.host.study.figures import by_rounding, figures
from insitu.host.study.front import front, sensitivity
from tests.host import study_toy as toy

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[toy.Study, Path, dict[str, Any]]:
    """A search that ran, the folder of its report, and what the report says."""
    folder = tmp_path_factory.mktemp("report")
    study = toy.study(folder, toy.SEARCH)
    toy.run(study)
    with store.opened(study, write=False) as kept:
        return study, folder / "out", writing.write(study, kept, folder / "out", 2.0)


def test_the_answer_is_the_cheapest_core_near_float32(made: tuple[toy.Study, Path, dict[str, Any]]) -> None:
    study, _, written = made
    found = summary.entries(toy.table(study))
    float32 = next(e for e in found if e.row["arm"] == "float32")
    near = [e for e in found if e.row["kind"] == "point" and e.score >= float32.score - 0.02]
    assert near, "nothing to choose from"
    assert written["chosen"]["lut"] == min(e.row["lut"] for e in near)
    assert any("within 2 points of float32" in line for line in written["answer"])
    with store.opened(study, write=False) as kept:
        strict = answer.answer(summary.entries(table.rows(study, kept)), 0.0)
    assert strict.chosen is None
    assert answer.lines(strict)[-1] == "no point comes within 0 points of float32"


def test_every_point_of_a_front_is_synthesised(made: tuple[toy.Study, Path, dict[str, Any]]) -> None:
    study, _, _ = made
    drawn = figures(summary.entries(toy.table(study)), 0.5)
    priced = [f for f in drawn if f.key in ("pareto-lut", "pareto-bram")]
    assert len(priced) == 2
    for figure in priced:
        assert figure.note == "Every point of the front is of a synthesised core."
        assert not any(s.hollow for s in figure.series)


def test_each_figure_is_drawn_for_papers_too(made: tuple[toy.Study, Path, dict[str, Any]]) -> None:
    study, out, written = made
    keys = {f.key for f in figures(summary.entries(toy.table(study)), 0.5)}
    assert {"pareto-lut", "epochs"} <= keys
    page = (out / "index.html").read_text()
    for key in keys:
        assert (out / f"figures/{key}.svg").read_text().startswith("<?xml")
        assert (out / f"figures/{key}.pdf").read_bytes().startswith(b"%PDF")
        assert f'id="{key}"' in page
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) == written["files"]


def test_the_page_needs_nothing_beside_it(made: tuple[toy.Study, Path, dict[str, Any]]) -> None:
    page = (made[1] / "index.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"(?!data:)", page)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_opens_without_a_word_in_the_console(
    made: tuple[toy.Study, Path, dict[str, Any]], tmp_path: Path
) -> None:
    assert CHROMIUM is not None
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
    ]
    flags += [
        f"--user-data-dir={tmp_path}",
        "--enable-logging=stderr",
        "--v=0",
        "--virtual-time-budget=20000",
        "--dump-dom",
    ]

    def opened(page: Path) -> tuple[str, list[str]]:
        done = subprocess.run(
            [CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    dom, said = opened(made[1] / "index.html")
    assert said == []
    drawn = len(re.findall(r'class="main-svg"', dom))
    assert drawn >= 2 * len(re.findall(r'class="[^"]*plotly-graph-div', dom)) > 0  # Plotly draws two layers a figure
    broken = tmp_path / "broken.html"
    broken.write_text("<script>nothing.there()</script>")
    assert opened(broken)[1], "an error in the console would not be seen"


def test_csv_and_parquet_hold_every_trial(made: tuple[toy.Study, Path, dict[str, Any]]) -> None:
    study, out, _ = made
    rows = toy.table(study)
    whole = pl.read_parquet(out / "trials.parquet")
    assert whole.to_dicts() == rows
    flat = pl.read_csv(out / "trials.csv", infer_schema_length=None)
    assert flat.columns == whole.columns
    assert flat["accuracy"].to_list() == [row["accuracy"] for row in rows]
    assert [json.loads(text) for text in flat["accuracy_by_epoch"]] == [row["accuracy_by_epoch"] for row in rows]
    assert flat["point"].to_list() == [row["point"] for row in rows]


def test_a_report_again_is_the_same_bytes(made: tuple[toy.Study, Path, dict[str, Any]], tmp_path: Path) -> None:
    study, out, _ = made
    with store.opened(study, write=False) as kept:
        writing.write(study, kept, tmp_path / "again", 2.0)
    for path in sorted(out.rglob("*.svg")) + sorted(out.rglob("*.csv")):
        assert (tmp_path / "again" / path.relative_to(out)).read_bytes() == path.read_bytes(), path


def test_a_report_cannot_be_a_file(made: tuple[toy.Study, Path, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with store.opened(made[0], write=False) as kept, pytest.raises(StudyError, match="is a file: a folder is wanted"):
        writing.write(made[0], kept, tmp_path / "out", 0.5)
    assert (tmp_path / "out").read_text() == "mine"


def test_roundings_stand_side_by_side(tmp_path: Path) -> None:
    text = '[search]\nmethod = "grid"\n[space]\nbits = [4, 6]\nrounding = ["floor", "stochastic"]'
    study = toy.study(tmp_path, text)
    toy.run(study)
    found = summary.entries(toy.table(study))
    figure = by_rounding([e for e in found if e.row["kind"] == "point"], found)
    assert figure is not None
    assert [(s.name, list(s.x)) for s in figure.series] == [("floor", [4, 6]), ("stochastic", [4, 6])]


def test_the_width_of_a_role_is_seen_while_the_others_stay(tmp_path: Path) -> None:
    text = '[format]\nbits = "w8m16"\n[search]\nmethod = "one-at-a-time"\n[space]\nweight = [4, 6]\nerror = [5]'
    study = toy.study(tmp_path, text)
    toy.run(study)
    drawn = {f.key: f for f in figures(summary.entries(toy.table(study)), 0.5)}
    assert {s.name: list(s.x) for s in drawn["bits"].series} == {"weight": [4, 6, 8], "error": [5, 8]}
    assert drawn["bits"].levels[0][0].startswith("float32")
    assert {s.name for s in drawn["sensitivity"].series} == {"weight", "error"}


@pytest.mark.parametrize(
    ("points", "on"),
    [
        ([(1, 1), (2, 2), (3, 3)], [0, 1, 2]),
        ([(3, 1), (2, 2), (1, 3)], [2]),
        ([(1, 1), (1, 2), (2, 2)], [1]),
        ([(5, 5), (1, 5), (7, 6)], [1, 2]),
        ([], []),
    ],
)
def test_front(points: list[tuple[float, float]], on: list[int]) -> None:
    assert front(points) == on


def test_sensitivity_stops_where_accuracy_first_falls() -> None:
    assert sensitivity([2, 4, 6, 8], [90, 50, 97.8, 98], 0.5) == 6
    assert sensitivity([8], [98], 0.5) is None


@pytest.mark.parametrize(
    ("accuracy", "statistics", "more", "why"),
    [
        ([0.5, 0.95], {}, {}, None),
        ([0.9, 0.2], {"1.y": (0.4, 0.0, 0.0)}, {}, "fell: 40% of 1.y saturate"),
        (
            [0.1, 0.1],
            {"1.y": (0.01, 0.0, 0.0), "1.error": (0.0, 0.99, 0.0)},
            {},
            "never learned: 99% of 1.error become zero",
        ),
        (
            [0.1, 0.1],
            {"1.weight": (0.0, 0.0, 0.95)},
            {},
            "never learned: 95% of 1.weight are left as they were by updates",
        ),
        ([0.1, 0.1], {"1.y": (0.0, 0.4, 0.0), "1.error": (0.0, 0.5, 0.0)}, {}, "never learned: 40% of 1.y become zero"),
        ([0.1, 0.1], {}, {"overflow": True}, "never learned: accumulators overflowed"),
        ([0.9, 0.1], {}, {"diverged": "loss is nan"}, "the loss is no longer finite"),
        ([0.1, 0.1], {"1.y": (0.0, 0.0, 0.0)}, {}, "never learned: no tensor stands out"),
    ],
)
def test_diagnosis(accuracy: list[float], statistics: dict[str, Any], more: dict[str, Any], why: str | None) -> None:
    names = ("saturated_share", "underflowed_share", "stalled_share")
    tensors = {tensor: dict(zip(names, shares, strict=True)) for tensor, shares in statistics.items()}
    assert diagnose({"accuracy": accuracy, "statistics": tensors, **more}) == why


def test_a_fitted_model_tells_its_error() -> None:
    cores = [
        PRESETS["tiny4"].with_declaration(Declaration.parse(f"w{w}a8e8g8m{m}"))
        for w in (2, 4, 6, 8)
        for m in (8, 12, 16)
    ]
    areas = [
        {"lut": 5000 * 1.02**c.weight_bits, "ff": 9000, "dsp": 26, "bram": c.master_bits, "source": "synthesis"}
        for c in cores
    ]
    model = area.fit(cores, areas)
    # Exactly exponential in a feature: what was left out is found again, up to the ridge.
    assert model.error["lut"] < 0.01
    estimated = model.estimate(cores[5])
    assert estimated["source"] == "model"
    assert estimated["error"] == model.error
    assert abs(estimated["lut"] / areas[5]["lut"] - 1) < 0.01
    odd = [{**a, "lut": a["lut"] * (3 if i % 2 else 1)} for i, a in enumerate(areas)]
    assert area.fit(cores, odd).error["lut"] > 0.1  # what widths do not explain is quoted


def test_cores_for_a_model_are_unlike() -> None:
    cores = [PRESETS["tiny4"].with_declaration(Declaration.parse(f"w{w}a8e8g8m16")) for w in (8, 7, 6, 5, 4, 3, 2)]
    assert [c.weight_bits for c in area.spread(cores, 3)] == [8, 2, 5]
