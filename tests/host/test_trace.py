"""Tracing: what becomes of a torch module, however it is spelled, and all that cannot be taken in one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from insitu.arch.window import Window
from insitu.host.compiler.graph import Graph, Layer, Pool
from insitu.host.compiler.trace import trace
from insitu.host.errors import CompileError

SHAPE = (2, 9, 8)


def student(*, ceil: bool = False) -> nn.Sequential:
    """A convolution, a pool, a strided convolution, a Linear over its map: [n, 2, 9, 8] -> [n, 3]."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=ceil),
        nn.Conv2d(5, 4, (2, 3), stride=2, padding=(1, 0)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def same(graph: Graph, module: nn.Module, shape: tuple[int, ...] = SHAPE) -> bool:
    """Whether what is deployed computes what the module does in evaluation."""
    x = torch.rand(4, *shape)
    return torch.allclose(graph.module.eval()(x), module.eval()(x), rtol=1e-5, atol=1e-6)


def test_nodes_and_windows() -> None:
    first, pool, second, head = trace(student(), SHAPE).nodes
    assert [type(n) for n in (first, pool, second, head)] == [Layer, Pool, Layer, Layer]
    assert [n.name for n in (first, pool, second, head)] == ["0", "2", "3", "6"]
    nine = {"map_height": 9, "map_width": 8, "out_height": 9, "out_width": 8}
    assert first.window == Window(**nine, kernel_height=3, kernel_width=3, pad_height=1, pad_width=1)
    halved = {"map_height": 9, "map_width": 8, "out_height": 4, "out_width": 4}
    two = {"kernel_height": 2, "kernel_width": 2, "stride_height": 2, "stride_width": 2}
    assert pool.window == Window(**halved, **two)
    strided = {"map_height": 4, "map_width": 4, "out_height": 3, "out_width": 1, "kernel_height": 2, "kernel_width": 3}
    assert second.window == Window(**strided, stride_height=2, stride_width=2, pad_height=1)
    assert head.window == Window(map_height=3, kernel_height=3)
    layers = trace(student(), SHAPE).layers
    assert [(n.inputs, n.outputs, n.cols, n.relu) for n in layers] == [
        (2, 5, 18, True),
        (5, 4, 30, True),
        (4, 3, 12, False),
    ]


def test_pools_in_ceil_mode_keep_what_is_left() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.MaxPool2d((2, 3), ceil_mode=True), nn.Flatten(), nn.Linear(45, 3))
    pool = trace(module, SHAPE).nodes[1]
    assert (pool.window.out_height, pool.window.out_width) == (5, 3)


