"""Compound scaling to a budget: what a size costs on a core, which coefficients learn best, the largest size within."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from insitu.arch.declaration import Declaration
from insitu.arch.params import ARRAY_SIZES, DEPTH_MAX, PROGRAM_DEPTH_MAX, SCALES_ALLOWED, CoreParams
from insitu.host.compiler.compile import compile_module
from insitu.host.errors import CompileError, HostError
from insitu.models import training
from insitu.models.datasets import Dataset
from insitu.models.errors import InvalidInputError
from insitu.models.scaling import Coefficients, Size, ladder, resized
from insitu.sim import cycles

#: Noise samples that exponents start from: cycles and words do not depend on them.
NOISE = 8
#: The share of the images that a candidate is judged by.
HELD_OUT = 0.2


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a size takes on a core: cycles of a training step, words of N elements in each memory, trained weights."""

    cycles: int
    memory: dict[str, int]
    weights: int


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a student may take; what is None is not looked at.

    cycles: of a training step. act, err, wgt: words of N elements of each memory, instead of the core's depth.
    cells: of the array, which is then the largest of no more (area goes with them).
    """

    cycles: int | None = None
    act: int | None = None
    err: int | None = None
    wgt: int | None = None
    cells: int | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "cycles=200000,act=8192". Raises HostError for what is no budget."""
        names = [f.name for f in fields(cls)]
        found: dict[str, int] = {}
        for item in text.split(","):
            name, _, value = item.partition("=")
            if name not in names or name in found or not (value.isascii() and value.isdigit()) or int(value) < 1:
                allowed = ", ".join(f"{n}=" for n in names)
                raise HostError(f"budget {item!r} of {text!r}: give {allowed} once each, integers of at least 1")
            found[name] = int(value)
        return cls(**found)

    def core(self, core: CoreParams) -> CoreParams:
        """The core with the budget's memories and array. Raises ArchError for memories that no core has, HostError
        for cells that no array has."""
        depths = {f"{name}_depth": getattr(self, name) for name in ("act", "err", "wgt")}
        changes = {name: depth for name, depth in depths.items() if depth is not None}
        if self.cells is not None:
            sides = [n for n in ARRAY_SIZES if n * n <= self.cells]
            if not sides:
                raise HostError(f"budget cells={self.cells}: the smallest array has {ARRAY_SIZES[0] ** 2}")
            changes["n"] = max(sides)
        return replace(core, **changes)

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return ",".join(f"{name}={value}" for name, value in given.items() if value is not None)


