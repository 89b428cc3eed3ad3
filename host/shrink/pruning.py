"""Pruning a graph: set by set from the input on, each judged by the student as it is by then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from insitu.host.compiler.graph import Graph
from insitu.host.compiler.trace import trace
from insitu.host.errors import CompileError, HostError
from insitu.host.shrink.channels import Dependencies
from insitu.host.shrink.criteria import Criterion


def prune(
    graph: Graph, shape: Sequence[int], keep: Mapping[str, int], judge: Callable[[Dependencies], Criterion]
) -> tuple[Graph, dict[str, list[int]]]:
    """Keep so many channels of each set of a graph whose samples have a shape: those that a criterion scores highest.

    Returns the graph of what is left and, by set, the channels that went. The given graph's module changes. Raises
    HostError for a student that cannot do with fewer channels.
    """
    books = Dependencies(graph, shape)
    criterion = judge(books)
    gone: dict[str, list[int]] = {}
    for name in books.names:
        group = books.group(name)
        channels = books.channels(group)
        wanted = keep.get(name, channels.count)
        if wanted >= channels.count:
            continue
        scores = criterion(group).numpy()
        order = np.argsort(scores, kind="stable")
        criterion.make_up(channels, np.sort(order[channels.count - wanted :]))
        gone[name] = sorted(int(channel) for channel in order[: channels.count - wanted])
        books.drop(name, gone[name])
    return left(graph, shape), gone


def left(graph: Graph, shape: Sequence[int]) -> Graph:
    """The graph of what a graph's module has become. Raises HostError where that is no student any more."""
    try:
        return trace(graph.module, tuple(shape))
    except CompileError as error:
        raise HostError(f"this student cannot do with fewer channels: {error}") from error
