import pytest
import torch
from torch import nn

from insitu.models.errors import StudentError
from insitu.models.mobile import V1, V3, InvertedResidual, mobilenet_v1, mobilenet_v2, mobilenet_v3, scaled
from insitu.models.students import build


def convolutions(module):
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def test_version_1_is_separable():
    found = [
        (c.out_channels, c.kernel_size[0], c.stride[0], c.groups) for c in convolutions(mobilenet_v1((1, 28, 28), 10))
    ]
    assert found[:5] == [(16, 3, 1, 1), (16, 3, 1, 16), (16, 1, 1, 1), (16, 3, 2, 16), (32, 1, 1, 1)]
    assert len(found) == 1 + 2 * len(V1)


def test_version_3_has_its_blocks():
    blocks = [m for m in mobilenet_v3((3, 32, 32), 10).modules() if isinstance(m, InvertedResidual)]
    assert [b.residual for b in blocks] == [False, False, False, True]
    kernels = [next(c.kernel_size[0] for c in convolutions(b) if c.groups > 1) for b in blocks]
    assert kernels == [block.kernel for block in V3]
    squeezed = [any(isinstance(m, nn.Hardsigmoid) for m in b.modules()) for b in blocks]
    assert squeezed == [block.squeeze for block in V3]


def test_version_2_is_inverted():
    blocks = [m for m in mobilenet_v2((1, 28, 28), 10, blocks=2).modules() if isinstance(m, InvertedResidual)]
    assert [b.residual for b in blocks] == [False, True]
    assert [convolutions(b)[1].stride[0] for b in blocks] == [2, 1]
    assert all(isinstance(b.layers[-1], nn.BatchNorm2d) for b in blocks)  # no activation after narrowing


@pytest.mark.parametrize("name", ["mobilenet-v1", "mobilenet-v2", "mobilenet-v3"])
def test_width_multiplies_channels_and_blocks_are_counted(name):
    def size(options):
        return sum(p.numel() for p in build(f"{name}{options}", in_shape=(1, 16, 16), classes=10, seed=0).parameters())

    assert size(":width=0.5") < size("") < size(":width=2")
    assert size(":blocks=1") < size(":blocks=2") < size("")


def test_channels_are_multiples_of_eight_and_no_less_than_nine_tenths():
    assert [scaled(16, w) for w in (0.25, 0.5, 1, 1.4)] == [8, 8, 16, 24]
    assert all(scaled(c, w) % 8 == 0 and scaled(c, w) >= 0.9 * c * w for c in range(8, 97) for w in (0.35, 0.75, 1.3))


def test_activations_keep_their_size_from_layer_to_layer():
    torch.manual_seed(0)
    module = mobilenet_v1((1, 28, 28), 10).eval()
    x = torch.randn(8, 1, 28, 28)
    seen = []
    for layer in module:
        x = layer(x)
        seen += [x.std().item()] if isinstance(layer, nn.ReLU) else []
    assert max(seen) < 20 * min(seen)


@pytest.mark.parametrize(
    ("spec", "quoted"),
    [
        ("mobilenet-v1:width=0", "width 0; allowed are"),
        ("mobilenet-v1:blocks=9", "9 blocks; allowed are 1 to 5"),
        ("mobilenet-v1:blocks=1.5", "1.5 blocks; allowed are 1 to 5"),
        ("mobilenet-v3:depth=2", "no option 'depth'; it has width, blocks"),
        ("mobilenet-v3:width", "option 'width'; write name=number"),
        ("lenet:width=2", "no option 'width'; it has none"),
    ],
)
def test_options_that_are_none(spec, quoted):
    with pytest.raises(StudentError, match=quoted):
        build(spec, in_shape=(1, 28, 28), classes=10, seed=0)
