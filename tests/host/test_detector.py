"""The feedback detector against its definition, written out a second time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from insitu.host.detector import Detector, DetectorError, Reason

some_logits = arrays(np.float32, st.tuples(st.integers(0, 6), st.integers(2, 5)), elements=st.floats(-30, 30, width=32))


@given(z=some_logits, threshold=st.floats(0.01, 1), kind=st.sampled_from(["margin", "confidence"]))
def test_against_the_definition(z: Any, threshold: float, kind: Any) -> None:
    found = Detector(kind=kind, threshold=threshold).detect(z)
    for row, asks, reason, score in zip(z.tolist(), found.asks, found.reason, found.score, strict=True):
        total = sum(np.exp(v) for v in row)
        first, second = sorted((np.exp(v) / total for v in row), reverse=True)[:2]
        expected = first - second if kind == "margin" else first
        assert score == pytest.approx(expected, abs=1e-6)
        if abs(expected - threshold) > 1e-9:
            assert asks == (expected < threshold)
        assert reason == (Reason[kind.upper()] if asks else Reason.NONE)


def test_the_user_goes_first() -> None:
    z = np.array([[9, 0], [9, 0], [0.1, 0], [0.1, 0]], np.float32)
    found = Detector(kind="margin", threshold=0.5).detect(z, np.array([True, False, True, False]))
    assert found.asks.tolist() == [True, False, True, True]
    assert found.source.tolist() == ["user", "none", "user", "margin"]
    assert found.reason.dtype == np.uint8


def test_all_asks_always() -> None:
    found = Detector(kind="all").detect(np.array([[1e30, -1e30], [0, 0]], np.float32))
    assert found.asks.all()
    assert found.source.tolist() == ["all", "all"]


def test_large_logits_do_not_overflow() -> None:
    found = Detector(kind="confidence", threshold=0.9).detect(np.array([[3e38, -3e38], [3e38, 3e38]], np.float32))
    assert found.asks.tolist() == [False, True]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"kind": "entropy", "threshold": 0.5}, "kind is 'entropy'; allowed"),
        ({"kind": "margin"}, "threshold is None for kind 'margin'"),
        ({"kind": "margin", "threshold": 0.0}, "threshold is 0.0"),
        ({"kind": "confidence", "threshold": 1.5}, "threshold is 1.5"),
        ({"kind": "confidence", "threshold": float("nan")}, "threshold is nan"),
        ({"kind": "all", "threshold": 0.5}, "threshold is 0.5 for kind 'all'; allowed: None"),
    ],
)
def test_bad_settings(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        Detector(**setting)


@pytest.mark.parametrize(
    ("logits", "flagged", "message"),
    [
        (np.zeros((2, 3), np.int8), None, r"logits is int8 \[2, 3\]; allowed: float"),
        (np.zeros((2, 1), np.float32), None, r"logits is float32 \[2, 1\]"),
        (np.zeros(3, np.float32), None, r"logits is float32 \[3\]"),
        (np.array([[0, np.nan]], np.float32), None, "logits holds nan; allowed: finite"),
        (np.zeros((2, 3), np.float32), np.zeros(3, np.bool_), r"flagged is bool \[3\]; allowed: bool \[2\]"),
        (np.zeros((2, 3), np.float32), np.zeros(2, np.int64), r"flagged is int64 \[2\]"),
    ],
)
def test_bad_logits(logits: Any, flagged: Any, message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        Detector(kind="margin", threshold=0.5).detect(logits, flagged)
