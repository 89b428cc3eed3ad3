"""`insitu study report`: the page, its figures for papers, and the table, into one folder."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import polars as pl

from insitu.arch.files import write_whole
from insitu.host.errors import StudyError
from insitu.host.study import answer, drawing, page, summary, table
from insitu.host.study.figures import figures
from insitu.host.study.schema import Study
from insitu.host.study.store import Store


def write(study: Study, kept: Store, out: Path, within: float) -> dict[str, Any]:
    """Write index.html, figures/*.svg and *.pdf, trials.csv and trials.parquet; what was written and the answer, as
    JSON. Raises StudyError where no trial is done or the folder cannot be."""
    rows = table.rows(study, kept)
    found = summary.entries(rows)
    if not found:
        raise StudyError(f"{study.path}: no trial of study {study.name!r} is done")
    made = figures(found, within)
    chosen = answer.answer(found, within)
    said = answer.lines(chosen)
    files = {"index.html": page.page(study, found, rows, made, said).encode()}
    for figure in made:
        for suffix in ("svg", "pdf"):
            files[f"figures/{figure.key}.{suffix}"] = drawing.to_paper(figure, suffix)
    frame = table.frame(study, kept)
    files |= {"trials.csv": _csv(frame), "trials.parquet": _parquet(frame)}
    if out.exists() and not out.is_dir():
        raise StudyError(f"out {str(out)!r} is a file: a folder is wanted")
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_whole(out / name, content)
    return {
        "answer": said,
        "chosen": None if chosen.chosen is None else dict(chosen.chosen.row),
        "page": str(out / "index.html"),
        "files": sorted(files),
    }


def _csv(frame: pl.DataFrame) -> bytes:
    """CSV has no lists: they are JSON in it."""
    flat = frame.with_columns(
        pl.col(name).map_elements(lambda values: json.dumps(list(values)), return_dtype=pl.String)
        for name, kind in frame.schema.items()
        if isinstance(kind, pl.List)
    )
    return flat.write_csv().encode()


def _parquet(frame: pl.DataFrame) -> bytes:
    written = io.BytesIO()
    frame.write_parquet(written)
    return written.getvalue()