def measure(
    size: Size, *, core: CoreParams, declaration: Declaration, batch: int, channels: int = 1, classes: int = 10
) -> Cost:
    """Compile a size and count. Raises CompileError where the core does not hold it."""
    module = size.build(channels=channels, classes=classes, seed=0)
    noise = np.random.default_rng(0).random((NOISE, channels, size.side, size.side), dtype=np.float32)
    compiled = compile_module(module, core=core, declaration=declaration, batch=batch, calibration=noise)
    return Cost(
        cycles=cycles.report(compiled.program, "train").cycles,
        memory={memory.name.lower(): compiled.program.used(memory) for memory in core.memories},
        weights=sum(masters.size for masters in compiled.masters.values()),
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """The largest size within a budget, its cost, and what keeps the next one out."""

    size: Size
    cost: Cost
    limit: str


@dataclass(frozen=True, kw_only=True)
class Search:
    """The largest size within a budget, for data of some channels and classes and a base of `side` x `side` pixels.

    core: whose memories and array are the budget's where it has any. Sizes are compiled once each.
    """

    core: CoreParams
    declaration: Declaration
    batch: int
    budget: Budget
    side: int
    channels: int = 1
    classes: int = 10
    _costs: dict[Size, Cost | str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "core", self.budget.core(self.core))
        if self.batch < 1:
            raise HostError(f"batch {self.batch}: must be at least 1")

    def cost(self, size: Size) -> Cost | str:
        """What a size takes, or why the core does not hold it."""
        if size not in self._costs:
            try:
                self._costs[size] = measure(
                    size,
                    core=self.core,
                    declaration=self.declaration,
                    batch=self.batch,
                    channels=self.channels,
                    classes=self.classes,
                )
            except CompileError as error:
                self._costs[size] = re.sub(r" \([^()]*\)", "", str(error))  # without the list of what lies in a memory
        return self._costs[size]

    def problem(self, size: Size) -> str | None:
        """What keeps a size out, in words; None for one within the budget."""
        cost = self.cost(size)
        if isinstance(cost, str):
            return cost
        if self.budget.cycles is not None and cost.cycles > self.budget.cycles:
            return f"a training step of {self.batch} takes {cost.cycles:,} cycles, of {self.budget.cycles:,}"
        return None

    def unlimited(self) -> Search:
        """The same for a core with as much memory as one can have, and no budget."""
        depths = dict.fromkeys(("act_depth", "err_depth", "wgt_depth"), DEPTH_MAX)
        core = replace(self.core, **depths, program_depth=PROGRAM_DEPTH_MAX, scales=SCALES_ALLOWED[-1])
        return replace(self, core=core, budget=Budget(), _costs={})

    def affordable(self, candidates: Sequence[Coefficients]) -> list[Coefficients]:
        """Those with any size within the budget. Raises HostError that says what the smallest needs where none has."""
        if self.problem(Size(phi=0, depth=1, width=1, side=self.side)) is None:
            return list(candidates)
        smallest = [ladder(c, self.side)[0] for c in candidates]
        found = [c for c, size in zip(candidates, smallest, strict=True) if self.problem(size) is None]
        if not found:
            raise self._refused(min(smallest, key=lambda s: (s.side, len(s.blocks), s.width)))
        return found

    def largest(self, coefficients: Coefficients) -> Found:
        """The size of the largest phi within the budget, by bisection between two phis a step apart. Raises HostError
        that says what the smallest needs where none is within."""
        sizes = ladder(coefficients, self.side)
        phis = [size.phi for size in sizes]
        # Whole steps up from the base first: no size is compiled that takes more than about twice the budget.
        low = 0
        for phi in range(int(phis[-1]) + 1):
            high = bisect_left(phis, phi)
            if self.problem(sizes[high]) is not None:
                break
            low = high
        else:
            high = len(sizes)
        first = bisect_left(range(len(sizes)), True, lo=low, hi=high, key=lambda i: self.problem(sizes[i]) is not None)
        if first == 0:
            raise self._refused(sizes[0])
        cost = self.cost(sizes[first - 1])
        assert isinstance(cost, Cost)
        limit = f"{sizes[first]}: {self.problem(sizes[first])}" if first < len(sizes) else "the student has no larger"
        return Found(size=sizes[first - 1], cost=cost, limit=limit)

    def _refused(self, smallest: Size) -> HostError:
        return HostError(f"budget {self.budget}: the smallest student, {smallest}: {self.problem(smallest)}")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A candidate, its student at phi = 1, the student's parameters, and the share of held-out images it got right."""

    coefficients: Coefficients
    size: Size
    parameters: int
    accuracy: float

    def to_json(self) -> dict[str, Any]:
        c = self.coefficients
        return {
            **{name: getattr(c, name) for name in ("depth", "width", "resolution")},
            "product": c.product,
            "side": self.size.side,
            "parameters": self.parameters,
            "accuracy": self.accuracy,
        }


def fit(
    dataset: Dataset,
    candidates: Sequence[Coefficients],
    side: int,
    *,
    epochs: int,
    images: int,
    seed: int,
    on_candidate: Callable[[Fitted], None] | None = None,
) -> list[Fitted]:
    """Train each candidate's student at phi = 1 in float32 on four fifths of `images` training images and judge it by
    the rest; the test part is not looked at. All candidates see the same images; `best` is theirs.

    Raises InvalidInputError where there is nothing to train or to judge by.
    """
    if epochs < 1 or images < 10 or not candidates:
        given = f"{len(candidates)} candidates, {epochs} epochs, {images} images"
        raise InvalidInputError(f"{given}; expected at least 1, 1 and 10")
    order = np.random.default_rng(seed).permutation(len(dataset.x_train))[:images]
    judged, taught = np.split(order, [max(1, int(HELD_OUT * len(order)))])
    x, y = dataset.x_train, dataset.y_train
    found: list[Fitted] = []
    scores: dict[Any, tuple[int, float]] = {}
    for c in candidates:
        size = c.at(1, side)
        student = (size.blocks, size.side)
        if student not in scores:  # several candidates round to one student
            module = size.build(channels=dataset.in_shape[0], classes=dataset.classes, seed=seed)
            training.train(
                module,
                resized(x[taught], size.side),
                y[taught],
                epochs=epochs,
                batch=32,
                lr=3e-3,
                schedule="cosine",
                optimizer="adam",
                seed=seed,
            )
            accuracy = training.accuracy(module, resized(x[judged], size.side), y[judged])
            scores[student] = (sum(p.numel() for p in module.parameters()), accuracy)
        parameters, accuracy = scores[student]
        found.append(Fitted(coefficients=c, size=size, parameters=parameters, accuracy=accuracy))
        if on_candidate is not None:
            on_candidate(found[-1])
    return found


def best(fitted: Sequence[Fitted]) -> Fitted:
    """The one of the highest accuracy; of several, the one of the fewest parameters."""
    return max(fitted, key=lambda f: (f.accuracy, -f.parameters))
