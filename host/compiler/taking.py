"""What each kind of part makes of the values before it: one method a kind (host/compiler/kinds.py)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from torch import fx, nn

from insitu.arch.window import Window
from insitu.host.compiler import fold, kinds, windows
from insitu.host.compiler.graph import SAMPLE, Layer, Mean, Node, Pool, Product, Sum, Table
from insitu.host.compiler.values import Unsupported, Value, mapped, refuse


class Taking:
    """Takes the parts of a traced module one by one into `nodes`, by name, in torch.fx's order.

    values: what is known of fx's nodes; None of one that cannot be taken, after which others are still looked at.
    mismatches: layers that do not fit one another. gone: fx's nodes folded or dropped in what is deployed. sample: the
    sample as its first reader sees it.
    """

    def __init__(self, traced: fx.GraphModule, values: dict[fx.Node, Value | None]) -> None:
        self._traced, self._values = traced, values
        self.nodes: dict[str, Node] = {}
        self.mismatches: list[str] = []
        self.gone: list[fx.Node] = []
        self.sample: Value | None = None
        self._sizes: set[fx.Node] = set()  # shapes of values
        self._batches: set[fx.Node] = set()  # their number of samples
        self._uses = Counter(str(n.target) for n in traced.graph.nodes if n.op == "call_module")

    def reads_batch(self, node: fx.Node) -> bool:
        """Whether a node is no part of the student but reads how many samples there are."""
        given = node.args[0] if node.args else None
        if kinds.reads_size(node):
            (self._batches if node.args[1:] == (0,) else self._sizes).add(node)
            return True
        if kinds.reads_batch(node) and given in self._sizes:
            self._batches.add(node)
            return True
        return False

    def shared_weights(self) -> list[str]:
        """Layers whose weights another one has too, each with what is wrong with it."""
        layers = [node for node in self.nodes.values() if isinstance(node, Layer)]
        named: list[str] = []
        targets = Counter(n.target for n in self._traced.graph.nodes if n.op == "call_module")
        for at, layer in enumerate(layers):
            again = any(other.module.weight is layer.module.weight for other in layers[:at])
            if (again or targets[layer.name] > 1) and layer.name not in named:
                named.append(layer.name)
        return [f"{name} (its weights are used twice: each layer has its own)" for name in named]

    # Parts that make no node.

    def nothing(self, node: fx.Node) -> Value | None:
        if node.target in kinds.DROPOUT:
            self.gone.append(node)
        return self._before(node)

    def relu(self, node: fx.Node) -> Value | None:
        """A bit of the node that narrows what it reads; where that is read by others too, a pass of its own."""
        before = self._before(node)
        if before is None:
            return None
        if before.node == SAMPLE:
            raise Unsupported("a ReLU follows a Conv2d or Linear")
        found: Node | None = self.nodes[before.node]
        alone = self._alone(_input(node), self.nodes[before.node])
        while isinstance(found, Pool) and alone:  # the two commute
            given, found = _input(self._fx(found)), self.nodes.get(found.sources[0])
            alone = found is not None and self._alone(given, found)
        if found is None:
            raise Unsupported("a ReLU follows a Conv2d or Linear")
        if alone and not isinstance(found, Pool | Table):
            self.nodes[found.name] = replace(found, relu=True)
            return before
        name = node.name
        window = windows.same(before.height, before.width)
        self._add(
            Mean(name=name, sources=(before.node,), value=name, window=window, outputs=before.channels, relu=True)
        )
        return replace(before, node=name)

    def flatten(self, node: fx.Node) -> Value | None:
        before = self._before(node)
        if node.op == "call_module":
            module = self._module(node)
            assert isinstance(module, nn.Flatten)
            ends = (module.start_dim, module.end_dim)
        else:
            start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
            end = node.args[2] if len(node.args) > 2 else node.kwargs.get("end_dim", -1)
            ends = (start, end)  # type: ignore[assignment]  # any of fx's arguments: compared, no more
        if ends[0] != 1 or (ends[1] != -1 and (before is None or ends[1] != len(before.shape))):
            raise Unsupported(f"Flatten of dimensions {ends[0]} to {ends[1]}: all of a sample's are flattened, 1 to -1")
        return self._flattened(before)

    def view(self, node: fx.Node) -> Value | None:
        before = self._before(node)
        wanted = node.args[1:] if len(node.args) != 2 else node.args[1]
        sizes = list(wanted) if isinstance(wanted, tuple | list) else [wanted]
        known = bool(sizes) and (sizes[0] in self._batches or (sizes[0] == -1 and -1 not in sizes[1:]))
        pixel = known and len(sizes) == 4 and sizes[2:] == [1, 1]
        if not known or not (len(sizes) == 2 or pixel):
            raise Unsupported("a view that is no Flatten: view(x.size(0), -1), or view(x.size(0), -1, 1, 1) of a pixel")
        if before is not None and sizes[1] not in (-1, before.features):
            raise Unsupported(f"a view of {sizes[1]} features, where a sample has {before.features}")
        if not pixel:
            return self._flattened(before)
        if before is None:
            return None
        if before.pixels > 1:
            raise Unsupported(f"a view of a map of {before.height} x {before.width} pixels as one")
        return replace(before, shape=(before.channels, 1, 1))

    def _flattened(self, before: Value | None) -> Value | None:
        if before is None or before.flat:
            return before
        features = math.prod(before.shape)
        if before.node == SAMPLE and len(self._users(SAMPLE)) == 1:  # the host flattens it: it is sent as torch has it
            return Value(node=SAMPLE, shape=(features,), channels=features)
        return replace(before, shape=(features,))

    def norm(self, node: fx.Node) -> Value | None:
        module, before = self._module(node), self._before(node)
        assert isinstance(module, nn.BatchNorm2d)
        if self._uses[str(node.target)] > 1:
            raise Unsupported("BatchNorm2d used twice: it cannot be folded into both Conv2d before it")
        source: fx.Node | None = _input(node)
        last = next((n for n in self.nodes.values() if self._leads(source, n)), None)
        if not isinstance(last, Layer) or not isinstance(last.module, nn.Conv2d) or last.relu:
            raise Unsupported("BatchNorm2d: to be folded it directly follows a Conv2d")
        if not self._alone(_input(node), last):
            raise Unsupported("BatchNorm2d: to be folded it is all that reads its Conv2d")
        refuse(fold.unfoldable(module))
        if module.num_features != last.outputs:
            raise Unsupported(f"BatchNorm2d of {module.num_features} channels after {last.outputs}")
        refuse("" if last.depthwise else windows.misses(last.window))
        refuse(fold.partly_trained([(last.name, last.module), (str(node.target), module)]))
        convolution = fold.folded(last.module, module)
        self.nodes[last.name] = replace(last, module=convolution)
        parent, _, name = last.name.rpartition(".")
        setattr(self._traced.get_submodule(parent), name, convolution)
        self.gone.append(node)
        return before

    # Parts that do.

    def conv(self, node: fx.Node) -> Value | None:
        module, before = self._module(node), self._before(node)
        assert isinstance(module, nn.Conv2d)
        side = (before.height, before.width) if before is not None and len(before.shape) == 3 else None
        refuse(windows.problems(module, side))
        if before is not None and side is None:
            raise Unsupported(f"Conv2d of samples of shape {before.shape}: it takes [channels, height, width]")
        deep = windows.depthwise(module)
        name, channels = str(node.target), module.in_channels
        if before is None:  # unknown: as if it fitted
            self._layer(node, module, Window(), channels, None)
            return None
        self._expect(node, before, before.channels, channels, "channels")
        window = windows.of_convolution(module, before.height, before.width)
        refuse(windows.misses(window) if module.bias is not None and not deep else "")
        self._layer(node, module, window, channels, before, depthwise=deep)
        return mapped(name, module.out_channels, window)

    def linear(self, node: fx.Node) -> Value | None:
        module, before = self._module(node), self._before(node)
        assert isinstance(module, nn.Linear)
        if before is not None and not before.flat:
            raise Unsupported(f"Linear of samples of shape {before.shape}: a Flatten comes before it")
        if before is None:
            self._layer(node, module, Window(), module.in_features, None)
            return None
        refuse(windows.too_large(before.height, before.width))
        self._expect(node, before, before.features, module.in_features, "features")
        self._layer(node, module, windows.whole_map(before.height, before.width), before.channels, before)
        return Value(node=str(node.target), shape=(module.out_features,), channels=module.out_features)

    def _layer(
        self,
        node: fx.Node,
        module: nn.Linear | nn.Conv2d,
        window: Window,
        inputs: int,
        before: Value | None,
        *,
        depthwise: bool = False,
    ) -> None:
        refuse(fold.partly_trained([(str(node.target), module)]))
        made = Layer(
            name=str(node.target),
            sources=(before.node if before else "",),
            value=node.name,
            window=window,
            outputs=module.weight.shape[0],
            module=module,
            inputs=inputs,
            depthwise=depthwise,
        )
        self._add(made, before)

    def pool(self, node: fx.Node) -> Value | None:
        before = self._before(node)
        kernel, ceil = windows.of_pool(self._module(node) if node.op == "call_module" else node)
        if kernel is None:
            raise Unsupported("MaxPool2d: its stride is its kernel, without padding, dilation or indices")
        if before is None:
            return None
        self._needs_map("MaxPool2d", before)
        window = windows.side_by_side(kernel, before.height, before.width, ceil=ceil)
        if window is None:
            raise Unsupported(f"MaxPool2d of {kernel} pixels on a map of {before.height} x {before.width}")
        name = self._name(node)
        made = Pool(name=name, sources=(before.node,), value=node.name, window=window, outputs=before.channels)
        self._add(made, before)
        return mapped(name, before.channels, window)

    def mean(self, node: fx.Node) -> Value | None:
        before = self._before(node)
        if before is None:
            return None
        self._needs_map("AvgPool2d", before)
        pool = self._module(node) if node.op == "call_module" else node
        window = windows.of_mean(pool, before.height, before.width)
        if isinstance(window, str):
            raise Unsupported(window)
        return self._mean(node, before, window)

    def adaptive(self, node: fx.Node) -> Value | None:
        before = self._before(node)
        size: object = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
        if node.op == "call_module":
            size = self._module(node).output_size
        if size not in (1, (1, 1), [1, 1]):
            raise Unsupported(f"AdaptiveAvgPool2d to {size}: to 1")
        return self._over_all("AdaptiveAvgPool2d", node, before)

    def average(self, node: fx.Node) -> Value | None:
        before = self._before(node)
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if not isinstance(dims, tuple | list) or sorted(int(d) % 4 for d in dims) != [2, 3]:
            raise Unsupported(f"a mean over {dims}: over both sides of a map, (2, 3)")
        keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
        made = self._over_all("a mean", node, before)
        return made if keep or made is None else replace(made, shape=(made.channels,))

    def _over_all(self, what: str, node: fx.Node, before: Value | None) -> Value | None:
        if before is None:
            return None
        self._needs_map(what, before)
        refuse(windows.too_large(before.height, before.width))
        return self._mean(node, before, windows.whole_map(before.height, before.width))

    def _mean(self, node: fx.Node, before: Value, window: Window) -> Value:
        name = self._name(node)
        made = Mean(name=name, sources=(before.node,), value=node.name, window=window, outputs=before.channels)
        self._add(made, before)
        return mapped(name, before.channels, window)

    def add(self, node: fx.Node) -> Value | None:
        if set(node.kwargs) - {"other", "input"}:
            raise Unsupported("a sum of two tensors, without alpha")
        both = self._both(node, "sum")
        if both is None:
            return None
        one, other = both
        if not one.same_map(other):
            raise Unsupported(f"a sum of {list(one.shape)} and {list(other.shape)}: of alike tensors")
        sources, name = (one.node, other.node), node.name
        window = windows.same(one.height, one.width)
        self._add(Sum(name=name, sources=sources, value=name, window=window, outputs=one.channels), one, other)
        return replace(one, node=name)

    def multiply(self, node: fx.Node) -> Value | None:
        both = self._both(node, "product")
        if both is None:
            return None
        one, other = both if both[0].pixels >= both[1].pixels else both[::-1]
        broadcast = one.channels == other.channels and one.pixels > 1 and other.shape == (other.channels, 1, 1)
        if not broadcast and not one.same_map(other):
            raise Unsupported(
                f"a product of {list(one.shape)} and {list(other.shape)}: of alike tensors, or with [channels, 1, 1]"
            )
        sources, name = (one.node, other.node), node.name
        window = windows.same(one.height, one.width)
        made = Product(name=name, sources=sources, value=name, window=window, outputs=one.channels, broadcast=broadcast)
        self._add(made, one, other)
        return replace(one, node=name)

    def table(self, node: fx.Node) -> Value | None:
        before = self._before(node)
        if before is None:
            return None
        if before.node == SAMPLE:
            raise Unsupported("an activation follows a part that computes something")
        name = self._name(node)
        made = Table(
            name=name,
            sources=(before.node,),
            value=node.name,
            window=windows.same(before.height, before.width),
            outputs=before.channels,
            function=kinds.elementwise(self._traced, node),
        )
        self._add(made, before)
        return replace(before, node=name)

    # Helpers.

    def _module(self, node: fx.Node) -> nn.Module:
        return self._traced.get_submodule(str(node.target))

    def _before(self, node: fx.Node) -> Value | None:
        given = _input(node)
        return None if given is None else self._values.get(given)

    def _both(self, node: fx.Node, what: str) -> tuple[Value, Value] | None:
        given = [*node.args, *(v for k, v in node.kwargs.items() if k in ("input", "other"))]
        if len(given) != 2 or not all(isinstance(part, fx.Node) for part in given):
            raise Unsupported(f"a {what} of two tensors")
        one, other = (self._values.get(part) for part in given)  # type: ignore[arg-type]  # checked above
        return None if one is None or other is None else (one, other)

    def _needs_map(self, what: str, before: Value) -> None:
        if len(before.shape) != 3:
            raise Unsupported(f"{what} of samples of shape {before.shape}: it takes [channels, height, width]")

    def _name(self, node: fx.Node) -> str:
        """A node's name: its module's, where that is used once."""
        return str(node.target) if node.op == "call_module" and self._uses[str(node.target)] == 1 else node.name

    def _fx(self, node: Node) -> fx.Node:
        return next(n for n in self._traced.graph.nodes if n.name == node.value)

    def _users(self, name: str) -> list[fx.Node]:
        """Who reads the values that a node, or the sample, gives first."""
        given = next(
            n
            for n in self._traced.graph.nodes
            if (n.op == "placeholder" if name == SAMPLE else n.name == self.nodes[name].value)
        )
        return _readers(given)

    def _way(self, source: fx.Node | None) -> Iterator[fx.Node]:
        """A value and those before it up to the one that a node computes: parts that make no node lie between."""
        while isinstance(source, fx.Node):
            yield source
            if kinds.kind(self._traced, source)[0] not in ("nothing", "flatten", "view", "relu", "norm"):
                return
            source = _input(source)

    def _leads(self, source: fx.Node | None, node: Node) -> bool:
        """Whether a value is what a node gives, dropout aside."""
        while isinstance(source, fx.Node) and kinds.kind(self._traced, source)[0] == "nothing":
            source = _input(source)
        return isinstance(source, fx.Node) and source.name == node.value

    def _alone(self, source: fx.Node | None, node: Node) -> bool:
        """Whether all of the values from a node's to this one are read once."""
        for value in self._way(source):
            if len(_readers(value)) > 1:
                return False
            if value.name == node.value:
                return True
        return True

    def _add(self, node: Node, *before: Value | None) -> None:
        for value in before:
            if value is not None and value.node == SAMPLE:
                self.sample = value
        self.nodes[node.name] = node

    def _expect(self, node: fx.Node, before: Value, gives: int, takes: int, what: str) -> None:
        if gives != takes:
            source = "the sample" if before.node == SAMPLE else repr(before.node)
            self.mismatches.append(f"layer {str(node.target)!r} takes {takes} {what}, {source} before it gives {gives}")


def _input(node: fx.Node) -> fx.Node | None:
    given = node.args[0] if node.args else node.kwargs.get("input")
    return given if isinstance(given, fx.Node) else None


def _readers(node: fx.Node) -> list[fx.Node]:
    """Who reads a value, its size aside; reading it twice counts twice."""
    return [
        user
        for user in node.users
        if not kinds.reads_size(user)
        for argument in (*user.args, *user.kwargs.values())
        if argument is node
    ]
