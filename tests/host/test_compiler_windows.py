"""What the compiler makes of convolutions: instructions, masters, the way samples are sent, places in memory."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from insitu.arch.declaration import Declaration, RoleFormat
from insitu.arch.isa import WINDOW_FIELDS, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.arch.program import Program
from insitu.arch.timing import cost
from insitu.arch.window import Window
from insitu.host.compiler.allocate import Request, place
from insitu.host.compiler.compile import Compiled, compile_module
from insitu.host.device import open_device
from insitu.host.errors import CompileError
from insitu.models.convolutional import cnn

FORMATS = Declaration.parse("w8a8e8g8")
CORE = CoreParams(n=4, act_depth=4096, err_depth=2048, wgt_depth=1024).with_declaration(FORMATS)
SHAPE, BATCH = (3, 6, 5), 2


def student(*, first: int = 3) -> nn.Sequential:
    """A convolution with ReLU and pool, a strided one without bias, a Linear: [n, 3, 6, 5] -> [n, 4]."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, first, padding=first // 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(5, 6, 2, stride=2, padding=(1, 0), bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


def compiled(module: nn.Module | None = None, shape: tuple[int, ...] = SHAPE, **changes: Any) -> Compiled:
    x = np.random.default_rng(0).random((8, *shape), dtype=np.float32)
    given: dict[str, Any] = {"core": CORE, "declaration": FORMATS, "batch": BATCH, "calibration": x}
    return compile_module(module or student(), **given | changes)


def steps(made: Compiled, *opcodes: Opcode) -> list[Instruction]:
    return [i for i in made.program.entry("train") if i.opcode in opcodes]


def window(instruction: Instruction) -> dict[str, int]:
    """The window's fields that are not zero."""
    return {name: value for name in WINDOW_FIELDS if (value := getattr(instruction, name))}


# Instructions.


def test_a_training_steps_passes() -> None:
    made = compiled()
    o = Opcode
    assert [i.opcode for i in made.program.entry("train")] == [
        *(o.LOAD, o.LOAD, o.FORWARD, o.POOL, o.FORWARD, o.FORWARD, o.STORE, o.LOSS),
        *(o.BACKWARD, o.UPDATE, o.BACKWARD, o.UPDATE, o.UNPOOL, o.UPDATE, o.HALT),
    ]
    # What each reads and writes is what the matrices of its tensors are.
    tensors, train = made.program.tensors, made.program.entry("train")
    places = {(t.matrix.memory, t.matrix.base): name for name, t in tensors.items()}
    operands = [{k: places[m.memory, m.base] for k, m in i.matrices.items()} for i in train]
    assert operands[2:] == [
        {"a": "sample", "b": "0.weight", "d": "0.y"},
        {"a": "0.y", "d": "2.y"},
        {"a": "2.y", "b": "3.weight", "d": "3.y"},
        {"a": "3.y", "b": "6.weight", "d": "6.y"},
        {"a": "6.y"},
        {"a": "6.y", "b": "target", "d": "6.error"},
        {"a": "6.error", "b": "6.weight", "d": "3.error", "m": "3.y"},
        {"a": "6.error", "b": "3.y", "d": "6.weight"},
        {"a": "3.error", "b": "3.weight", "d": "2.error"},
        {"a": "3.error", "b": "2.y", "d": "3.weight"},
        {"a": "2.error", "b": "0.y", "d": "0.error"},
        {"a": "0.error", "b": "sample", "d": "0.weight"},
        {},
    ]


