"""From a graph to passes: forward node by node, then every node's error back to those it reads, and the updates.

A node's error is dL/d(what it gives before its ReLU). What reads a node gives its error; where several do, each gives a
part, and the parts are added. A sum's error is that of both its sources as it is. Nothing goes back below the last
trained layer, and a frozen layer is not updated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from insitu.arch.declaration import Declaration, Role
from insitu.arch.isa import EXTENT_FIELDS, MAP_FIELDS, Opcode
from insitu.arch.layout import Memory
from insitu.arch.window import Window
from insitu.host.compiler.graph import SAMPLE, Graph, Layer, Mean, Node, Pool, Product, Sum, Table
from insitu.host.compiler.passes import Pass, Wanted
from insitu.host.errors import CompileError

#: The name of the tensor of targets.
TARGET = "target"


class Lowering:
    """The passes of a graph for batches of a size.

    tensors: those that want places, by name. forward, loss, backward: passes in order. errors: node -> the tensor of
    its error. tables: nodes whose tables are looked up.
    """

    def __init__(self, graph: Graph, declaration: Declaration, batch: int) -> None:
        self.graph, self.declaration, self.batch = graph, declaration, batch
        self.tensors: dict[str, Wanted] = {}
        self.errors: dict[str, str] = {}
        self.forward: list[Pass] = []
        self.backward: list[Pass] = []
        self._nodes = {node.name: node for node in graph.nodes}
        self._reached = graph.reached
        self._fixed = self._looked_up()
        self._parts: dict[str, list[str]] = {}
        samples, formats = graph.samples, self._formats(graph.readers(SAMPLE)[0][0])
        self._want(
            Wanted(
                name=SAMPLE,
                memory=Memory.ACT,
                rows=batch,
                cols=samples.cols,
                role=Role.ACTIVATION,
                formats=formats,
                pixels=samples.pixels,
                samples=samples,
                fixed=True,
                seen=("sample", ""),
            )
        )
        self._want(
            Wanted(
                name=TARGET,
                memory=Memory.ERR,
                rows=batch,
                cols=graph.classes,
                role=Role.TARGET,
                formats=declaration,
                seen=("target", ""),
            )
        )
        for node in graph.nodes:
            self.forward.append(self._FORWARD[type(node)](self, node))
        last = graph.nodes[-1]
        self._error(last, self._formats(last))
        self.loss = Pass(
            opcode=Opcode.LOSS,
            node=last,
            a=activation(last.name),
            b=TARGET,
            d=self.errors[last.name],
            formats=self._formats(last),
            fields={"rows": batch, "cols": last.outputs},
        )
        for node in reversed(graph.nodes):
            if node.name in self._reached:
                self._back(node)

    @property
    def step(self) -> list[Pass]:
        """The passes of a training step."""
        return [*self.forward, self.loss, *self.backward]

    @property
    def tables(self) -> list[Table]:
        return [node for node in self.graph.nodes if isinstance(node, Table)]

    # Forward.

    def _output(self, node: Node, **changes: Any) -> str:
        """The tensor of what a node gives."""
        seen, fixed = ("activation", node.name), node.name in self._fixed
        place: dict[str, Any] = {"memory": Memory.ACT, "role": Role.ACTIVATION, "formats": self._formats(node)}
        return self._mapped(node, name=activation(node.name), seen=seen, fixed=fixed, **place, **changes)

    def _mapped(self, node: Node, **given: Any) -> str:
        """Ask for a tensor of a node's pixels and channels; its name."""
        wanted = Wanted(
            rows=self.batch, cols=node.outputs, pixels=node.window.out_pixels, layer=self._layer(node), **given
        )
        self._want(wanted)
        return wanted.name

    def _product_forward(self, node: Node) -> Pass:
        assert isinstance(node, Layer)
        y, formats = self._output(node), self._formats(node)
        rows, grouped = node.outputs, node.window.taps > 1
        shape: dict[str, Any] = {"rows": rows, "cols": node.inputs + (0 if grouped else node.bias)}
        shape |= {"groups": node.window.taps, "tail": int(node.bias) if grouped else 0}
        if node.depthwise:
            shape = {"rows": node.window.taps + node.bias, "cols": node.outputs}
        weight = Wanted(
            name=masters(node.name),
            memory=Memory.WGT,
            role=Role.MASTER,
            formats=formats,
            layer=node.name,
            bias=node.bias,
            **shape,
        )
        self._want(weight)
        fields = {"rows": self.batch, "cols": node.outputs, "relu": int(node.relu), "bias": int(node.bias)}
        return Pass(
            opcode=Opcode.DW_FORWARD if node.depthwise else Opcode.FORWARD,
            node=node,
            a=self._source(node),
            b=weight.name,
            d=y,
            formats=formats,
            fields=fields | ({} if node.depthwise else {"depth": node.inputs + node.bias}) | window_fields(node.window),
        )

    def _pool_forward(self, node: Node) -> Pass:
        fields = {"rows": self.batch, "cols": node.outputs, **named(node.window, *EXTENT_FIELDS)}
        source = self._source(node)
        y = self._output(node, scale_of=source)
        return Pass(opcode=Opcode.POOL, node=node, a=source, d=y, fields=fields)

    def _mean_forward(self, node: Node) -> Pass:
        fields = {"rows": self.batch, "cols": node.outputs, "relu": int(node.relu), **window_fields(node.window)}
        return Pass(
            opcode=Opcode.DW_FORWARD,
            node=node,
            a=self._source(node),
            d=self._output(node),
            formats=self._formats(node),
            constant=1 / node.window.taps,
            fields=fields,
        )

    def _sum_forward(self, node: Node) -> Pass:
        fields = {"rows": self.batch, "cols": node.outputs, "relu": int(node.relu), **named(node.window, *MAP_FIELDS)}
        one, other = (given(source) for source in node.sources)
        formats, y = self._formats(node), self._output(node)
        return Pass(opcode=Opcode.ADD, node=node, a=one, b=other, d=y, formats=formats, fields=fields)

    def _scale_forward(self, node: Node) -> Pass:
        assert isinstance(node, Product)
        fields = {"rows": self.batch, "cols": node.outputs, "relu": int(node.relu), **named(node.window, *MAP_FIELDS)}
        fields |= {"broadcast": int(node.broadcast)}
        one, other = (given(source) for source in node.sources)
        formats, y = self._formats(node), self._output(node)
        return Pass(opcode=Opcode.MULTIPLY, node=node, a=one, b=other, d=y, formats=formats, fields=fields)

    def _table_forward(self, node: Node) -> Pass:
        fields = {"rows": self.batch, "cols": node.outputs, **named(node.window, *MAP_FIELDS)}
        y = self._output(node)
        return Pass(opcode=Opcode.LOOKUP, node=node, a=self._source(node), d=y, table=node.name, fields=fields)

    _FORWARD: dict[type[Node], Callable[[Lowering, Node], Pass]] = {
        Layer: _product_forward,
        Pool: _pool_forward,
        Mean: _mean_forward,
        Sum: _sum_forward,
        Product: _scale_forward,
        Table: _table_forward,
    }

    # Backward.

    def _error(self, node: Node, formats: Declaration, *, name: str = "", part: str = "", scale_of: str = "") -> str:
        """A tensor of a node's error, or, by another name, of a part of it."""
        made = name or error(node.name)
        if not name:
            self.errors[node.name] = made
        seen = ("part", part) if part else ("error", node.name)
        place: dict[str, Any] = {"memory": Memory.ERR, "role": Role.ERROR, "formats": formats}
        return self._mapped(node, name=made, seen=seen, scale_of=scale_of, **place)

    def _back(self, node: Node) -> None:
        """Complete a node's error, give its sources theirs, update it: an error goes back through a weight before that
        changes."""
        self._complete(node)
        for at, source in enumerate(node.sources):
            if source in self._reached:
                self._give(node, at, self._nodes[source])
        if isinstance(node, Layer) and node.trained:
            self.backward.append(self._update(node))

    def _complete(self, node: Node) -> None:
        """Add the parts of a node's error."""
        parts = self._parts.get(node.name, [])
        if len(parts) < 2:
            return
        formats, so_far = self._formats(node), parts[0]
        for index, part in enumerate(parts[1:], 2):
            last = index == len(parts)
            name = "" if last else f"{error(node.name)}.sum{index}"
            d = self._error(node, formats, name=name)
            fields = {"memory": Memory.ERR, "rows": self.batch, "cols": node.outputs}
            masked = last and node.relu
            fields |= {"mask": int(masked), **named(_plain(node), *MAP_FIELDS)}
            m = activation(node.name) if masked else ""
            add = Pass(opcode=Opcode.ADD, node=node, a=so_far, b=part, d=d, m=m, formats=formats, fields=fields)
            self.backward.append(add)
            so_far = d

    def _give(self, node: Node, at: int, source: Node) -> None:
        """A node's part of the error of one of those that it reads."""
        readers = [r for r in self.graph.readers(source.name) if r[0].name in self._reached]
        alone = len(readers) == 1
        mine = self.errors[node.name]
        if isinstance(node, Sum) and not (alone and source.relu):
            if alone:
                self.errors[source.name] = mine
            else:
                self._parts.setdefault(source.name, []).append(mine)
            return
        formats = self._formats(source)
        name = "" if alone else f"{error(source.name)}.{part(node.name, at)}"
        scale_of = mine if isinstance(node, Pool) else ""
        d = self._error(source, formats, name=name, part="" if alone else part(node.name, at), scale_of=scale_of)
        if not alone:
            self._parts.setdefault(source.name, []).append(d)
        masked = alone and source.relu
        fields = {"rows": self.batch, "cols": source.outputs, "mask": int(masked)}
        m = activation(source.name) if masked and not isinstance(node, Pool) else ""
        self.backward.append(self._through(node, at, mine, d, m, formats, fields))

    def _through(
        self, node: Node, at: int, mine: str, d: str, m: str, formats: Declaration, fields: dict[str, Any]
    ) -> Pass:
        """The pass by which an error goes back through a node."""
        common = {"node": node, "a": mine, "d": d, "m": m, "formats": formats}
        match node:
            case Layer():
                deep = node.depthwise
                shape = {} if deep else {"cols": node.inputs, "depth": node.outputs}
                return Pass(
                    opcode=Opcode.DW_BACKWARD if deep else Opcode.BACKWARD,
                    b=masters(node.name),
                    fields=fields | shape | window_fields(node.window),
                    **common,  # type: ignore[arg-type]  # fields of a Pass
                )
            case Pool():
                fields |= named(node.window, *EXTENT_FIELDS)
                x = self._source(node)
                return Pass(opcode=Opcode.UNPOOL, node=node, a=mine, b=x, d=d, fields=fields)
            case Mean() | Sum():
                window = node.window if isinstance(node, Mean) else _plain(node)
                return Pass(
                    opcode=Opcode.DW_BACKWARD,
                    constant=1 / window.taps,
                    fields=fields | window_fields(window),
                    **common,  # type: ignore[arg-type]
                )
            case Table():
                fields |= {"memory": Memory.ERR, **named(node.window, *MAP_FIELDS)}
                x = self._source(node)
                return Pass(opcode=Opcode.MULTIPLY, b=x, table=node.name, fields=fields, **common)  # type: ignore[arg-type]
            case Product():
                other = given(node.sources[1 - at])
                fields |= named(node.window, *MAP_FIELDS)
                if node.broadcast and at == 1:
                    return Pass(opcode=Opcode.REDUCE, b=other, fields=fields, **common)  # type: ignore[arg-type]
                fields |= {"memory": Memory.ERR, "broadcast": int(node.broadcast)}
                return Pass(opcode=Opcode.MULTIPLY, b=other, fields=fields, **common)  # type: ignore[arg-type]
        raise KeyError(f"no way back through {node}")

    def _update(self, node: Layer) -> Pass:
        shape = {"rows": node.outputs, "cols": node.inputs + node.bias, "depth": self.batch}
        if node.depthwise:
            shape = {"rows": self.batch, "cols": node.outputs}
        return Pass(
            opcode=Opcode.DW_UPDATE if node.depthwise else Opcode.UPDATE,
            node=node,
            a=self.errors[node.name],
            b=self._source(node),
            d=masters(node.name),
            formats=self._formats(node),
            gradient=node.name,
            fields=shape | {"bias": int(node.bias)} | window_fields(node.window),
        )

    # Helpers.

    def _formats(self, node: Node) -> Declaration:
        """A node's formats; a pool moves elements as they are, by those of what it reads."""
        return self.declaration.at(self._layer(node) or self.graph.layers[0].name)

    def _layer(self, node: Node) -> str:
        """The node that a tensor is narrowed for: its own, or what a pool reads; "" for the sample."""
        while isinstance(node, Pool):
            if node.sources[0] == SAMPLE:
                return ""
            node = self._nodes[node.sources[0]]
        return node.name

    def _looked_up(self) -> frozenset[str]:
        """Nodes whose exponents stay as they are: what tables read, through pools, and what they give."""
        found = set()
        for node in self.graph.nodes:
            if isinstance(node, Table):
                found.add(node.name)
                source = node.sources[0]
                while source != SAMPLE:
                    found.add(source)
                    before = self._nodes[source]
                    source = before.sources[0] if isinstance(before, Pool) else SAMPLE
        return frozenset(found)

    def _source(self, node: Node) -> str:
        """The tensor that a node of one source reads."""
        return given(node.sources[0])

    def _want(self, tensor: Wanted) -> None:
        if tensor.name in self.tensors:
            raise CompileError(f"two parts of the student would have a tensor {tensor.name!r}: rename one")
        self.tensors[tensor.name] = tensor


