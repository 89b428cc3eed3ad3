"""What a graph becomes in a core: tensors with places, formats and scale registers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from insitu.arch.declaration import Declaration, Role
from insitu.arch.layout import Matrix, Memory
from insitu.arch.params import SCALES, CoreParams
from insitu.arch.program import Tensor
from insitu.arch.samples import Samples
from insitu.host.compiler.allocate import Request, place
from insitu.host.compiler.graph import Graph, Layer, Pool
from insitu.host.errors import CompileError

#: Names of the tensors that are no layer's.
SAMPLE, TARGET = "sample", "target"
#: Moments of a training step: everything is loaded and goes forward, the loss is taken, each node goes back in turn.
FORWARD, LOSS = 0, 1


@dataclass(frozen=True, kw_only=True)
class LayerTensors:
    """A layer's tensors by name: it reads x and weight, writes y; error is dL/dy."""

    node: Layer
    formats: Declaration
    x: str
    y: str
    error: str
    weight: str
    gradient_scale: int


@dataclass(frozen=True, kw_only=True)
class PoolTensors:
    """A pool's tensors by name: it moves elements of x to y; error is dL/dy, "" where no layer below is trained.

    formats: of what it moves.
    """

    node: Pool
    formats: Declaration
    x: str
    y: str
    error: str


Tensors = LayerTensors | PoolTensors


class Plan:
    """The tensors of a graph's program for batches of a size.

    nodes: the graph's, with their tensors. tensors: by name, placed. scales: registers in use.
    Raises CompileError where they do not fit.
    """

    def __init__(self, graph: Graph, core: CoreParams, declaration: Declaration, batch: int) -> None:
        self.graph, self.core, self.declaration, self.batch = graph, core, declaration, batch
        self.scales = 0
        self.nodes: list[Tensors] = []
        self._requests: list[Request] = []
        self._tensors: list[Tensor] = []
        formats = declaration.at(graph.layers[0].name)
        samples = graph.samples
        self._add(SAMPLE, Memory.ACT, samples.cols, Role.ACTIVATION, formats, pixels=samples.pixels, samples=samples)
        self._add(TARGET, Memory.ERR, graph.classes, Role.TARGET, declaration, life=(FORWARD, LOSS))
        x, below = SAMPLE, formats
        for index, node in enumerate(graph.nodes):
            if isinstance(node, Layer):
                below = declaration.at(node.name)
            self.nodes.append(self._node(node, index, x, below))
            x = self.nodes[-1].y
        if self.scales > SCALES:
            raise CompileError(f"{len(graph.layers)} layers take {self.scales} scale registers: there are {SCALES}")
        places = place(self._requests, core)
        self.tensors = {
            name: replace(tensor, matrix=matrix)
            for (name, matrix), tensor in zip(places.items(), self._tensors, strict=True)
        }

    @property
    def layers(self) -> list[LayerTensors]:
        """The nodes that have weights."""
        return [t for t in self.nodes if isinstance(t, LayerTensors)]

    def _node(self, node: Layer | Pool, index: int, x: str, formats: Declaration) -> Tensors:
        y, error, weight = f"{node.name}.y", f"{node.name}.error", f"{node.name}.weight"
        cols, pixels = node.outputs, node.window.out_pixels
        last = len(self.graph.nodes) - 1
        # Written when the node above goes back, read when this one does.
        life = (LOSS + last - index, LOSS + 1 + last - index)
        if isinstance(node, Pool):
            below = self.nodes[-1] if self.nodes else None
            moved = self._tensor(x)
            self._add(y, Memory.ACT, cols, Role.ACTIVATION, formats, moved.layer, pixels=pixels, scale=moved.scale)
            if below is None or not below.error:
                return PoolTensors(node=node, formats=formats, x=x, y=y, error="")
            scale = self._tensor(below.error).scale
            self._add(error, Memory.ERR, cols, Role.ERROR, formats, moved.layer, pixels=pixels, scale=scale, life=life)
            return PoolTensors(node=node, formats=formats, x=x, y=y, error=error)
        name, grouped = node.name, node.window.taps > 1
        self._add(y, Memory.ACT, cols, Role.ACTIVATION, formats, name, pixels=pixels)
        self._add(
            weight,
            Memory.WGT,
            node.inputs + (0 if grouped else node.bias),
            Role.MASTER,
            formats,
            name,
            rows=node.outputs,
            groups=node.window.taps,
            tail=int(node.bias) if grouped else 0,
            bias=node.bias,
        )
        self._add(error, Memory.ERR, cols, Role.ERROR, formats, name, pixels=pixels, life=life)
        return LayerTensors(
            node=node, formats=formats, x=x, y=y, error=error, weight=weight, gradient_scale=self._scale()
        )

    def _scale(self) -> int:
        self.scales += 1
        return self.scales - 1

    def _tensor(self, name: str) -> Tensor:
        return next(t for r, t in zip(self._requests, self._tensors, strict=True) if r.name == name)

    def _add(
        self,
        name: str,
        memory: Memory,
        cols: int,
        role: Role,
        formats: Declaration,
        layer: str = "",
        *,
        rows: int = 0,
        pixels: int = 1,
        groups: int = 1,
        tail: int = 0,
        bias: bool = False,
        scale: int | None = None,
        samples: Samples | None = None,
        life: tuple[int, int] | None = None,
    ) -> None:
        """Ask for a tensor of `rows` rows a pixel (0: a batch's), with a scale register of its own or a given one."""
        if any(name == request.name for request in self._requests):
            raise CompileError(f"two parts of the student would have a tensor {name!r}: rename one")
        request = Request(
            name=name,
            memory=memory,
            rows=rows or self.batch,
            cols=cols,
            pixels=pixels,
            groups=groups,
            tail=tail,
            life=life,
        )
        nowhere = Matrix(memory=memory, base=0, rows=1, cols=1, pitch=1)
        self._requests.append(request)
        self._tensors.append(
            Tensor(
                matrix=nowhere,
                role=role,
                width=formats.role(role).width,
                scale=self._scale() if scale is None else scale,
                layer=layer,
                bias=bias,
                samples=samples,
            )
        )