@pytest.mark.parametrize(
    ("padding", "kernel", "pads", "out"),
    [
        ("same", 3, (1, 1), (9, 8)),
        ("same", (5, 1), (2, 0), (9, 8)),
        ("same", 4, (1, 1), (9, 8)),  # one more row and column of zeros below and to the right
        ("valid", (2, 3), (0, 0), (8, 6)),
        ((0, 3), 7, (0, 3), (3, 8)),
    ],
)
def test_padding(padding: Any, kernel: Any, pads: tuple[int, int], out: tuple[int, int]) -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, kernel, padding=padding), nn.Flatten(), nn.Linear(3 * out[0] * out[1], 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is slow where the zeros are not as many on both sides
        module(torch.zeros(1, *SHAPE))
    window = trace(module, SHAPE).nodes[0].window
    assert (window.pad_height, window.pad_width, window.out_height, window.out_width) == (*pads, *out)


def test_the_patches_of_the_first_layer() -> None:
    graph = trace(student(), SHAPE)
    assert (graph.samples.channels, graph.samples.pixels, graph.samples.cols) == (2, 72, 2)
    unfolded = graph.unfolded()
    assert unfolded is not None
    assert unfolded.samples.window == graph.nodes[0].window
    first = unfolded.layers[0]
    assert first.window == Window(map_height=9, map_width=8, out_height=9, out_width=8)
    assert (first.inputs, first.cols) == (18, 18)
    np.testing.assert_array_equal(first.weights(), graph.layers[0].weights())
    assert unfolded.nodes[1:] == graph.nodes[1:]
    assert unfolded.unfolded() is None
    assert trace(nn.Sequential(nn.Flatten(), nn.Linear(144, 3)), SHAPE).unfolded() is None


def test_weights_go_tap_by_tap() -> None:
    graph = trace(student(), SHAPE)
    convolution, head = graph.layers[1], graph.layers[2]
    weight = convolution.module.weight.detach().numpy()
    found = convolution.weights().reshape(4, 2, 3, 5)
    np.testing.assert_array_equal(found, weight.transpose(0, 2, 3, 1).astype(np.float64))
    flat = head.module.weight.detach().numpy().reshape(3, 4, 3)  # torch's: outputs, channels, pixels
    np.testing.assert_array_equal(head.weights().reshape(3, 3, 4), flat.transpose(0, 2, 1).astype(np.float64))


# One student, many spellings.


class Functional(nn.Module):
    def __init__(self, forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        layers = student()
        self.c1, self.c2, self.fc = layers[0], layers[3], layers[6]
        self.pool = nn.MaxPool2d(2)
        self._how = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._how(self, x)


def _view(m: Any, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(m.c2(m.pool(F.relu(m.c1(x)))))
    return m.fc(x.view(x.size(0), -1))


def _shape(m: Any, x: torch.Tensor) -> torch.Tensor:
    x = F.dropout2d(m.c2(F.max_pool2d(m.c1(x).relu(), 2)), 0.5).relu_()
    return m.fc(x.reshape(x.shape[0], 12))


def _pool_first(m: Any, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(F.max_pool2d(m.c1(x), kernel_size=(2, 2), stride=2))
    return m.fc(torch.flatten(torch.relu(m.c2(x)), 1))


SPELLINGS: dict[str, Callable[[], nn.Module]] = {
    "view": lambda: Functional(_view),
    "shape": lambda: Functional(_shape),
    "pool first": lambda: Functional(_pool_first),
    "constant": lambda: Functional(lambda m, x: m.fc(m.c2(torch.max_pool2d(F.relu(m.c1(x)), 2)).relu().view(-1, 12))),
    "end": lambda: Functional(lambda m, x: m.fc(m.c2(m.pool(F.relu(m.c1(x)))).relu().flatten(1, 3))),
    "nested": lambda: nn.Sequential(nn.Sequential(*student()[:4]), nn.Dropout2d(0.9), *student()[4:]),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spelling_changes_nothing(spelling: str) -> None:
    graph, plain = trace(SPELLINGS[spelling](), SHAPE), trace(student(), SHAPE)
    assert [n.window for n in graph.nodes] == [n.window for n in plain.nodes]
    assert [n.relu for n in graph.nodes] == [n.relu for n in plain.nodes] == [True, False, True, False]
    for mine, theirs in zip(graph.layers, plain.layers, strict=True):
        np.testing.assert_array_equal(mine.weights(), theirs.weights())
    assert same(graph, student())


def test_a_pool_used_twice_is_two_pools() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.pool, self.fc = nn.Conv2d(2, 3, 1), nn.MaxPool2d(2), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.pool(self.pool(self.c(x)).relu()).flatten(1))

    names = [n.name for n in trace(Twice(), SHAPE).nodes]
    assert names == ["c", "pool", "pool_1", "fc"]


# Batch normalisation.


def normalised(**options: Any) -> nn.Sequential:
    """A student with a BatchNorm2d that has seen something."""
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(4, **options)
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.1, 3)
    if norm.affine:
        nn.init.uniform_(norm.weight, -2, 2)
        nn.init.uniform_(norm.bias)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Identity(), norm, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 6, 3))


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1}])
@pytest.mark.parametrize("bias", [True, False])
def test_folding_gives_what_evaluation_does(options: dict[str, Any], bias: bool) -> None:
    module = normalised(**options)
    if not bias:
        module[0] = nn.Conv2d(2, 4, 3, bias=False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    graph = trace(module, SHAPE)
    assert [n.name for n in graph.nodes] == ["0", "5"]
    assert graph.layers[0].bias
    assert isinstance(graph.module, fx.GraphModule)
    assert "2" not in [n.target for n in graph.module.graph.nodes]
    assert same(graph, module)
    assert module[0] is not graph.layers[0].module
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


# What cannot be taken.


def test_three_unsupported_parts_in_one_line() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(2, 4, 3, groups=2)
            self.gate, self.mean, self.fc = nn.PReLU(), nn.AdaptiveAvgPool2d(2), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.mean(self.gate(self.first(x))).flatten(1))

    with pytest.raises(CompileError) as refused:
        trace(Odd(), SHAPE)
    message = str(refused.value)
    assert message.startswith("Odd has parts no instruction covers: ")
    for part in (
        "first (Conv2d of groups=2: 1, or one for each channel",
        "gate (PReLU)",
        "mean (AdaptiveAvgPool2d to 2",
    ):
        assert part in message
    assert "fc (" not in message
    assert "\n" not in message