def test_windows_and_sizes() -> None:
    made = compiled()
    strided = {"map_height": 3, "map_width": 2, "out_height": 2, "kernel_height": 2, "kernel_width": 2}
    strided |= {"stride": 1, "pad_height": 1}
    whole = {"map_height": 2, "kernel_height": 2}
    forward, backward, update = (steps(made, o) for o in (Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE))
    assert [window(i) for i in forward[1:]] == [strided, whole]
    assert [window(i) for i in backward] == [whole, strided]
    assert [window(i) for i in update[:2]] == [whole, strided]
    assert [(i.rows, i.cols, i.depth, i.bias, i.relu) for i in forward[1:]] == [(2, 6, 5, 0, 1), (2, 4, 7, 1, 0)]
    assert [(i.rows, i.cols, i.depth, i.mask) for i in backward] == [(2, 6, 4, 1), (2, 5, 6, 0)]
    assert [(i.rows, i.cols, i.depth, i.bias) for i in update[:2]] == [(4, 7, 2, 1), (6, 5, 2, 0)]
    pool = {"map_height": 6, "map_width": 5, "out_height": 3, "out_width": 2, "kernel_height": 2, "kernel_width": 2}
    pools = steps(made, Opcode.POOL, Opcode.UNPOOL)
    assert [window(i) for i in pools] == [pool, pool]
    assert [(i.rows, i.cols, i.mask) for i in pools] == [(2, 5, 0), (2, 5, 1)]
    assert not any(getattr(i, f"s{operand}") for i in pools for operand in "abd")


def test_the_mask_of_a_relu_after_the_pool_is_the_pools() -> None:
    module = student()
    module[1], module[2] = module[2], module[1]
    swapped, plain = compiled(module), compiled()
    relu, mask = ([i.relu for i in steps(swapped, Opcode.FORWARD)], [i.mask for i in steps(swapped, Opcode.UNPOOL)])
    assert (relu, mask) == ([1, 1, 0], [1])
    np.testing.assert_array_equal(
        swapped.program.words[:, 1:], plain.program.words[:, 1:]
    )  # all but names and exponents alike


def test_a_pool_shares_its_inputs_scale_registers() -> None:
    tensors = compiled().program.tensors
    assert tensors["2.y"].scale == tensors["0.y"].scale
    assert tensors["2.error"].scale == tensors["0.error"].scale
    moving = [t.scale for name, t in tensors.items() if name.endswith((".y", ".error"))]
    assert len(set(moving)) == len(moving) - 2
    assert (tensors["2.y"].width, tensors["2.y"].layer) == (8, "0")


def test_exponents_that_stay_share_registers_where_there_are_too_few() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(19) for layer in (nn.Linear(4, 4), nn.ReLU())]
    deep = nn.Sequential(nn.Flatten(), nn.Linear(90, 4), nn.ReLU(), *layers, nn.Linear(4, 3))
    with pytest.raises(CompileError, match=r"21 parts take \d+ scale registers, this core has 64: give it scales=128"):
        compiled(deep, declaration=Declaration.parse("w8a8e8g8"))
    plenty = compiled(deep, core=replace(CORE, scales=128)).program
    assert len({t.scale for t in plenty.tensors.values()}) == len(plenty.tensors)
    static = compiled(deep, declaration=Declaration.parse("w8a8e8g8", exponent="static")).program
    assert len(static.scales) <= 64
    stay = {t.scale for name, t in static.tensors.items() if name not in ("41.y", "41.error")}
    assert len({static.scales[index] for index in stay}) == len(stay)
    with open_device(CORE) as driver:
        driver.load(static)
        assert driver.logits_tensor == "41.y"


def test_a_pools_elements_have_the_width_of_the_layer_they_come_from() -> None:
    declaration = replace(FORMATS, layers={"0": {"activation": RoleFormat(width=5), "error": RoleFormat(width=4)}})
    made = compiled(declaration=declaration)
    assert {name: made.program.tensors[name].width for name in ("0.y", "2.y", "0.error", "2.error", "3.y")} == {
        "0.y": 5,
        "2.y": 5,
        "0.error": 4,
        "2.error": 4,
        "3.y": 8,
    }
    assert [i.width for i in steps(made, Opcode.BACKWARD)] == [8, 4]