def activation(node: str) -> str:
    """The tensor of what a node gives."""
    return f"{node}.y"


def given(source: str) -> str:
    """The tensor of what a source gives: a node, or the sample."""
    return SAMPLE if source == SAMPLE else activation(source)


def error(node: str) -> str:
    """The tensor of a node's error."""
    return f"{node}.error"


def masters(layer: str) -> str:
    """The tensor of a layer's weights."""
    return f"{layer}.weight"


def velocity(layer: str) -> str:
    """The tensor of the velocities of a layer's weights."""
    return f"{layer}.velocity"


def part(node: str, at: int) -> str:
    """The error that a node gives back to what it reads as its source `at`."""
    return f"{node}.{at}"


def _plain(node: Node) -> Window:
    """What a node gives, pixel by pixel."""
    w = node.window
    extents = {"map_height": w.out_height, "map_width": w.out_width}
    return Window(**extents, out_height=w.out_height, out_width=w.out_width)


def named(window: Window, *extents: str) -> dict[str, Any]:
    """Extents as fields, where 0 stands for 1."""
    return {name: value if (value := getattr(window, name)) > 1 else 0 for name in extents}


def window_fields(window: Window) -> dict[str, Any]:
    """The fields of a product's window."""
    return {
        **named(window, *EXTENT_FIELDS),
        "stride": window.stride_height - 1,
        "pad_height": window.pad_height,
        "pad_width": window.pad_width,
    }
