"""APoZ, the average percentage of zeros, counted in the activations that the device itself holds: in fixed point, what
has underflowed is a zero too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from insitu.host.compiler.graph import Graph, Layer, Table
from insitu.host.compiler.lower import activation
from insitu.host.device.driver import Driver
from insitu.host.device.probe import activations
from insitu.host.errors import HostError


def zeros(driver: Driver, graph: Graph, x: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float64]]:
    """By layer, but for the last, the share of zeros in each channel of what it gives after its activation, float64
    [channels], over whole batches of samples x [n, ...]; of a layer without one, of what it gives. The driver holds the
    graph's student. Raises HostError for less than a batch."""
    batch = driver.program.batch
    if len(x) < batch:
        raise HostError(f"{len(x)} stored samples: zeros are counted over whole batches, of {batch}")
    tensors = {layer.name: activation(_activated(graph, layer)) for layer in graph.layers[:-1]}
    counts = {name: np.zeros(layer.outputs, np.int64) for name, layer in zip(tensors, graph.layers, strict=False)}
    rows = dict.fromkeys(tensors, 0)
    for given in activations(driver, x, list(dict.fromkeys(tensors.values()))):
        for name, tensor in tensors.items():
            counts[name] += (given[tensor] == 0).sum(axis=0)
            rows[name] += len(given[tensor])
    return {name: counts[name] / rows[name] for name in tensors}


def _activated(graph: Graph, layer: Layer) -> str:
    """The node that has a layer's activation: itself with a ReLU, or the table that alone reads it."""
    readers = [node for node, _ in graph.readers(layer.name)]
    alone = not layer.relu and len(readers) == 1 and isinstance(readers[0], Table)
    return readers[0].name if alone else layer.name