def test_streams_of_weights_are_told_their_kernel() -> None:
    program = compiled().program
    loads = {i.d_base: i for i in program.entry("load_weights") if i.opcode is Opcode.LOAD}
    stores = {i.a_base: i for i in program.entry("store_weights") if i.opcode is Opcode.STORE}
    for name, groups, tail in (("0.weight", None, None), ("3.weight", 4, 0), ("6.weight", 2, 1)):
        matrix = program.tensors[name].matrix
        assert loads[matrix.base].d == stores[matrix.base].a == matrix
        if groups is not None:
            assert (matrix.groups, matrix.tail) == (groups, tail)


def test_no_error_goes_below_the_first_trained_layer() -> None:
    made = compiled(nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, (3, 2)), nn.Flatten()))
    opcodes = [i.opcode for i in made.program.entry("train")]
    assert Opcode.BACKWARD not in opcodes
    assert Opcode.UNPOOL not in opcodes
    assert "0.error" not in made.program.tensors
    tensors = made.program.tensors
    assert tensors["0.y"].scale == tensors["sample"].scale


def test_a_pool_may_give_the_logits() -> None:
    made = compiled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d((4, 3)), nn.Flatten()))
    loss, unpool = steps(made, Opcode.LOSS, Opcode.UNPOOL)
    assert (loss.d, unpool.a) == (made.program.tensors["1.error"].matrix,) * 2
    assert loss.sd == made.program.tensors["0.error"].scale


# Masters.


def test_masters_are_the_weights_tap_by_tap() -> None:
    module = student()
    made = compiled(module)
    for layer, kernel in ((0, (3, 3)), (3, (2, 2)), (6, (2, 1))):
        name = f"{layer}.weight"
        real = made.program.initial_format(name).real(made.masters[name])
        weight = module[layer].weight.detach().numpy()
        outputs, taps = len(weight), kernel[0] * kernel[1]
        # [outputs, kernel height, kernel width, channels]
        tapped = real[:, : weight.size // outputs].reshape(outputs, *kernel, -1)
        wanted = weight.reshape(outputs, -1, *kernel)  # of a Linear too: torch flattens channels, then pixels
        half = made.program.initial_format(name).step / 2
        np.testing.assert_allclose(tapped.transpose(0, 3, 1, 2), wanted, rtol=0, atol=1.01 * half)
        assert made.masters[name].shape[1] == taps * wanted.shape[1] + (module[layer].bias is not None)
        assert made.masters[name].shape[1] == made.program.tensors[name].matrix.width


# Samples and patches.


def train_cycles(program: Program) -> int:
    return sum(cost(i, program.core.n).cycles for i in program.entry("train"))


def test_one_channel_of_an_image_is_sent_as_patches() -> None:
    core = CoreParams(n=16, act_depth=1 << 15, err_depth=1 << 15, wgt_depth=1 << 14)
    made = compiled(cnn((1, 28, 28), 10), (1, 28, 28), core=core, batch=4)
    sample = made.program.tensors["sample"]
    assert sample.samples is not None
    assert (sample.samples.window.taps, sample.samples.features) == (9, 784)
    assert (sample.matrix.rows, sample.matrix.cols) == (784 * 4, 9)
    assert window(steps(made, Opcode.FORWARD)[0]) == dict.fromkeys(WINDOW_FIELDS[:4], 28)
    assert window(steps(made, Opcode.LOAD)[0]) == dict.fromkeys(WINDOW_FIELDS[:2], 28)


def test_patches_only_where_they_pay_and_fit() -> None:
    # A tile of columns for each of nine taps of one channel, or three tiles of their nine columns.
    gray, shape = student(), (1, 6, 5)
    gray[0] = nn.Conv2d(1, 5, 3, padding=1)
    patches = compiled(gray, shape)
    assert patches.program.tensors["sample"].samples.window.taps == 9
    need = patches.program.tensors["6.y"].matrix
    short = replace(CORE, act_depth=need.base + need.words(4) - 1)
    maps = compiled(gray, shape, core=short)
    sample = maps.program.tensors["sample"]
    assert sample.samples.window == Window(map_height=6, map_width=5, out_height=6, out_width=5)
    assert (sample.matrix.rows, sample.matrix.cols) == (30 * BATCH, 1)
    assert train_cycles(patches.program) < train_cycles(maps.program)
    for name, masters in maps.masters.items():
        np.testing.assert_array_equal(masters, patches.masters[name])
    # A channel for each lane: patches would only be longer to send.
    wide = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30, 4))
    assert compiled(wide, (4, 6, 5)).program.tensors["sample"].samples.window.taps == 1


