import re

import numpy as np
import pytest
import torch
from torch import nn

from insitu.models.errors import InvalidInputError, StudentError
from insitu.models.mobile import V1, v1_blocks
from insitu.models.scaling import Coefficients, Size, grid, ladder, resized
from insitu.models.students import build

PAPER = Coefficients(depth=1.2, width=1.1, resolution=1.15)  # EfficientNet-B0's


def test_the_papers_coefficients_are_near_two():
    assert PAPER.product == pytest.approx(1.92, abs=0.005)


def test_a_grid_has_every_combination_within_the_tolerance():
    found = grid(step=0.1, product=2.0, tolerance=0.1)
    steps = [round(1 + i / 10, 1) for i in range(20)]
    wanted = {(d, w, r) for d in steps for w in steps for r in steps if 1.9 - 1e-9 <= d * w * w * r * r <= 2.1 + 1e-9}
    assert {(c.depth, c.width, c.resolution) for c in found} == wanted
    assert len(found) == len(wanted)
    assert (1.2, 1.1, 1.2) in wanted  # depth, width and resolution all above 1


@pytest.mark.parametrize(
    ("arguments", "quoted"),
    [
        ({"step": 0}, "step 0"),
        ({"step": 1e-4}, "allowed: step >= 0.01"),
        ({"product": 0.5}, "product 0.5"),
        ({"tolerance": -1}, "tolerance -1"),
        ({"step": 0.7, "tolerance": 0.01}, "in steps of 0.7 is within 0.01 of 2.0"),
    ],
)
def test_grids_that_are_none(arguments, quoted):
    with pytest.raises(InvalidInputError, match=quoted):
        grid(**arguments)


@pytest.mark.parametrize("value", [0.9, float("nan"), float("inf"), 1e300])
def test_a_coefficient_is_at_least_one_and_no_more_than_a_multiplier(value):
    with pytest.raises(InvalidInputError, match=re.escape(f"coefficient width {value}; allowed")):
        Coefficients(depth=1, width=value, resolution=1)


def test_a_size_has_each_coefficient_to_the_power_of_phi():
    size = PAPER.at(2, 28)
    assert (size.depth, size.width, size.side) == (1.44, 1.21, 37)
    assert PAPER.at(3, 28).side == 43  # of 42.6
    assert PAPER.at(0, 28) == Size(phi=0, depth=1, width=1, side=28)
    smaller = PAPER.at(-1, 28)
    assert (smaller.depth, smaller.width, smaller.side) == (0.8333, 0.9091, 24)


def test_depth_multiplies_the_blocks_of_a_stage_rounded_up():
    def stages(depth):
        strides = [block.stride for block in v1_blocks(1.0, depth)]
        starts = [i for i, stride in enumerate(strides) if stride == 2] + [len(strides)]
        return [starts[0], *(b - a for a, b in zip(starts, starts[1:], strict=False))]

    assert v1_blocks(1.0, 1.0) == V1
    assert [stages(depth) for depth in (0.3, 1.0, 1.1, 1.5, 2.0, 2.1)] == [
        [1, 1, 1],
        [1, 2, 2],
        [2, 3, 3],
        [2, 3, 3],
        [2, 4, 4],
        [3, 5, 5],
    ]


def test_width_multiplies_channels_to_multiples_of_eight():
    assert [block.channels for block in v1_blocks(1.5, 1.0)] == [24, 48, 48, 96, 96]


def test_the_student_is_the_one_the_text_names():
    size = Size(phi=1, depth=1.5, width=0.5, side=12)
    assert size.spec == "mobilenet-v1:depth=1.5,width=0.5"
    module = size.build(channels=1, classes=10, seed=3).eval()
    depthwise = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [m.out_channels for m in depthwise] == [8, 8, 8, 16, 16, 16, 32, 32]
    assert [m.stride[0] for m in depthwise] == [1, 1, 2, 1, 1, 2, 1, 1]
    assert module(torch.zeros(2, 1, 12, 12)).shape == (2, 10)
    again = build(size.spec, in_shape=(1, 12, 12), classes=10, seed=3).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in module.state_dict().items())


def test_every_product_near_two_doubles_the_work_where_nothing_is_rounded():
    def work(size):
        """Multiply-accumulates of the point-wise convolutions after the first, in the limit of a large base."""
        return size.depth * size.width**2 * size.side**2

    for coefficients in grid():
        growth = work(coefficients.at(1, 1000)) / work(coefficients.at(0, 1000))
        assert growth == pytest.approx(coefficients.product, rel=1e-2)


@pytest.mark.parametrize("depth", [0, -1, 5])
def test_a_depth_out_of_range(depth):
    with pytest.raises(StudentError, match=f"depth {depth}"):
        build(f"mobilenet-v1:depth={depth}", in_shape=(1, 28, 28), classes=10, seed=0)


def test_a_ladder_has_every_student_once_and_grows():
    sizes = ladder(PAPER, 12)
    students = [(size.blocks, size.side) for size in sizes]
    assert len(set(students)) == len(students)
    assert [size.phi for size in sizes] == sorted(size.phi for size in sizes)
    assert sizes[0].side == 8
    assert sizes[0].phi < 0 < sizes[-1].phi
    assert all(size.taken for size in sizes)
    after = PAPER.at(round(sizes[-1].phi + 0.01, 2), 12)
    assert not after.taken or after.phi > 10
    for size, larger in zip(sizes, sizes[1:], strict=False):
        # Each is at the largest phi that rounds to it.
        stepped = PAPER.at(round(size.phi + 0.01, 2), 12)
        assert (stepped.blocks, stepped.side) == (larger.blocks, larger.side)
        assert sum(b.channels for b in size.blocks) <= sum(b.channels for b in larger.blocks)


def test_a_ladder_of_images_too_small():
    with pytest.raises(InvalidInputError, match="images of 7 x 7; the base student takes 8 x 8"):
        ladder(PAPER, 7)


def test_images_shrink_by_means_and_grow_between_neighbours():
    images = np.zeros((2, 1, 4, 4), dtype=np.float32)
    images[0, 0, :2, :2] = [[0.0, 0.2], [0.4, 1.0]]
    small = resized(images, 2)
    assert small.shape == (2, 1, 2, 2)
    np.testing.assert_allclose(small[0, 0], [[0.4, 0], [0, 0]], atol=1e-6)
    large = resized(images, 8)
    assert large.shape == (2, 1, 8, 8)
    assert large.dtype == np.float32
    assert 0 <= large.min() <= large.max() <= 1
    assert 0.4 < large[0, 0, 2, 2] < 1.0  # between 1.0 and its neighbours: not a copy of the nearest
    assert resized(images, 4) is images


@pytest.mark.parametrize(
    ("images", "side"),
    [
        (np.zeros((2, 1, 4, 4)), 8),
        (np.zeros((2, 4, 4), dtype=np.float32), 8),
        (np.zeros((2, 1, 4, 4), dtype=np.float32), 0),
    ],
)
def test_images_that_cannot_be_resized(images, side):
    with pytest.raises(InvalidInputError, match=f"to a side of {side}; expected float32"):
        resized(images, side)
