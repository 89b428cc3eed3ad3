"""How many channels of each set to keep: as large a student as a share of what it takes now allows."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from insitu.host.compiler.graph import Graph
from insitu.host.compiler.trace import trace
from insitu.host.errors import CompileError, HostError
from insitu.host.shrink.channels import Dependencies
from insitu.host.shrink.price import Measure, Price
from insitu.host.shrink.pruning import left

Keep = Mapping[str, int]


def uniform(counts: Keep, ratio: float) -> dict[str, int]:
    """The same share of each set's channels, to the nearest, one at least."""
    return {name: max(1, int(ratio * count + 0.5 + 1e-9)) for name, count in counts.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Sizes:
    """The sizes that a student can be shrunk to, and what each takes.

    graph: the student now, which stays as it is; shape: of a sample. compiled: the price of a smaller graph's program;
    it raises CompileError where the core does not hold it. lanes: of the core, in whose multiples channels cost.
    """

    graph: Graph
    shape: Sequence[int]
    compiled: Callable[[Graph], Price]
    lanes: int
    _prices: dict[tuple[int, ...], Price | str] = field(default_factory=dict, repr=False)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Channels of each set now."""
        books = Dependencies(self.graph, self.shape)
        return {name: books.channels(books.group(name)).count for name in books.names}

    def price(self, keep: Keep) -> Price | str:
        """What keeping so many channels of each set takes, or why the core does not hold it."""
        key = tuple(keep.values())
        if key not in self._prices:
            smaller = trace(copy.deepcopy(self.graph.module), tuple(self.shape))
            books = Dependencies(smaller, self.shape)
            for name, count in self.counts.items():
                books.drop(name, range(keep[name], count))
            made = left(smaller, self.shape)
            try:
                self._prices[key] = self.compiled(made)
            except CompileError as error:
                self._prices[key] = str(error)
        return self._prices[key]

    def largest(self, share: float, measure: Measure, now: Price) -> dict[str, int]:
        """Channels of each set to keep, so that what `measure` counts is at most `share` of what it is now: the same
        share of each, as large as that allows, then, set by set from the input on and again, up to the next multiple of
        the array's lanes where that still is within it. Raises HostError that says what the smallest takes where none
        is."""
        counts = self.counts
        if not counts:
            raise HostError("this student has one layer: it has no channels to do without")
        if measure == "channels":
            return uniform(counts, share)
        budget = int(share * now.measured(measure))
        ratios = sorted({(kept - 0.5) / count for count in counts.values() for kept in range(1, count + 1)})
        found = bisect_left(
            range(len(ratios)), True, key=lambda at: not self._within(uniform(counts, ratios[at]), measure, budget)
        )
        if found == 0:
            smallest = self.price(uniform(counts, 0))
            takes = smallest if isinstance(smallest, str) else f"takes {smallest.measured(measure):,}"
            raise HostError(f"{measure} to {share:g}, {budget:,}: with one channel of each layer the student {takes}")
        keep = uniform(counts, ratios[found - 1])
        fills = True
        while fills:
            fills = False
            for name, count in counts.items():
                wider = keep | {name: min(count, (keep[name] // self.lanes + 1) * self.lanes)}
                if wider != keep and self._within(wider, measure, budget):
                    keep, fills = wider, True
        return keep

    def _within(self, keep: Keep, measure: Measure, budget: int) -> bool:
        price = self.price(keep)
        return not isinstance(price, str) and price.measured(measure) <= budget
