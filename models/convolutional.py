"""Convolutional students by name, for images of any size that holds them."""

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import nn

from insitu.models.errors import StudentError
from insitu.models.mobile import mobilenet_v1, mobilenet_v2, mobilenet_v3


def lenet(in_shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """LeNet-5 as it is built today (LeCun et al. 1998, figure 2; ReLU and maximum pooling): 5 x 5 convolutions of 6 and
    16 channels, each pooled by 2, then 120, 84 and `classes` outputs.

    Args:
        in_shape: (channels, height, width) of an image, from 12 x 12 up.

    Raises:
        StudentError: an image of another shape, or a smaller one.
    """
    channels, height, width = _image("lenet", in_shape, least=12)
    head = (16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2), 120, 84, classes)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        *_head(head),
    )


def cnn(in_shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """3 x 3 convolutions of 16 and 32 channels, each pooled by 2, then 128 and `classes` outputs.

    Args:
        in_shape: (channels, height, width) of an image, from 4 x 4 up.

    Raises:
        StudentError: an image of another shape, or a smaller one.
    """
    channels, height, width = _image("cnn", in_shape, least=4)
    return nn.Sequential(
        *_block(channels, 16, convolutions=1),
        *_block(16, 32, convolutions=1),
        *_head((32 * (height // 4) * (width // 4), 128, classes)),
    )


def vgg(in_shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """A small VGG (Simonyan and Zisserman 2015): pairs of 3 x 3 convolutions of 32 and 64 channels, each pair pooled by
    2, then 128 and `classes` outputs.

    Args:
        in_shape: (channels, height, width) of an image, from 4 x 4 up.

    Raises:
        StudentError: an image of another shape, or a smaller one.
    """
    channels, height, width = _image("vgg", in_shape, least=4)
    return nn.Sequential(
        *_block(channels, 32, convolutions=2),
        *_block(32, 64, convolutions=2),
        *_head((64 * (height // 4) * (width // 4), 128, classes)),
    )


def lenet_wide(in_shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """LeNet's two 5 x 5 convolutions as wide as handwritten digits take them to 99 %: 32 and 64 channels, padded, each
    pooled by 2, then 128 and `classes` outputs.

    Args:
        in_shape: (channels, height, width) of an image, from 4 x 4 up.

    Raises:
        StudentError: an image of another shape, or a smaller one.
    """
    channels, height, width = _image("lenet-wide", in_shape, least=4)
    return nn.Sequential(
        *_block(channels, 32, convolutions=1, kernel=5),
        *_block(32, 64, convolutions=1, kernel=5),
        *_head((64 * (height // 4) * (width // 4), 128, classes)),
    )


#: Students by name: (in_shape, classes, options) -> module.
CONVOLUTIONAL: dict[str, Callable[..., nn.Module]] = {
    "lenet": lenet,
    "lenet-wide": lenet_wide,
    "cnn": cnn,
    "vgg": vgg,
    "mobilenet-v1": mobilenet_v1,
    "mobilenet-v2": mobilenet_v2,
    "mobilenet-v3": mobilenet_v3,
}


def seeded(name: str, in_shape: tuple[int, ...], classes: int, seed: int, **options: float) -> nn.Module:
    """The student of that name, initialised from `seed`; torch's global generator is left as it was. Raises
    StudentError for an option it does not take."""
    factory = CONVOLUTIONAL[name]
    taken = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(set(options) - set(taken)):
        raise StudentError(f"student {name!r} has no option {unknown[0]!r}; it has {', '.join(taken) or 'none'}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory(in_shape, classes, **options)


def _image(name: str, in_shape: tuple[int, ...], least: int) -> tuple[int, int, int]:
    if len(in_shape) != 3 or min(in_shape[1:]) < least:
        shape = " x ".join(map(str, in_shape))
        raise StudentError(f"student {name!r} takes images of channels x H x W, {least} x {least} or more; not {shape}")
    channels, height, width = in_shape
    return channels, height, width


def _block(channels: int, width: int, *, convolutions: int, kernel: int = 3) -> list[nn.Module]:
    """Padded convolutions with ReLU, then a pool by 2."""
    layers: list[nn.Module] = []
    for inputs in [channels] + [width] * (convolutions - 1):
        layers += [nn.Conv2d(inputs, width, kernel, padding=kernel // 2), nn.ReLU()]
    return [*layers, nn.MaxPool2d(2)]


def _head(sizes: Sequence[int]) -> list[nn.Module]:
    """Flatten, then Linear layers with ReLU between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return layers[:-1]
