"""Policies by name, as a curriculum's file says them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from insitu.host.errors import StudyError
from insitu.host.learn.replay import Stream
from insitu.host.store.errors import FeedbackError
from insitu.host.study.reading import Reader
from insitu.models.curricula import labels, losses, pencil, samples
from insitu.models.errors import InvalidInputError

SAMPLES: dict[str, type[Any]] = {
    "uniform": samples.Uniform,
    "class-balanced": samples.ClassBalanced,
    "top-k": samples.TopK,
    "rotations": samples.Rotations,
    "stream": Stream,
}
LABELS: dict[str, type[Any]] = {
    "given": labels.Given,
    "soft": labels.Soft,
    "pseudo": labels.Pseudo,
    "peers": labels.Peers,
    "distilled": losses.Distilled,
    "logit-adjusted": losses.LogitAdjusted,
    "gce": losses.GeneralisedCrossEntropy,
    "sce": losses.SymmetricCrossEntropy,
    "pencil": pencil.Pencil,
}
#: Of these the labels come from elsewhere, so that a pool needs none.
UNLABELLED = ("soft", "pseudo", "peers")


def read(reader: Reader, key: str, default: str, among: Mapping[str, type[Any]]) -> tuple[str, Any]:
    """A policy and its name: `key = "name"`, or `key = {policy = "name", option = value}` with the policy's own
    options. Raises StudyError, which quotes the value and says what is allowed."""
    value = reader.take(key, default)
    inner = Reader({"policy": value} if isinstance(value, str) else value, reader.name(key))
    name = inner.text("policy", default, tuple(among))
    options = {f.name: _option(inner, f.name, f.default) for f in fields(among[name])}
    inner.finish()
    try:
        return name, among[name](**options)
    except (InvalidInputError, FeedbackError) as error:
        raise StudyError(f"{reader.name(key)}: {error}") from error


def _option(reader: Reader, key: str, default: Any) -> Any:
    """An option of the type its default has; the policy itself knows what is allowed."""
    assert default is not MISSING
    if isinstance(default, bool):
        return reader.flag(key, default)
    if isinstance(default, int):
        return reader.integer(key, default, -(1 << 62))
    if isinstance(default, float):
        return reader.number(key, default, "finite numbers", math.isfinite)
    return reader.text(key, default)
