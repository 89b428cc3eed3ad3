"""Points that no other beats."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of the points (cost, accuracy) lie on the Pareto front: no other costs no more and reaches no less without
    being the same in both. In the order of cost."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    found: list[int] = []
    for i in order:
        if not found or points[i][1] > points[found[-1]][1]:
            found.append(i)
    return found


def sensitivity(widths: Sequence[int], accuracies: Sequence[float], within: float) -> int | None:
    """The narrowest width from which on, up to the widest, accuracy stays within `within` of the widest's. None where
    there is nothing to compare."""
    pairs = sorted(zip(widths, accuracies, strict=True))
    if len(pairs) < 2:
        return None
    least = pairs[-1][0]
    for width, accuracy in reversed(pairs):
        if accuracy < pairs[-1][1] - within:
            break
        least = width
    return least
