"""Fair shares: how many of the labels that are left each device gets."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Literal, get_args

from insitu.host.errors import HostError

#: `equal`: a device has its part of the budget and no more, whatever the others leave. `lent`: what is left goes to
#: whom fewest were given so far (max-min fair), so that what some do not ask for others may have.
Sharing = Literal["equal", "lent"]


def check_sharing(sharing: str) -> None:
    """Raise HostError where there is no such sharing."""
    if sharing not in get_args(Sharing):
        raise HostError(f"sharing {sharing!r}: allowed are {', '.join(get_args(Sharing))}")


def shares(budget: int, devices: int) -> list[int]:
    """A budget in equal parts; what does not divide goes to the first."""
    part, rest = divmod(budget, devices)
    return [part + (device < rest) for device in range(devices)]


def granted(asked: Sequence[int], given: Sequence[int], budget: int | None, sharing: Sharing) -> list[int]:
    """How many of the samples it asks for each device gets a label of.

    asked: by device. given: what each was given before. budget: in all, what was given included; None for any number.
    """
    if budget is None:
        return list(asked)
    if sharing == "equal":
        return [
            min(wanted, max(0, share - had))
            for wanted, had, share in zip(asked, given, shares(budget, len(asked)), strict=True)
        ]
    left = budget - sum(given)
    found = [0] * len(asked)
    queue = [(had, device) for device, had in enumerate(given) if asked[device]]
    heapify(queue)
    while left > 0 and queue:
        had, device = heappop(queue)
        found[device] += 1
        left -= 1
        if found[device] < asked[device]:
            heappush(queue, (had + 1, device))
    return found
