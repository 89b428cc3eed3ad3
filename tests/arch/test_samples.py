"""How samples lie in a tensor: sources, ranges, round trips."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from insitu.arch.errors import ArchError
from insitu.arch.samples import Samples
from insitu.arch.window import Window
from tests.arch.test_program import make

#: Channels 2, map 3 x 2, kernel 2 x 2 with a row of padding above: out 3 x 1.
PATCHES = Samples(
    channels=2,
    window=Window(map_height=3, map_width=2, out_height=3, out_width=1, kernel_height=2, kernel_width=2, pad_height=1),
)


def test_sources_of_patches() -> None:
    assert (PATCHES.features, PATCHES.pixels, PATCHES.cols, PATCHES.shape) == (12, 3, 8, (2, 3, 2))
    # Features: channel 0 is 0..5, channel 1 is 6..11, row-major. Columns: tap by tap, both channels of each.
    above, first, second, third = [-1] * 4, [0, 6, 1, 7], [2, 8, 3, 9], [4, 10, 5, 11]
    np.testing.assert_array_equal(PATCHES.sources, [above + first, first + second, second + third])


def test_a_map_is_a_row_a_pixel() -> None:
    samples = Samples(channels=3, window=Window(map_height=2, map_width=2, out_height=2, out_width=2))
    np.testing.assert_array_equal(samples.sources, np.arange(12).reshape(3, 4).T)


def test_plain_samples_are_as_they_are() -> None:
    np.testing.assert_array_equal(Samples(channels=5).sources, [[0, 1, 2, 3, 4]])


def test_json_round_trip() -> None:
    assert Samples.from_json(PATCHES.to_json()) == PATCHES
    assert all(type(value) is int for value in PATCHES.to_json().values())


@pytest.mark.parametrize(
    ("changes", "quoted"),
    [
        ({"channels": 0}, "channels=0: allowed are 1 to 65535"),
        ({"channels": True}, "channels=True"),
        ({"map_height": 256}, "map_height=256: allowed are 1 to 255"),
        ({"kernel_width": 0}, "kernel_width=0"),
        ({"pad_width": -1}, "pad_width=-1"),
        ({"out_width": 2.0}, "out_width=2.0"),
        ({"extra": 1}, "expected exactly channels"),
    ],
)
def test_what_is_none_is_refused(changes: dict[str, Any], quoted: str) -> None:
    with pytest.raises(ArchError, match=quoted):
        Samples.from_json(PATCHES.to_json() | changes)


def test_a_field_that_is_missing_is_refused() -> None:
    whole = PATCHES.to_json()
    for name in ("channels", *asdict(Window())):
        with pytest.raises(ArchError, match="expected exactly"):
            Samples.from_json({k: v for k, v in whole.items() if k != name})


def test_a_program_keeps_them_and_refuses_those_that_do_not_fill_the_tensor() -> None:
    plain = make()
    x = replace(plain.tensors["x"], samples=Samples(channels=3))
    program = make(tensors={**plain.tensors, "x": x})
    assert type(program).from_bytes(program.to_bytes()) == program
    wrong = replace(x, samples=Samples(channels=4))
    with pytest.raises(ArchError, match=r"tensor 'x' of \(2, 3\): 2 of its samples take \(2, 4\)"):
        make(tensors={**plain.tensors, "x": wrong})
