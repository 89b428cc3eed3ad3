"""Where the tensors of a graph's passes lie in a core, and their scale registers."""

from __future__ import annotations

from insitu.arch.declaration import Declaration
from insitu.arch.layout import Memory
from insitu.arch.params import SCALES_ALLOWED, CoreParams
from insitu.arch.program import Tensor
from insitu.host.compiler.allocate import Request, place
from insitu.host.compiler.graph import SAMPLE, Graph
from insitu.host.compiler.lower import TARGET, Lowering
from insitu.host.errors import CompileError


class Plan:
    """The tensors of a graph's program for batches of a size.

    passes: what runs. tensors: by name, placed. gradients: layer -> scale register of its gradient; slopes: node that
    looks up -> that of its table's slopes. scales: registers in use.
    Raises CompileError where they do not fit.
    """

    def __init__(self, graph: Graph, core: CoreParams, declaration: Declaration, batch: int) -> None:
        self.graph, self.core, self.declaration, self.batch = graph, core, declaration, batch
        self.passes = passes = Lowering(graph, declaration, batch)
        owners = [name for name, wanted in passes.tensors.items() if not wanted.scale_of]
        self._registers = {name: index for index, name in enumerate(owners)}
        updated = [p.gradient for p in passes.backward if p.gradient]
        sloped = [p.table for p in passes.backward if p.table]
        count = len(owners)
        self.gradients = {layer: count + index for index, layer in enumerate(updated)}
        count += len(updated)
        self.slopes = {table: count + index for index, table in enumerate(sloped)}
        self.scales = count + len(sloped)
        if self.scales > core.scales:
            wanted = next((count for count in SCALES_ALLOWED if count >= self.scales), None)
            remedy = f": give it scales={wanted}" if wanted else f", and none has more than {SCALES_ALLOWED[-1]}"
            parts = f"{len(graph.nodes)} parts take {self.scales} scale registers"
            raise CompileError(f"{parts}, this core has {core.scales}{remedy}")
        lives = _lives(passes)
        places = place(
            [
                Request(
                    name=name,
                    memory=wanted.memory,
                    rows=wanted.rows,
                    cols=wanted.cols,
                    pixels=wanted.pixels,
                    groups=wanted.groups,
                    tail=wanted.tail,
                    life=None if wanted.memory is Memory.WGT else lives[name],
                )
                for name, wanted in passes.tensors.items()
            ],
            core,
        )
        self.tensors = {
            name: Tensor(
                matrix=places[name],
                role=wanted.role,
                width=wanted.formats.role(wanted.role).width,
                scale=self.register(name),
                layer=wanted.layer,
                bias=wanted.bias,
                samples=wanted.samples,
            )
            for name, wanted in passes.tensors.items()
        }

    def register(self, name: str) -> int:
        """The scale register of a tensor: its own, or that of the one it shares with."""
        while shared := self.passes.tensors[name].scale_of:
            name = shared
        return self._registers[name]


def _lives(passes: Lowering) -> dict[str, tuple[int, int]]:
    """The first and the last moment of a training step at which each tensor holds something: samples and targets are
    loaded, passes go forward, logits are sent, the loss is taken, errors go back."""
    moments: dict[str, list[int]] = {SAMPLE: [0], TARGET: [0]}
    for moment, each in enumerate(passes.step, 1):
        for name in (*each.reads, each.d):
            moments.setdefault(name, []).append(moment)
    return {name: (min(found), max(found)) for name, found in moments.items()}