def test_a_program_round_trips() -> None:
    program = compiled().program
    back = Program.from_bytes(program.to_bytes())
    assert back == program
    assert back.tensors["sample"].samples == program.tensors["sample"].samples


# Memory.


def test_errors_share_memory_only_where_it_is_short() -> None:
    made = compiled().program
    errors = {name: t.matrix for name, t in made.tensors.items() if t.matrix.memory is Memory.ERR}
    ends = [m.base + m.words(4) for m in errors.values()]
    assert sorted(m.base for m in errors.values()) == sorted([0, *ends])[:-1]  # one after another
    whole = max(ends)
    with pytest.raises(CompileError, match=r"ERR holds 1 words .* (\d+) are needed") as refused:
        compiled(core=replace(CORE, err_depth=1))
    need = int(re.search(r"err_depth=(\d+)", str(refused.value))[1])  # type: ignore[index]
    assert need < whole
    tight = compiled(core=replace(CORE, err_depth=need)).program
    assert (
        max(t.matrix.base + t.matrix.words(4) for t in tight.tensors.values() if t.matrix.memory is Memory.ERR) == need
    )
    for i in tight.entry("train"):
        if {"a", "d"} <= i.matrices.keys():
            assert not i.a.overlaps(i.d, 4)
    with pytest.raises(CompileError, match=f"{need} are needed"):
        compiled(core=replace(CORE, err_depth=need - 1))


def test_places_are_reused_only_by_what_is_needed_at_another_time() -> None:
    core = CoreParams(n=4, err_depth=12)
    lives = {"a": (0, 1), "b": (1, 2), "c": (2, 3), "d": (3, 9), "e": (4, 5)}
    rows = {"a": 3, "b": 5, "c": 7, "d": 2, "e": 8}
    requests = [Request(name=k, memory=Memory.ERR, rows=rows[k], cols=4, life=lives[k]) for k in lives]
    places = place(requests, core)
    for one in requests:
        for other in requests:
            if one is not other and one.meets(other):
                assert not places[one.name].overlaps(places[other.name], 4)
    assert max(m.base + m.words(4) for m in places.values()) == 12


def test_what_does_not_fit_names_depth_and_batch() -> None:
    core = replace(CORE, act_depth=600, err_depth=300)
    with pytest.raises(CompileError) as refused:
        compiled(core=core, batch=8)
    message = str(refused.value)
    assert re.search(r"ACT holds 600 words of 4 elements, \d+ are needed \(sample 240x3, 0.y 240x5, 2.y 48x5", message)
    assert "\n" not in message
    largest = int(re.search(r"the largest batch that fits is (\d+)$", message)[1])  # type: ignore[index]
    assert 1 <= largest < 8
    compiled(core=core, batch=largest)
    with pytest.raises(CompileError, match=f"largest batch that fits is {largest}"):
        compiled(core=core, batch=largest + 1)


def test_weights_that_fit_no_batch() -> None:
    with pytest.raises(CompileError, match=r"WGT holds 8 words.*wgt_depth=\d+; no smaller batch fits"):
        compiled(core=replace(CORE, wgt_depth=8))
