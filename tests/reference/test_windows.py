"""The reference's windows against PyTorch's convolutions and pools, and by hand where PyTorch has nothing to say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d, max_pool2d

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory
from tests.reference.machine import ReferenceMachine
from tests.reference.plain import (
    CORE,
    UPDATE,
    WEIGHT,
    counts,
    feature_map,
    generators,
    kernel,
    kernels,
    placed,
    run,
    sides,
    tensor,
)
from tests.reference.training import convolution, pooling
from tests.reference.windows import area, meetings, operands


@settings(max_examples=80)
@given(sides, kernels, st.integers(0, 1), st.integers(0, 2), counts, counts, counts, st.integers(0, 1), generators)
def test_a_convolution_is_pytorchs(
    side: tuple[int, int],
    taps: tuple[int, int],
    stride: int,
    pad: int,
    batch: int,
    inputs: int,
    outputs: int,
    bias: int,
    generator: torch.Generator,
) -> None:
    assume(all(length + 2 * pad >= size for length, size in zip(side, taps, strict=True)))
    window = convolution(side, taps, stride, pad)
    x, w = tensor(generator, batch, inputs, *side), tensor(generator, outputs, inputs, *taps)
    b = tensor(generator, outputs)
    y = conv2d(x, w, b if bias else None, stride=1 + stride, padding=pad)
    dy = tensor(generator, *y.shape)
    y.backward(dy)

    weights = [row + [int(b[o])] * bias for o, row in enumerate(kernel(w))]
    forward: dict[str, Any] = {"opcode": Opcode.FORWARD, "rows": batch, "cols": outputs, "depth": inputs + bias}
    machine, got = run(placed(forward | {"bias": bias} | WEIGHT | window), a=feature_map(x), b=weights)
    assert got == feature_map(y)
    met = meetings(placed(forward | WEIGHT | window))
    alone = sum(1 for q in range(y[0, 0].numel()) if not any(pixel == q for pixel, _ in met))
    # What meets nothing takes a step; of a tap that has the bias beside it, all.
    nothing = inputs if bias and taps == (1, 1) else 1 - bias
    assert machine.macs == batch * outputs * (len(met) * inputs + bias * y[0, 0].numel() + nothing * alone)

    backward = {"opcode": Opcode.BACKWARD, "rows": batch, "cols": inputs, "depth": outputs}
    _, got = run(placed(backward | WEIGHT | window), a=feature_map(dy), b=kernel(w))
    assert x.grad is not None
    assert got == feature_map(x.grad)

    update = {"opcode": Opcode.UPDATE, "rows": outputs, "cols": inputs + bias, "depth": batch, "bias": bias}
    instruction = placed(update | UPDATE | window)
    _, got = run(instruction, a=feature_map(dy), b=feature_map(x))
    assert w.grad is not None
    # A bias beside the columns of a single tap is of that tap's pixels.
    of_all = area(instruction, "kernel") > 1 or len(met) == area(instruction, "out")
    for o, row in enumerate(kernel(w.grad)):
        assert [-v for v in got[o][: len(row)]] == row
        if bias and of_all:
            assert b.grad is not None
            assert -got[o][-1] == int(b.grad[o])


@settings(max_examples=80)
@given(sides, kernels, counts, counts, st.booleans(), st.booleans(), generators)
def test_a_pool_is_pytorchs(
    side: tuple[int, int],
    taps: tuple[int, int],
    batch: int,
    channels: int,
    whole: bool,
    relu: bool,
    generator: torch.Generator,
) -> None:
    """Few distinct values: most windows have several maxima. `whole` leaves out what no whole window covers."""
    assume(all(length >= size for length, size in zip(side, taps, strict=True)))
    window = pooling(side, taps)
    if whole:
        window |= {"out_height": side[0] // taps[0], "out_width": side[1] // taps[1]}
    x = tensor(generator, batch, channels, *side)
    shown = torch.relu(x) if relu else x
    y = max_pool2d(shown, taps, ceil_mode=not whole)
    dy = tensor(generator, *y.shape)
    y.backward(dy)
    sizes = {"rows": batch, "cols": channels}
    _, got = run(placed({"opcode": Opcode.POOL} | sizes | window), a=feature_map(shown))
    assert got == feature_map(y)
    unpool = {"opcode": Opcode.UNPOOL, "mask": int(relu)}
    _, got = run(placed(unpool | sizes | window), a=feature_map(dy), b=feature_map(shown))
    assert x.grad is not None
    assert got == feature_map(x.grad)


def test_taps_that_meet_nothing() -> None:
    """A map of one pixel, a kernel of 1 x 2, three output pixels a pixel apart, the first a pixel to the left."""
    window = {"out_width": 3, "kernel_width": 2, "pad_width": 1}
    weights = [[2, 3, 5]]
    forward = {"opcode": Opcode.FORWARD, "rows": 1, "cols": 1, "depth": 2, "bias": 1, "bias_exponent": 2} | window
    machine, got = run(placed(forward | WEIGHT), a=[[10]], b=weights)
    # The third output pixel meets nothing: its bias of 5 * 2**2 is left, one step.
    assert got == [[30 + 20], [20 + 20], [20]]
    assert machine.macs == 5
    update = {"opcode": Opcode.UPDATE, "rows": 1, "cols": 2, "depth": 1, "bias": 1, "bias_exponent": 2} | window
    machine, got = run(placed(update | UPDATE), a=[[7], [11], [13]], b=[[10]])
    # Tap 0 meets the pixel from output pixel 1, tap 1 from 0; the bias is of all three.
    assert got == [[-110, -70, -4 * 31]]
    assert machine.macs == 1 + 1 + 3
    backward = {"opcode": Opcode.BACKWARD, "rows": 1, "cols": 1, "depth": 1} | window
    machine, got = run(placed(backward | WEIGHT), a=[[7], [11], [13]], b=[[2, 3]])
    assert got == [[11 * 2 + 7 * 3]]
    assert machine.macs == 2


def test_a_single_tap_and_the_border() -> None:
    """With one tap the bias column has that tap's terms; what it does not meet takes a step and no term."""
    window = {"map_width": 2, "out_width": 4, "pad_width": 1}
    update = {"opcode": Opcode.UPDATE, "rows": 1, "cols": 2, "depth": 1, "bias": 1, "bias_exponent": 0} | window
    machine, got = run(placed(update | UPDATE), a=[[7], [11], [13], [17]], b=[[2], [3]])
    assert got == [[-(11 * 2 + 13 * 3), -(11 + 13)]]
    assert machine.macs == 2 * 2
    forward = {"opcode": Opcode.FORWARD, "rows": 1, "cols": 1, "depth": 1} | window
    machine, got = run(placed(forward | WEIGHT), a=[[2], [3]], b=[[5]])
    assert got == [[0], [10], [15], [0]]
    assert machine.macs == 4
    far = {"map_width": 2, "out_width": 1, "pad_width": 3}
    machine, got = run(placed(update | UPDATE | far), a=[[7]], b=[[2], [3]])
    assert got == [[0, 0]]
    assert machine.macs == 2


