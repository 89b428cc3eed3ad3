"""From a torch module to its graph, and one error that names every part no instruction covers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import fx, nn

from insitu.arch.samples import Samples
from insitu.arch.window import Window
from insitu.host.compiler import fold, windows
from insitu.host.compiler.graph import Graph, Layer, Node, Pool
from insitu.host.compiler.kinds import DROPOUT, kind, reads_batch, reads_size
from insitu.host.errors import CompileError

SUPPORTED = (
    "Conv2d, BatchNorm2d after a Conv2d, MaxPool2d, Flatten, Linear, ReLU, Dropout, Identity (and functional forms of "
    "Flatten, MaxPool2d, ReLU, Dropout)"
)


@dataclass(frozen=True, kw_only=True)
class _Value:
    """What a torch value is on the device: a map; `shape` is torch's of one sample."""

    shape: tuple[int, ...]
    channels: int
    height: int = 1
    width: int = 1

    @property
    def flat(self) -> bool:
        return len(self.shape) == 1


class _Unsupported(Exception):
    """Why a part cannot be taken."""


def trace(module: nn.Module, shape: tuple[int, ...]) -> Graph:
    """The graph of a module that takes samples of a shape. Raises CompileError that names every part no instruction
    covers, or where layers do not fit one another."""
    try:
        traced = fx.symbolic_trace(module)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CompileError(f"torch.fx cannot trace {type(module).__name__}: {reason}") from error
    return _Tracer(traced, shape, type(module).__name__).graph()


