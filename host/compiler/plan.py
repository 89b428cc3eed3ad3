"""Where the tensors of a graph's passes lie in a core, and their scale registers."""

from __future__ import annotations

from dataclasses import replace

from insitu.arch.check import WIDTH_ROLE
from insitu.arch.declaration import Declaration, ExponentPolicy, Role
from insitu.arch.layout import Memory
from insitu.arch.optimizer import Optimizer
from insitu.arch.params import SCALES_ALLOWED, CoreParams
from insitu.arch.program import Tensor
from insitu.host.compiler.allocate import Request, place
from insitu.host.compiler.graph import SAMPLE, Graph
from insitu.host.compiler.lower import TARGET, Lowering, masters, velocity
from insitu.host.errors import CompileError

_SGD = Optimizer()


class Plan:
    """The tensors of a graph's program for batches of a size.

    passes: what runs. tensors: by name, placed. gradients: layer -> scale register of its gradient; slopes: node that
    looks up -> that of its table's slopes. scales: registers in use.
    Raises CompileError where they do not fit.
    """

    def __init__(
        self,
        graph: Graph,
        core: CoreParams,
        declaration: Declaration,
        batch: int,
        optimizer: Optimizer = _SGD,
    ) -> None:
        self.optimizer = optimizer
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
        if not optimizer.plain:
            self.tensors |= dict(map(self._velocities, updated))

    def _velocities(self, layer: str) -> tuple[str, Tensor]:
        """The velocities of a layer's masters: where they lie, in VEL."""
        weight = self.tensors[masters(layer)]
        matrix = replace(weight.matrix, memory=Memory.VEL)
        width = self.declaration.at(layer).momentum.width
        return velocity(layer), replace(weight, matrix=matrix, role=Role.MOMENTUM, width=width)

    def register(self, name: str) -> int:
        """The scale register of a tensor: its own, or that of the one it shares with."""
        while shared := self.passes.tensors[name].scale_of:
            name = shared
        return self._registers[name]

    @property
    def moving(self) -> frozenset[int]:
        """Scale registers whose exponents change as programs run, or that the host asks for and sets, those of LOSS."""
        loss = self.passes.loss
        found = {self.register(loss.a), self.register(loss.d)}
        for each in self.passes.step:
            if each.formats is None or self.passes.tensors[each.d].fixed:
                continue
            role = Role.GRADIENT if each.gradient else WIDTH_ROLE[self.tensors[each.d].matrix.memory]
            if each.formats.role(role).exponent is not ExponentPolicy.STATIC:
                found.add(self.gradients[each.gradient] if each.gradient else self.register(each.d))
        return frozenset(found)

    def share(self, scales: list[int]) -> list[int]:
        """Where the core has too few registers, give tensors whose exponents stay, and are the same, one of them. A
        program's registers then follow from what it was calibrated on, so a checkpoint of another does not fit it.

        scales: exponents with a register each. Returns those that registers begin with. Raises CompileError where the
        core still has too few."""
        if self.scales <= self.core.scales:
            return scales
        moving, at = self.moving, dict[tuple[int, bool, int], int]()
        where = []
        for index, exponent in enumerate(scales):
            key = (index, True, 0) if index in moving else (0, False, exponent)
            where.append(at.setdefault(key, len(at)))
        self._registers = {name: where[index] for name, index in self._registers.items()}
        self.gradients = {name: where[index] for name, index in self.gradients.items()}
        self.slopes = {name: where[index] for name, index in self.slopes.items()}
        self.tensors = {name: replace(tensor, scale=where[tensor.scale]) for name, tensor in self.tensors.items()}
        self.scales = len(at)
        if self.scales > self.core.scales:
            wanted = next((count for count in SCALES_ALLOWED if count >= self.scales), None)
            remedy = f": give it scales={wanted}" if wanted else f", and none has more than {SCALES_ALLOWED[-1]}"
            parts = f"{len(self.graph.nodes)} parts take {self.scales} scale registers"
            raise CompileError(f"{parts}, this core has {self.core.scales}{remedy}")
        shared = [0] * self.scales
        for index, exponent in enumerate(scales):
            shared[where[index]] = exponent
        return shared


def _lives(passes: Lowering) -> dict[str, tuple[int, int]]:
    """The first and the last moment of a training step at which each tensor holds something: samples and targets are
    loaded, passes go forward, logits are sent, the loss is taken, errors go back."""
    moments: dict[str, list[int]] = {SAMPLE: [0], TARGET: [0]}
    for moment, each in enumerate(passes.step, 1):
        for name in (*each.reads, each.d):
            moments.setdefault(name, []).append(moment)
    return {name: (min(found), max(found)) for name, found in moments.items()}