def test_sums_and_products_that_cannot_be_taken() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c1, self.c2 = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.c1(x)
            z = (y + self.c2(x)) * y
            return F.softmax((z + 1).mean(3).flatten(1), 1)

    with pytest.raises(CompileError) as refused:
        trace(Odd(), SHAPE)
    message = str(refused.value)
    for part in (
        "add (a sum of [4, 9, 8] and [4, 7, 6]: of alike tensors)",
        "add_1 (a sum of two tensors)",
        "mean (a mean over 3: over both sides of a map, (2, 3))",
        "softmax (softmax)",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("layers", "quoted"),
    [
        ([nn.Conv2d(2, 3, 3, dilation=2)], r"_0 \(Conv2d of dilation=\(2, 2\): 1 allowed\)"),
        ([nn.Conv2d(2, 3, 3, stride=3)], r"stride=\(3, 3\): 1 or 2, alike both ways allowed"),
        ([nn.Conv2d(2, 3, 3, stride=(1, 2))], r"stride=\(1, 2\)"),
        ([nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")], "padding_mode='reflect'"),
        ([nn.Conv2d(2, 3, 33, padding=16)], r"padding=\(16, 16\): up to 15"),
        ([nn.Conv2d(2, 3, 3, stride=(1, 2), groups=1, dilation=2)], r"dilation=.*; stride="),
        ([nn.Conv2d(2, 3, 1, padding=1)], r"_0 \(Conv2d of one tap with padding and a bias"),
        ([nn.Conv2d(2, 3, 1, padding=1, bias=False), nn.BatchNorm2d(3)], r"_1 \(Conv2d of one tap with padding and a"),
        ([nn.Conv2d(2, 3, 10)], "10 x 10 taps on a map of 9 x 8 pixels: it does not fit"),
        ([nn.MaxPool2d(3, stride=2)], r"_0 \(MaxPool2d: its stride is its kernel, without padding"),
        ([nn.MaxPool2d(3, padding=1)], "MaxPool2d: its stride is its kernel"),
        ([nn.MaxPool2d(2, dilation=2)], "MaxPool2d: its stride is its kernel"),
        ([nn.MaxPool2d(10)], r"MaxPool2d of \(10, 10\) pixels on a map of 9 x 8"),
        ([nn.BatchNorm2d(2)], "BatchNorm2d: to be folded it directly follows a Conv2d"),
        ([nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)], r"_2 \(BatchNorm2d: to be folded it directly"),
        ([nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.BatchNorm2d(3)], "to be folded it directly follows"),
        ([nn.Conv2d(2, 3, 3), nn.PReLU(), nn.BatchNorm2d(3)], "PReLU.*to be folded it directly follows"),
        ([nn.Conv2d(2, 3, 3), nn.Sigmoid(), nn.BatchNorm2d(3)], "to be folded it directly follows"),
        ([nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)], "keeps no running statistics"),
        ([nn.Conv2d(2, 3, 3), nn.BatchNorm2d(4)], "BatchNorm2d of 4 channels after 3"),
        ([nn.ReLU(), nn.Conv2d(2, 3, 3)], r"_0 \(a ReLU follows a Conv2d or Linear\)"),
        ([nn.Linear(8, 3), nn.Conv2d(2, 3, 3)], r"_0 \(Linear of samples of shape \(2, 9, 8\): a Flatten comes before"),
        ([nn.Flatten(2)], "Flatten of dimensions 2 to -1: all of a sample's"),
        ([nn.Flatten(), nn.Conv2d(2, 3, 3)], r"_1 \(Conv2d of samples of shape \(144,\)"),
        ([nn.Flatten(), nn.MaxPool2d(2)], r"_1 \(MaxPool2d of samples of shape \(144,\)"),
    ],
)
def test_parts_that_cannot_be_taken(layers: list[nn.Module], quoted: str) -> None:
    with pytest.raises(CompileError, match=quoted):
        trace(nn.Sequential(*layers, nn.Flatten(), nn.Linear(1, 3)), SHAPE)


def test_a_normalisation_used_twice() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c1, self.c2, self.norm = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
            self.fc = nn.Linear(144, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.norm(self.c2(self.norm(self.c1(x)))).flatten(1))

    with pytest.raises(CompileError, match=r"norm \(BatchNorm2d used twice.*norm_1 \(BatchNorm2d used twice"):
        trace(Shared(), SHAPE)


@pytest.mark.parametrize(
    ("module", "quoted"),
    [
        (nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(126, 3)), "'0' takes 1 channels, the sample .* 2"),
        (
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(127, 3)),
            "'2' takes 127 features, '0' .* 126",
        ),
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten()), r"gives \[126\] of a map of 7 x 6 pixels"),
        (nn.Sequential(nn.Conv2d(2, 3, (9, 8))), r"gives \[3, 1, 1\] of a map of 1 x 1"),
        (nn.Sequential(nn.Conv2d(2, 3, (9, 8)), nn.ReLU(), nn.Flatten()), "a ReLU follows the last layer"),
        (nn.Sequential(nn.MaxPool2d(2), nn.Flatten()), "no Conv2d or Linear layer"),
    ],
)
def test_students_that_are_none(module: nn.Module, quoted: str) -> None:
    with pytest.raises(CompileError, match=quoted):
        trace(module, SHAPE)


def test_views_that_are_no_flatten() -> None:
    class View(nn.Module):
        def __init__(self, *sizes: int) -> None:
            super().__init__()
            self.fc, self._sizes = nn.Linear(144, 3), sizes

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.view(*self._sizes))

    for sizes, quoted in (((-1, 72), "a view of 72 features"), ((4, -1), "no Flatten"), ((-1, 12, 12), "no Flatten")):
        with pytest.raises(CompileError, match=quoted):
            trace(View(*sizes), SHAPE)


def test_maps_that_no_instruction_can_name() -> None:
    with pytest.raises(CompileError, match=r"a map of 300 x 8 pixels: up to 255 x 255"):
        trace(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(1, 3)), (2, 300, 8))