class _Tracer:
    def __init__(self, traced: fx.GraphModule, shape: tuple[int, ...], name: str) -> None:
        self._traced, self._shape, self._name = traced, shape, name
        self._nodes: list[Node] = []
        self._values: dict[fx.Node, _Value | None] = {}  # None: of a part that cannot be taken
        self._sizes: set[fx.Node] = set()  # shapes of values
        self._batches: set[fx.Node] = set()  # their number of samples
        self._uses = Counter(str(n.target) for n in traced.graph.nodes if n.op == "call_module")
        self._unsupported: list[str] = []
        self._mismatches: list[str] = []
        self._samples: Samples | None = None
        self._gone: list[fx.Node] = []  # folded or dropped in what is deployed

    def graph(self) -> Graph:
        inputs = [n for n in self._traced.graph.nodes if n.op == "placeholder"]
        for node in self._traced.graph.nodes:
            users = [u for u in node.users if not reads_size(u)]
            if len(users) > 1 and node.op != "output" and not reads_size(node) and not reads_batch(node):
                self._unsupported.append(f"{node.name} (its value is used {len(users)} times: no branches yet)")
        for node in self._traced.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = self._sample()
            elif node.op == "output":
                self._output(node)
            else:
                self._take(node)
        self._shared_weights()
        if len(inputs) != 1:
            self._unsupported.append("the module's signature (one input tensor)")
        if self._unsupported:
            raise CompileError(
                f"{self._name} has parts no instruction covers: {', '.join(self._unsupported)}; supported: {SUPPORTED}"
            )
        if not any(isinstance(node, Layer) for node in self._nodes):
            raise CompileError(f"{self._name} has no Conv2d or Linear layer: nothing to train")
        if self._mismatches:
            raise CompileError(self._mismatches[0])
        last = max(i for i, node in enumerate(self._nodes) if isinstance(node, Layer))
        if self._nodes[last].relu:
            name = self._nodes[last].name
            raise CompileError(f"layer {name!r}: a ReLU follows the last layer, which gives the logits")
        samples = self._samples or _plain(self._sample())
        return Graph(nodes=tuple(self._nodes), module=self._deployed(), samples=samples)

    def _sample(self) -> _Value:
        if len(self._shape) == 3:
            channels, height, width = self._shape
            return _Value(shape=self._shape, channels=channels, height=height, width=width)
        return _Value(shape=self._shape, channels=math.prod(self._shape))

    def _take(self, node: fx.Node) -> None:
        if self._reads_batch(node):
            return
        what, name = kind(self._traced, node)
        before = self._before(node)
        try:
            if not what:
                raise _Unsupported(name)
            handler: Callable[[fx.Node, _Value | None], _Value | None] = getattr(self, f"_{what}")
            self._values[node] = handler(node, before)
        except _Unsupported as reason:
            self._unsupported.append(f"{node.name} ({reason})")
            self._values[node] = None

    def _module(self, node: fx.Node) -> nn.Module:
        return self._traced.get_submodule(str(node.target))

    def _before(self, node: fx.Node) -> _Value | None:
        given = node.args[0] if node.args else node.kwargs.get("input")
        return self._values.get(given) if isinstance(given, fx.Node) else None

    def _reads_batch(self, node: fx.Node) -> bool:
        """Whether a node is no part of the student but reads how many samples there are."""
        given = node.args[0] if node.args else None
        if reads_size(node):
            (self._batches if node.args[1:] == (0,) else self._sizes).add(node)
            return True
        if reads_batch(node) and given in self._sizes:
            self._batches.add(node)
            return True
        return False

    # What each kind of part makes of the value before it.

    def _nothing(self, node: fx.Node, before: _Value | None) -> _Value | None:
        if node.target in DROPOUT:
            self._gone.append(node)
        return before

    def _relu(self, _node: fx.Node, before: _Value | None) -> _Value | None:
        for at in reversed(range(len(self._nodes))):
            found = self._nodes[at]
            if isinstance(found, Layer):
                self._nodes[at] = replace(found, relu=True)
                return before
        raise _Unsupported("a ReLU follows a Conv2d or Linear")

    def _flatten(self, node: fx.Node, before: _Value | None) -> _Value | None:
        if node.op == "call_module":
            module = self._module(node)
            assert isinstance(module, nn.Flatten)
            ends = (module.start_dim, module.end_dim)
        else:
            start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
            end = node.args[2] if len(node.args) > 2 else node.kwargs.get("end_dim", -1)
            ends = (start, end)  # type: ignore[assignment]  # any of fx's arguments: compared, no more
        if ends[0] != 1 or (ends[1] != -1 and (before is None or ends[1] != len(before.shape))):
            raise _Unsupported(
                f"Flatten of dimensions {ends[0]} to {ends[1]}: all of a sample's are flattened, 1 to -1"
            )
        return self._flattened(before)

    def _view(self, node: fx.Node, before: _Value | None) -> _Value | None:
        wanted = node.args[1:] if len(node.args) != 2 else node.args[1]
        sizes = list(wanted) if isinstance(wanted, tuple | list) else [wanted]
        if len(sizes) != 2 or not (sizes[0] in self._batches or (sizes[0] == -1 and sizes[1] != -1)):
            raise _Unsupported("a view that is no Flatten: view(x.size(0), -1)")
        if before is not None and sizes[1] not in (-1, math.prod(before.shape)):
            raise _Unsupported(f"a view of {sizes[1]} features, where a sample has {math.prod(before.shape)}")
        return self._flattened(before)

    def _flattened(self, before: _Value | None) -> _Value | None:
        if before is None or before.flat:
            return before
        features = math.prod(before.shape)
        if not self._nodes:  # the host flattens the sample: it is sent as torch has it
            return _Value(shape=(features,), channels=features)
        return replace(before, shape=(features,))

    def _conv(self, node: fx.Node, before: _Value | None) -> _Value | None:
        module = self._module(node)
        assert isinstance(module, nn.Conv2d)
        side = (before.height, before.width) if before is not None and len(before.shape) == 3 else None
        _refuse(windows.problems(module, side))
        if before is not None and side is None:
            raise _Unsupported(f"Conv2d of samples of shape {before.shape}: it takes [channels, height, width]")
        channels = module.in_channels
        if before is None:  # unknown: as if it fitted
            self._add(Layer(name=str(node.target), module=module, window=Window(), inputs=channels))
            return None
        self._expect(node, before.channels, channels, "channels")
        window = windows.of_convolution(module, before.height, before.width)
        _refuse(windows.misses(window) if module.bias is not None else "")
        self._add(Layer(name=str(node.target), module=module, window=window, inputs=channels), before)
        return _map(module.out_channels, window)

    def _norm(self, node: fx.Node, before: _Value | None) -> _Value | None:
        module, last = self._module(node), self._nodes[-1] if self._nodes else None
        assert isinstance(module, nn.BatchNorm2d)
        if self._uses[str(node.target)] > 1:
            raise _Unsupported("BatchNorm2d used twice: it cannot be folded into both Conv2d before it")
        source = node.args[0] if node.args else node.kwargs["input"]
        while isinstance(source, fx.Node) and source.args and kind(self._traced, source)[0] == "nothing":
            source = source.args[0]
        directly = isinstance(source, fx.Node) and isinstance(last, Layer) and str(source.target) == last.name
        if not directly or not isinstance(last, Layer) or not isinstance(last.module, nn.Conv2d):
            raise _Unsupported("BatchNorm2d: to be folded it directly follows a Conv2d")
        _refuse(fold.unfoldable(module))
        if module.num_features != last.outputs:
            raise _Unsupported(f"BatchNorm2d of {module.num_features} channels after {last.outputs}")
        _refuse(windows.misses(last.window))
        convolution = fold.folded(last.module, module)
        self._nodes[-1] = replace(last, module=convolution)
        parent, _, name = last.name.rpartition(".")
        setattr(self._traced.get_submodule(parent), name, convolution)
        self._gone.append(node)
        return before

    def _pool(self, node: fx.Node, before: _Value | None) -> _Value | None:
        kernel, ceil = windows.of_pool(self._module(node) if node.op == "call_module" else node)
        if kernel is None:
            raise _Unsupported("MaxPool2d: its stride is its kernel, without padding, dilation or indices")
        if before is None:
            return None
        if len(before.shape) != 3:
            raise _Unsupported(f"MaxPool2d of samples of shape {before.shape}: it takes [channels, height, width]")
        window = windows.side_by_side(kernel, before.height, before.width, ceil=ceil)
        if window is None:
            raise _Unsupported(f"MaxPool2d of {kernel} pixels on a map of {before.height} x {before.width}")
        name = str(node.target) if node.op == "call_module" and self._uses[str(node.target)] == 1 else node.name
        self._add(Pool(name=name, window=window, outputs=before.channels), before)
        return _map(before.channels, window)

    def _linear(self, node: fx.Node, before: _Value | None) -> _Value | None:
        module = self._module(node)
        assert isinstance(module, nn.Linear)
        if before is not None and not before.flat:
            raise _Unsupported(f"Linear of samples of shape {before.shape}: a Flatten comes before it")
        if before is None:
            self._add(Layer(name=str(node.target), module=module, window=Window(), inputs=module.in_features))
            return None
        _refuse(windows.too_large(before.height, before.width))
        self._expect(node, math.prod(before.shape), module.in_features, "features")
        window = windows.whole_map(before.height, before.width)
        self._add(Layer(name=str(node.target), module=module, window=window, inputs=before.channels), before)
        return _Value(shape=(module.out_features,), channels=module.out_features)

    def _add(self, node: Node, before: _Value | None = None) -> None:
        if not self._nodes and before is not None:
            self._samples = _plain(before)
        self._nodes.append(node)

    def _expect(self, node: fx.Node, gives: int, takes: int, what: str) -> None:
        if gives != takes:
            before = repr(self._nodes[-1].name) if self._nodes else "the sample"
            self._mismatches.append(
                f"layer {str(node.target)!r} takes {takes} {what}, {before} before it gives {gives}"
            )

    # What is left when all were taken.

    def _output(self, node: fx.Node) -> None:
        given = node.args[0]
        if not isinstance(given, fx.Node):
            self._unsupported.append(f"{node.name} (one tensor of logits)")
            return
        value = self._values.get(given)
        if value is not None and not (value.flat and value.height * value.width == 1):
            self._mismatches.append(
                f"{self._name} gives {list(value.shape)} of a map of {value.height} x {value.width} pixels for each "
                "sample: it ends with a Linear, or a Flatten of one pixel, which gives the logits"
            )

    def _shared_weights(self) -> None:
        layers = [node for node in self._nodes if isinstance(node, Layer)]
        named: list[str] = []
        for at, layer in enumerate(layers):
            for other in layers[:at]:
                same = other.name == layer.name or other.module.weight is layer.module.weight
                if same and layer.name not in named:
                    named.append(layer.name)
        self._unsupported += [f"{name} (its weights are used twice: each layer has its own)" for name in named]

    def _deployed(self) -> nn.Module:
        """F.dropout drops whatever the module's mode is, and a folded normalisation has gone into its convolution."""
        for node in self._gone:
            node.replace_all_uses_with(node.args[0] if node.args else node.kwargs["input"])  # type: ignore[arg-type]
            self._traced.graph.erase_node(node)
        self._traced.recompile()
        return self._traced


def _plain(value: _Value) -> Samples:
    """Samples as a map of one tap."""
    height, width = value.height, value.width
    window = Window(map_height=height, map_width=width, out_height=height, out_width=width)
    return Samples(channels=value.channels, window=window)


def _map(channels: int, window: Window) -> _Value:
    height, width = window.out_height, window.out_width
    return _Value(shape=(channels, height, width), channels=channels, height=height, width=width)


def _refuse(reason: str) -> None:
    if reason:
        raise _Unsupported(reason)
