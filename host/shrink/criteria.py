"""Which channels are worth least: four criteria, each an importance for torch-pruning's groups."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch_pruning.pruner.importance import Importance

from insitu.host.shrink.channels import Channels, Dependencies
from insitu.host.shrink.contributions import Contributions, contributions

By = Literal["thinet", "l1", "apoz", "random"]
#: Added to the diagonal that the least squares divide by, as a share of its mean: channels that never speak leave it
#: without an answer.
RIDGE = 1e-6
#: Divided by in place of zero.
TINY = float(np.finfo(float).tiny)


class Criterion(Importance):
    """Scores a group's channels, float [channels]: the lowest go first."""

    def __init__(self, books: Dependencies) -> None:
        self.books = books

    def __call__(self, group: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.scores(self.books.channels(group)), dtype=np.float64))

    def scores(self, channels: Channels) -> npt.NDArray[np.float64]:
        """What each channel is worth, float64 [channels]."""
        raise NotImplementedError

    def make_up(self, channels: Channels, kept: npt.NDArray[np.int64]) -> None:
        """Have the readers make up for what goes, as far as the criterion knows how."""


class WeightSum(Criterion):
    """The sum of a channel's absolute weights (Li et al. 2017, "Pruning filters for efficient ConvNets", ICLR), in
    units of its layer's mean where several layers give it."""

    def scores(self, channels: Channels) -> npt.NDArray[np.float64]:
        found = np.zeros(channels.count)
        for maker in channels.makers:
            sums = maker.module.weight.detach().abs().flatten(1).sum(dim=1).double().numpy()
            found += sums / max(float(sums.mean()), TINY)
        return found


class Zeros(Criterion):
    """The share of what a channel gives that is not zero, 1 - APoZ (Hu et al. 2016, "Network trimming").

    zeros: layer -> the share of zeros in each channel of what it gives after its activation, float64 [channels].
    """

    def __init__(self, books: Dependencies, zeros: Mapping[str, npt.NDArray[np.float64]]) -> None:
        super().__init__(books)
        self._zeros = zeros

    def scores(self, channels: Channels) -> npt.NDArray[np.float64]:
        return 1 - np.mean([self._zeros[maker.name] for maker in channels.makers], axis=0)


class Chance(Criterion):
    """A random order."""

    def __init__(self, books: Dependencies, seed: int) -> None:
        super().__init__(books)
        self._rng = np.random.default_rng(seed)

    def scores(self, channels: Channels) -> npt.NDArray[np.float64]:
        return self._rng.permutation(channels.count).astype(np.float64)


class ThiNet(Criterion):
    """Greedily, the channel whose going, after those already gone, changes the sums of the layers that read it least;
    then the kept ones rescaled by least squares (Luo et al. 2017). Of several readers each counts by its own energy.

    The squares are towards what the student gave that nothing had gone from, and a reader's bias takes what is left of
    its mean: of a published network's pruning the normalisation does that, and here it is folded.

    x: samples float32 [n, ...].
    """

    def __init__(self, books: Dependencies, x: npt.NDArray[np.float32], seed: int) -> None:
        super().__init__(books)
        self._before = copy.deepcopy(books.graph.module)
        self._x, self._seed = x, seed
        self._found: list[Contributions] = []

    def scores(self, channels: Channels) -> npt.NDArray[np.float64]:
        now = self.books.graph.module
        self._found = [contributions(now, self._before, r, self._x, self._seed) for r in channels.readers]
        together = sum(found.gram / max(float(found.gram.sum()), TINY) for found in self._found)
        scores = np.empty(channels.count)
        scores[greedy(np.asarray(together))] = np.arange(channels.count)
        return scores

    def make_up(self, channels: Channels, kept: npt.NDArray[np.int64]) -> None:
        for reader, found in zip(channels.readers, self._found, strict=True):
            factors = rescale(found.gram, found.cross, kept)
            module, columns = reader.layer.module, torch.from_numpy(reader.columns[kept])
            by_column = torch.from_numpy(factors.astype(np.float32))[:, None].expand_as(columns)
            with torch.no_grad():
                weight = module.weight
                weight[:, columns] = weight[:, columns] * by_column.reshape(1, *columns.shape, *[1] * (weight.ndim - 2))
                if module.bias is not None:
                    missing = found.whole - found.means[:, kept] @ factors
                    module.bias += torch.from_numpy(missing.astype(np.float32))


def greedy(gram: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The order in which channels go, int64 [channels]: each time the one that leaves the least sum of squares of what
    has gone (the paper's algorithm 1). gram: X'X of their contributions."""
    count = len(gram)
    added = np.diag(gram).copy()  # to the sum of squares, if this one goes next
    left = np.ones(count, dtype=np.bool_)
    order = np.empty(count, dtype=np.int64)
    for at in range(count):
        order[at] = gone = int(np.where(left, added, np.inf).argmin())
        left[gone] = False
        added += 2 * gram[gone]
    return order


def rescale(
    gram: npt.NDArray[np.float64], cross: npt.NDArray[np.float64], kept: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """What to multiply the kept channels' weights by, float64 [kept]: the least squares of their contributions, X'X and
    X'y of which are given, to y (the paper's equation 7)."""
    among = gram[np.ix_(kept, kept)]
    ridge = RIDGE * max(float(np.trace(among)) / len(kept), TINY)
    # Towards 1, what they were: a channel that never speaks stays as it is.
    return np.asarray(np.linalg.solve(among + ridge * np.eye(len(kept)), cross[kept] + ridge), dtype=np.float64)
