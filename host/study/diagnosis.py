"""Why a run's training collapsed, from what happened to its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: A run has collapsed that ends this far below its own best epoch, or below this share of right answers.
FALL, FLOOR = 0.1, 0.5
#: Shares of a tensor's elements from which a statistic explains a collapse.
SATURATED, UNDERFLOWED, STALLED = 0.05, 0.9, 0.9


def diagnose(run: Mapping[str, Any]) -> str | None:
    """Why a run collapsed, in words with the worst tensor's figure; None where it did not."""
    accuracy = run["accuracy"]
    if accuracy[-1] >= FLOOR and accuracy[-1] >= max(accuracy) - FALL:
        return None
    if "diverged" in run:
        return "the loss is no longer finite"
    how = "fell" if max(accuracy) - accuracy[-1] >= FALL else "never learned"
    if run.get("overflow"):
        return f"{how}: accumulators overflowed"
    found = [
        (_worst(run, "saturated_share"), SATURATED, "saturate"),
        (_worst(run, "underflowed_share"), UNDERFLOWED, "become zero"),
        (_worst(run, "stalled_share"), STALLED, "updates change nothing"),
    ]
    reasons = [(share / least, name, share, what) for (share, name), least, what in found if share >= least]
    if not reasons:
        return f"{how}: no tensor stands out"
    _, name, share, what = max(reasons)
    return (
        f"{how}: {share:.0%} of {name} {what}"
        if what != "updates change nothing"
        else f"{how}: {share:.0%} of {name}'s {what}"
    )


def _worst(run: Mapping[str, Any], share: str) -> tuple[float, str]:
    """The largest share, and the tensor that has it."""
    return max(((s[share], name) for name, s in run.get("statistics", {}).items()), default=(0.0, ""))
