"""The reference's vector passes against PyTorch's depthwise convolutions and products, and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d, conv2d

from insitu.arch.isa import Opcode
from insitu.arch.layout import Memory
from tests.reference import vectors
from tests.reference.machine import ReferenceMachine
from tests.reference.plain import (
    CORE,
    UPDATE,
    WEIGHT,
    counts,
    feature_map,
    generators,
    kernels,
    placed,
    put,
    run,
    sides,
    tensor,
)
from tests.reference.training import convolution, pooling
from tests.reference.windows import operands

ADDED = {"opcode": Opcode.ADD, "rows": 1, "cols": 2, "width": 16, "sa": 1, "sb": 2, "sd": 3}


def taps(w: torch.Tensor) -> list[list[int]]:
    """[channels, 1, height, width] -> a row for each tap."""
    return w.detach().flatten(1).T.to(torch.int64).tolist()


@settings(max_examples=80)
@given(sides, kernels, st.integers(0, 1), st.integers(0, 2), counts, counts, st.integers(0, 1), generators)
def test_a_depthwise_convolution_is_pytorchs(
    side: tuple[int, int],
    size: tuple[int, int],
    stride: int,
    pad: int,
    batch: int,
    channels: int,
    bias: int,
    generator: torch.Generator,
) -> None:
    assume(all(length + 2 * pad >= taken for length, taken in zip(side, size, strict=True)))
    window = convolution(side, size, stride, pad)
    x, w = tensor(generator, batch, channels, *side), tensor(generator, channels, 1, *size)
    b = tensor(generator, channels)
    y = conv2d(x, w, b if bias else None, stride=1 + stride, padding=pad, groups=channels)
    dy = tensor(generator, *y.shape)
    y.backward(dy)
    sizes = {"rows": batch, "cols": channels}

    weights = taps(w) + [b.detach().to(torch.int64).tolist()] * bias
    forward: dict[str, Any] = {"opcode": Opcode.DW_FORWARD, "bias": bias} | sizes | WEIGHT | window
    machine, got = run(placed(forward), a=feature_map(x), b=weights)
    assert got == feature_map(y)
    assert machine.macs == 0

    _, got = run(placed({"opcode": Opcode.DW_BACKWARD} | sizes | WEIGHT | window), a=feature_map(dy), b=taps(w))
    assert x.grad is not None
    assert got == feature_map(x.grad)

    update: dict[str, Any] = {"opcode": Opcode.DW_UPDATE, "bias": bias} | sizes | UPDATE | window
    _, got = run(placed(update), a=feature_map(dy), b=feature_map(x))
    assert w.grad is not None
    assert b.grad is not None or not bias
    gradients = taps(w.grad) + ([b.grad.to(torch.int64).tolist()] if b.grad is not None else [])
    assert [[-v for v in row] for row in got] == gradients


@settings(max_examples=40)
@given(sides, kernels, counts, counts, generators)
def test_a_constant_sums_as_an_average_does(
    side: tuple[int, int], size: tuple[int, int], batch: int, channels: int, generator: torch.Generator
) -> None:
    """A mean is a sum times a constant: side by side of kernels of one or two taps a side, that a stride allows."""
    size = (min(size[0], 2), min(size[1], 2))
    size = (size[0], size[0])
    assume(all(length >= taken for length, taken in zip(side, size, strict=True)))
    window = pooling(side, size) | {"out_height": side[0] // size[0], "out_width": side[1] // size[1]}
    window |= {"stride": size[0] - 1}
    x = tensor(generator, batch, channels, *side)
    y = avg_pool2d(x, size, divisor_override=1) * 3
    dy = tensor(generator, *y.shape)
    y.backward(dy)
    sizes = {"rows": batch, "cols": channels, "width": 16, "constant": 3}
    _, got = run(placed({"opcode": Opcode.DW_FORWARD} | sizes | window), a=feature_map(x))
    assert got == feature_map(y)
    _, got = run(placed({"opcode": Opcode.DW_BACKWARD} | sizes | window), a=feature_map(dy))
    assert x.grad is not None
    assert got == feature_map(x.grad)


@settings(max_examples=40)
@given(sides, counts, counts, generators)
def test_a_gate_of_channels_and_its_gradients_are_pytorchs(
    side: tuple[int, int], batch: int, channels: int, generator: torch.Generator
) -> None:
    """y = x * g, g one pixel: a product, its gradient in x another, that in g a sum over pixels."""
    x, g = tensor(generator, batch, channels, *side), tensor(generator, batch, channels, 1, 1)
    y = x * g
    dy = tensor(generator, *y.shape)
    y.backward(dy)
    sizes = {"rows": batch, "cols": channels, "width": 16, "map_height": side[0], "map_width": side[1]}
    product: dict[str, Any] = {"opcode": Opcode.MULTIPLY, "broadcast": 1} | sizes
    _, got = run(placed(product), a=feature_map(x), b=feature_map(g))
    assert got == feature_map(y)
    _, got = run(placed(product | {"memory": Memory.ERR}), a=feature_map(dy), b=feature_map(g))
    assert x.grad is not None
    assert got == feature_map(x.grad)
    _, got = run(placed({"opcode": Opcode.REDUCE} | sizes), a=feature_map(dy), b=feature_map(x))
    assert g.grad is not None
    assert got == feature_map(g.grad)


@pytest.mark.parametrize(
    ("ea", "eb", "expected"),
    [
        (0, 0, (1, 1, 0)),
        (3, 1, (4, 1, 1)),
        (-6, -5, (1, 2, -6)),
        (14, 0, (1 << 14, 1, 0)),
        (15, 0, (1, 0, 15)),
        (-20, -6, (1, 1 << 14, -20)),
        (-20, -5, (0, 1, -5)),
    ],
)
def test_alignment_by_hand(ea: int, eb: int, expected: tuple[int, int, int]) -> None:
    assert vectors.alignment(ea, eb) == expected


@pytest.mark.parametrize(
    ("ea", "eb", "ed", "expected"),
    [
        (2, 0, 0, [4 * 5 + 7, -4 * 6 + 9]),
        (0, 3, 0, [5 + 8 * 7, -6 + 8 * 9]),
        # Of exponent -1, narrowed to 1: two bits are dropped.
        (-1, 0, 1, [(5 + 2 * 7) >> 2, (-6 + 2 * 9) >> 2]),
        (20, 0, 20, [5, -6]),
        (0, 15, 15, [7, 9]),
    ],
)
def test_a_sum_by_hand(ea: int, eb: int, ed: int, expected: list[int]) -> None:
    i = placed(ADDED)
    machine = ReferenceMachine(CORE)
    machine.scale[1:4] = [(ea, 0), (eb, 0), (ed, 0)]
    put(machine, operands(i)["a"], [[5, -6]])
    put(machine, operands(i)["b"], [[7, 9]])
    machine.execute(i.encode())
    assert machine.read(operands(i)["d"]) == [expected]


def test_a_table_by_hand() -> None:
    """Four words at 8 and on, chosen by bits 1 and 2: -4 and -3 the first of them, 2 and 3 the last; 4 goes around."""
    machine = ReferenceMachine(CORE)
    machine.memory[Memory.TAB][8:12] = [[10 * word + lane for lane in range(4)] for word in range(4)]
    tabled = {"table_base": 8, "table_bits": 2, "table_drop": 1, "rows": 1, "cols": 6}
    look = placed({"opcode": Opcode.LOOKUP} | tabled)
    put(machine, operands(look)["a"], [[-4, -3, -2, 3, 4, 0]])
    machine.execute(look.encode())
    assert machine.read(operands(look)["d"]) == [[0, 1, 12, 33, 0, 21]]
    # The product takes the table's word in B's place: lane 0 again from column 4 on.
    product = placed({"opcode": Opcode.MULTIPLY, "memory": Memory.ERR, "width": 16} | tabled)
    put(machine, operands(product)["a"], [[1, -1, 2, 1, 5, 1]])
    put(machine, operands(product)["b"], [[-4, -3, -2, 3, 2, 0]])
    machine.execute(product.encode())
    assert machine.read(operands(product)["d"]) == [[0, -1, 24, 33, 150, 21]]
    assert machine.saturated == 0
