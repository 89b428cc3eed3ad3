"""Why a run's training collapsed, from what happened to its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: A run has collapsed that ends this far below its own best epoch, or below this share of right answers.
FALL, FLOOR = 0.1, 0.5
#: Share of a tensor's elements that saturated from which that explains a collapse.
SATURATED = 0.05
#: Share that became zero: errors of samples that are right do so in the best of runs, activations do not.
ACTIVATIONS_LOST, SLOPES_LOST = 0.3, 0.9
#: Share of masters that updates left as they were.
STALLED = 0.9


def diagnose(run: Mapping[str, Any]) -> str | None:
    """Why a run collapsed, with the figure of the tensor furthest beyond the usual; None where it did not."""
    accuracy = run["accuracy"]
    if accuracy[-1] >= FLOOR and accuracy[-1] >= max(accuracy) - FALL:
        return None
    if "diverged" in run:
        return "the loss is no longer finite"
    how = "fell" if max(accuracy) - accuracy[-1] >= FALL else "never learned"
    if run.get("overflow"):
        return f"{how}: accumulators overflowed"
    reasons = []
    for name, shares in run.get("statistics", {}).items():
        lost = ACTIVATIONS_LOST if name.endswith(".y") else SLOPES_LOST
        for share, usual, what in (
            (shares["saturated_share"], SATURATED, f"of {name} saturate"),
            (shares["underflowed_share"], lost, f"of {name} become zero"),
            (shares["stalled_share"], STALLED, f"of {name} are left as they were by updates"),
        ):
            if share >= usual:
                reasons.append((share / usual, f"{share:.0%} {what}"))
    return f"{how}: {max(reasons)[1]}" if reasons else f"{how}: no tensor stands out"
