import pytest
import torch
from torch import nn

from insitu.models.convolutional import CONVOLUTIONAL, cnn, lenet, vgg
from insitu.models.errors import StudentError
from insitu.models.students import build


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("in_shape", [(1, 28, 28), (3, 32, 32), (1, 12, 13)])
def test_build_gives_logits_of_images_of_any_size(name, in_shape):
    model = build(name, in_shape=in_shape, classes=7, seed=0)
    assert model(torch.zeros(2, *in_shape)).shape == (2, 7)


def test_layers():
    def weights(model):
        return [tuple(m.weight.shape) for m in model if isinstance(m, nn.Conv2d | nn.Linear)]

    lecun = [(6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)]
    assert weights(lenet((1, 28, 28), 10)) == lecun
    assert weights(cnn((1, 28, 28), 10)) == [(16, 1, 3, 3), (32, 16, 3, 3), (128, 1568), (10, 128)]
    wide = [(32, 1, 5, 5), (64, 32, 5, 5), (128, 3136), (10, 128)]
    assert weights(CONVOLUTIONAL["lenet-wide"]((1, 28, 28), 10)) == wide
    first, second = [(32, 3, 3, 3), (32, 32, 3, 3)], [(64, 32, 3, 3), (64, 64, 3, 3)]
    assert weights(vgg((3, 32, 32), 10)) == [*first, *second, (128, 4096), (10, 128)]
    for model in (lenet((1, 28, 28), 10), cnn((1, 28, 28), 10), vgg((1, 28, 28), 10)):
        assert sum(isinstance(m, nn.MaxPool2d) for m in model) == 2
        assert not isinstance(model[-1], nn.ReLU)


def test_seed_alone_decides_and_global_state_stays():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (build("cnn", in_shape=(1, 8, 8), classes=10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)


@pytest.mark.parametrize(
    ("name", "in_shape"), [("lenet", (1, 11, 28)), ("cnn", (1, 3, 28)), ("vgg", (1, 28, 3)), ("cnn", (784,))]
)
def test_images_that_are_too_small(name, in_shape):
    with pytest.raises(StudentError, match=f"'{name}' takes .* or more; not {' x '.join(map(str, in_shape))}"):
        build(name, in_shape=in_shape, classes=10, seed=0)
