"""What a fleet came to: the teacher's load, traffic and cost a device, accuracy before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from insitu.host.fleet.service import Load


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one device came to. Accuracies in its scene: of the weights it was shipped with, and of those it serves.

    labels: it was given. refused: samples it asked the teacher about in vain; heard: of those, peers answered. steps:
    trained. cycles: of the device. bytes_up, bytes_down: to teacher and peers and back. stored_bytes: of feedback kept.
    fault: for which it was set aside, or "".
    """

    device: int
    scene: str
    accuracy_before: float
    accuracy_after: float
    labels: int
    refused: int
    heard: int
    steps: int
    cycles: int
    bytes_up: int
    bytes_down: int
    stored_bytes: int
    fault: str = ""


def row(outcomes: Sequence[Outcome], load: Load, seconds: float) -> dict[str, Any]:
    """One fleet, JSON-ready: the teacher's load, means and extremes over devices, each device."""
    found = [asdict(one) for one in outcomes]

    def spread(name: str) -> dict[str, float]:
        values = [one[name] for one in found]
        return {"mean": float(np.mean(values)), "least": float(min(values)), "most": float(max(values))}

    return {
        "devices": len(found),
        "teacher": load.to_json(),
        **{name: spread(name) for name in Outcome.__annotations__ if name not in ("device", "scene", "fault")},
        "faulty": sum(bool(one.fault) for one in outcomes),
        "below_before": sum(one.accuracy_after < one.accuracy_before for one in outcomes),
        "seconds": seconds,
        "each": found,
    }
