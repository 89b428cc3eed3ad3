"""From a torch module to its graph, and one error that names every part no instruction covers."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx, nn

from insitu.arch.samples import Samples
from insitu.host.compiler import deployed, unbundled
from insitu.host.compiler.graph import SAMPLE, Graph, Layer
from insitu.host.compiler.kinds import kind
from insitu.host.compiler.taking import Taking
from insitu.host.compiler.values import Unsupported, Value, sample
from insitu.host.errors import CompileError

SUPPORTED = (
    "Conv2d (groups 1, or depthwise), BatchNorm2d after a Conv2d, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d(1), Flatten, "
    "Linear, ReLU and other activations element by element, sums and products of two tensors, Dropout, Identity (and "
    "functional forms of all but layers with weights)"
)


def trace(module: nn.Module, shape: tuple[int, ...]) -> Graph:
    """The graph of a module in evaluation that takes samples of a shape. Raises CompileError that names every part no
    instruction covers, or where layers do not fit one another."""
    deployed.check(module)
    try:
        with deployed.evaluating(module):
            traced = unbundled.traced(module)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CompileError(f"torch.fx cannot trace {type(module).__name__}: {reason}") from error
    traced.graph.eliminate_dead_code()
    return _Tracer(traced, shape, type(module).__name__).graph()


class _Tracer:
    def __init__(self, traced: fx.GraphModule, shape: tuple[int, ...], name: str) -> None:
        self._traced, self._shape, self._name = traced, shape, name
        self._values: dict[fx.Node, Value | None] = {}  # None: of a part that cannot be taken
        self._unsupported: list[str] = []
        self._taking = Taking(traced, self._values)

    def graph(self) -> Graph:
        inputs = [n for n in self._traced.graph.nodes if n.op == "placeholder"]
        for node in self._traced.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = sample(SAMPLE, self._shape)
            elif node.op == "output":
                self._output(node)
            else:
                self._take(node)
        taking = self._taking
        self._unsupported += taking.shared_weights()
        if len(inputs) != 1:
            self._unsupported.append("the module's signature (one input tensor)")
        if self._unsupported:
            raise CompileError(
                f"{self._name} has parts no instruction covers: {', '.join(self._unsupported)}; supported: {SUPPORTED}"
            )
        nodes = tuple(taking.nodes.values())
        if not any(isinstance(node, Layer) for node in nodes):
            raise CompileError(f"{self._name} has no Conv2d or Linear layer: nothing to train")
        if taking.mismatches:
            raise CompileError(taking.mismatches[0])
        if nodes[-1].relu:
            raise CompileError(f"layer {nodes[-1].name!r}: a ReLU follows the last layer, which gives the logits")
        made = Graph(nodes=nodes, module=self._deployed(), samples=self._samples())
        if not made.reached:
            raise CompileError(f"{self._name} has no parameter that requires a gradient: nothing to train")
        return made

    def _samples(self) -> Samples:
        """How the sample lies: as a map, but for one that the module flattens first, which is sent as torch has it."""
        first = self._taking.sample or sample(SAMPLE, self._shape)
        return first.plain_samples()

    def _take(self, node: fx.Node) -> None:
        if self._taking.reads_batch(node):
            return
        what, name = kind(self._traced, node)
        try:
            if not what:
                raise Unsupported(name)
            handler: Callable[[fx.Node], Value | None] = getattr(self._taking, what)
            self._values[node] = handler(node)
        except Unsupported as reason:
            self._unsupported.append(f"{node.name} ({reason})")
            self._values[node] = None

    def _output(self, node: fx.Node) -> None:
        given = node.args[0]
        if not isinstance(given, fx.Node):
            self._unsupported.append(f"{node.name} (one tensor of logits)")
            return
        value = self._values.get(given)
        if value is not None and not (value.flat and value.pixels == 1):
            self._taking.mismatches.append(
                f"{self._name} gives {list(value.shape)} of a map of {value.height} x {value.width} pixels for each "
                "sample: it ends with a Linear, or a Flatten of one pixel, which gives the logits"
            )

    def _deployed(self) -> fx.GraphModule:
        """F.dropout drops whatever the module's mode is, and a folded normalisation has gone into its convolution."""
        for node in self._taking.gone:
            node.replace_all_uses_with(node.args[0] if node.args else node.kwargs["input"])  # type: ignore[arg-type]
            self._traced.graph.erase_node(node)
        self._traced.recompile()
        return self._traced