def test_pools_beyond_the_map() -> None:
    """Three pixels, windows of two: the second has one, the third none; with one window, the third pixel has none."""
    sizes = {"rows": 1, "cols": 1, "map_width": 3, "kernel_width": 2}
    machine, got = run(placed({"opcode": Opcode.POOL, **sizes, "out_width": 3}), a=[[-4], [-4], [-9]])
    assert got == [[-4], [-9], [-(2**15)]]
    assert (machine.macs, machine.instructions) == (0, 1)
    _, got = run(placed({"opcode": Opcode.UNPOOL, **sizes, "out_width": 1}), a=[[6]], b=[[-4], [-4], [-9]])
    assert got == [[6], [0], [0]]
    masked = {"opcode": Opcode.UNPOOL, "mask": 1, **sizes, "out_width": 2}
    _, got = run(placed(masked), a=[[6], [8]], b=[[0], [-1], [5]])
    assert got == [[0], [0], [8]]


def test_grouped_weights_by_hand() -> None:
    """Two taps of five columns and a bias on four banks: two words a tap, one for the bias."""
    load = Instruction(
        opcode=Opcode.LOAD, memory=Memory.WGT, rows=2, cols=6, bias=1, kernel_width=2, d_base=3, d_pitch=6
    )
    machine = ReferenceMachine(CORE)
    beats = [[10 * word + lane for lane in range(4)] for word in range(10)]
    machine.execute(load.encode(), beats)
    words = machine.memory[Memory.WGT]
    assert words[3:8] == [[0, 1, 2, 3], [10, 0, 0, 0], [20, 21, 22, 23], [30, 0, 0, 0], [40, 0, 0, 0]]
    assert words[8] == [0] * 4
    assert words[9:14] == [[53, 50, 51, 52], [0, 60, 0, 0], [73, 70, 71, 72], [0, 80, 0, 0], [0, 90, 0, 0]]
    assert operands(load)["d"].words(4) == [[0, 1, 2, 3], [4], [5, 6, 7, 8], [9], [10]]


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.STORE])
def test_a_map_is_a_row_for_each_pixel_and_sample(opcode: Opcode) -> None:
    operand = "d" if opcode is Opcode.LOAD else "a"
    grid = operands(Instruction(opcode=opcode, rows=3, cols=5, map_height=2, map_width=4))[operand]
    assert (grid.rows, grid.groups) == (24, (5,))
