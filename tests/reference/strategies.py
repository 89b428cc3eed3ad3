"""Hypothesis strategies: single passes and short training programs on any core, each a ready `Case`."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st

from insitu.arch.isa import USED, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.numbers import Overflow, Rounding
from insitu.arch.params import SCALES, CoreParams
from tests.reference.drawing import (
    KERNEL,
    MAP,
    Case,
    Scales,
    fits,
    image_of,
    legalise,
    placement,
    program_case,
    program_fits,
    seed_of,
    shrink,
    up_to,
    velocities,
    window_fields,
)
from tests.reference.training import Layer, Training, convolution, learning_rate, pooling

PASSES = (Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE, Opcode.LOSS)
#: Passes that go over a window; products more often than pools, which have less to them.
WINDOWED = (Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE) * 2 + (Opcode.POOL, Opcode.UNPOOL)
#: Products of elements, about, that one pass over a window may take of plain Python.
TERMS = 10000


@st.composite
def pass_instructions(
    draw: st.DrawFn,
    core: CoreParams,
    *,
    opcodes: tuple[Opcode, ...] = (*PASSES, Opcode.POOL, Opcode.UNPOOL),
    exact: bool = True,
    windows: bool = True,
    plain: bool = True,
    side: int | None = None,
) -> Case:
    """One legal compute instruction on arbitrary contents. `exact` allows exact exponents, which no core has;
    `windows` lets about four in ten go over a window, all where not `plain`; `side` bounds rows, columns and depth.
    What the core lacks is not drawn."""
    windows = windows and bool(core.windows)
    without = [o for o in PASSES if o in opcodes and plain]
    windowed = [o for o in WINDOWED if o in opcodes and windows]
    over = bool(windowed) and (not without or draw(st.sampled_from([False] * 6 + [True] * 4)))
    opcode = draw(st.sampled_from(windowed if over else without))
    side = side or (max(9, core.n + 2) if over else max(20, core.n + 4))
    rows, cols, depth = (draw(st.integers(1, side)) for _ in range(3))
    values: dict[str, Any] = {"opcode": opcode, "rows": rows, "cols": cols}
    values |= {name: draw(st.integers(0, 1)) for name in _FLAGS[opcode]}
    if over:
        values |= draw(window_fields(opcode))
    if opcode in PASSES:
        adapt = draw(st.sampled_from(["", "track", "track", "exact"] if exact else ["", "track"]))
        values |= {adapt: 1} if adapt else {}
        values |= {"rounding": draw(st.sampled_from(Rounding)), "overflow": draw(st.sampled_from(Overflow))}
    if opcode is Opcode.UPDATE:
        values["update_rounding"] = draw(st.sampled_from(Rounding))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    if "depth" in USED[opcode]:
        values["depth"] = depth
    values |= _widths(rng, core, opcode)
    legalise(values)
    draft = Instruction(**values)
    while not (fits(core, draft) and (not over or _terms(draft) <= TERMS)):
        shrink(values)
        draft = Instruction(**values)
    values |= placement(rng, core, draft)
    values |= {s: int(rng.integers(SCALES)) for s in ("sa", "sb", "sd") if s in USED[opcode]}
    if "sd" in values and rng.integers(16) == 0:
        values["sd"] = values["sa"]
    if opcode is Opcode.UPDATE:
        values |= {"sm": int(rng.integers(SCALES)), "lr_mul": learning_rate(rng), "lr_shift": int(rng.integers(64))}
        values |= velocities(rng, core)
    if values.get("bias"):
        values["bias_exponent"] = int(rng.integers(-32, 32))
    instruction = Instruction(**values)
    instruction, scales = _scales(rng, core, instruction)
    return Case(
        core=core,
        instructions=(instruction,),
        memories={m: image_of(rng, core, m) for m in core.memories},
        scales=scales,
        seed=seed_of(rng),
        stream_in=np.zeros((0, core.n), dtype=np.int64),
    )


@st.composite
def close_sums(draw: st.DrawFn) -> Case:
    """Products of few short sums that come near the ends of their accumulators: whether one leaves the range on its
    way, and so the sticky flag, hangs on the order of its terms."""
    core = CoreParams(n=4, accumulator_bits=8, act_depth=96, err_depth=96, wgt_depth=96)
    products = (Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE)
    side = draw(st.sampled_from([1, 2, 2, 2, 3]))
    case = draw(pass_instructions(core, opcodes=products, plain=side == 3, side=side))
    (i,) = case.instructions
    if i.weight_width:
        i = replace(i, weight_width=8, weight_shift=0)
    rng = np.random.default_rng(case.seed)
    # One operand is 1 everywhere, so that a term is an element of the other. Where that is ACT, the bias operand is 1
    # too; a 0 there leaves the bias alone.
    ones, one = Memory.WGT, 1
    if i.opcode is Opcode.UPDATE:
        ones, one = ((Memory.ERR, 1), (Memory.ACT, 1), (Memory.ACT, 0))[int(rng.integers(2 + i.bias))]
        if ones is Memory.ACT and i.bias:
            i = replace(i, bias_exponent=-32)
    # As large as a walk of that many steps may be to leave 8 bits about as often as not.
    term = min(127, round(140 / _steps(i) ** 0.5))
    images = {m: rng.choice([-term, -(term // 2), term // 2, term], image.shape) for m, image in case.memories.items()}
    return replace(case, instructions=(i,), memories=images | {ones: np.full_like(images[ones], one)})


@st.composite
def moves(draw: st.DrawFn, core: CoreParams) -> Case:
    """A LOAD and a STORE of feature maps, or of a kernel's weights, anywhere in any memory; tables are not stored."""
    program: list[Instruction] = []
    has = core.memories
    memories = [draw(st.sampled_from(found)) for found in (has, [m for m in has if m is not Memory.TAB])]
    sizes = [{name: draw(st.integers(1, core.n + 5)) for name in ("rows", "cols")} for _ in memories]
    shapes = [draw(_moved()) if core.windows else {} for _ in memories]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for opcode, memory, size, shape in zip((Opcode.LOAD, Opcode.STORE), memories, sizes, shapes, strict=True):
        values: dict[str, Any] = {"opcode": opcode, "memory": memory, **size, **shape}
        legalise(values)
        draft = Instruction(**values)
        while not fits(core, draft):
            shrink(values)
            draft = Instruction(**values)
        program.append(Instruction(**values, **placement(rng, core, draft)))
    return program_case(rng, core, program)


@st.composite
def train_sequences(draw: st.DrawFn, core: CoreParams, *, exact: bool = True) -> Case:
    """A training step of a perceptron of one to three layers on shared buffers, from LOAD to STORE and HALT."""
    batch = draw(st.integers(1, 9))
    sizes = draw(st.lists(st.integers(1, 11), min_size=2, max_size=4))
    bias = draw(st.integers(0, 1))
    choices = draw(_choices(exact))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    while True:
        layers = [Layer(inputs=i, outputs=o, bias=bias) for i, o in pairwise(sizes)]
        program = Training(rng=rng, core=core, batch=batch, layers=layers, **choices).instructions()
        if program_fits(core, program):
            return program_case(rng, core, program)
        batch, sizes = max(1, batch // 2), [max(1, size // 2) for size in sizes]
        if batch == 1 and max(sizes) == 1:
            sizes = sizes[:2]


@st.composite
def convolution_sequences(draw: st.DrawFn, core: CoreParams, *, exact: bool = True) -> Case:
    """A training step of a small CNN: convolution, ReLU, pool, convolution, linear layer; without its pool, or its
    second convolution too, where the memories are small."""
    batch = draw(st.integers(1, 6))
    sizes = [draw(st.integers(1, 6)) for _ in range(4)]
    side = (draw(st.integers(2, 6)), draw(st.integers(2, 6)))
    kernels = [draw(st.integers(1, 3)) for _ in range(2)]
    strides = [draw(st.integers(0, 1)) for _ in range(2)]
    pads = [draw(st.integers(0, 1)) for _ in range(2)]
    bias = draw(st.integers(0, 1))
    pool = draw(st.sampled_from([(2, 2), (2, 2), (1, 2), (3, 2)]))
    choices = draw(_choices(exact))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts = 3
    while True:
        layers, at = [], side
        for k in range(min(parts, 2)):
            # A kernel no larger than the map and its borders has an output; any other would have none.
            kernel = tuple(min(kernels[k], length + 2 * pads[k]) for length in at)
            window = convolution(at, kernel, strides[k], pads[k])
            layers.append(Layer(inputs=sizes[k], outputs=sizes[k + 1], bias=bias, window=window))
            at = window["out_height"], window["out_width"]
            if k == 0 and parts == 3:
                window = pooling(at, pool)
                layers.append(Layer(inputs=sizes[1], outputs=sizes[1], window=window, pool=True))
                at = window["out_height"], window["out_width"]
        layers.append(Layer(inputs=layers[-1].outputs, outputs=sizes[3], bias=bias, window=convolution(at, at, 0, 0)))
        program = Training(rng=rng, core=core, batch=batch, layers=layers, **choices).instructions()
        if program_fits(core, program):
            return program_case(rng, core, program)
        if batch == max(sizes) == 1:
            if parts > 1:
                parts -= 1
            else:
                side = tuple(max(1, length - 1) for length in side)
        batch, sizes = max(1, batch // 2), [max(1, size // 2) for size in sizes]


@st.composite
def _choices(draw: st.DrawFn, exact: bool) -> dict[str, Any]:
    """What a training step names once for all its layers."""
    policy = draw(st.sampled_from(["", "track", "track", "exact"] if exact else ["", "track"]))
    where = ("forward", "error", "gradient", "update")
    roundings = {f"{w}_rounding": draw(st.sampled_from(Rounding)) for w in where}
    return {"policy": policy, "overflow": draw(st.sampled_from(Overflow)), **roundings}


# One pass.

_FLAGS = {
    Opcode.FORWARD: ("bias", "relu"),
    Opcode.BACKWARD: ("mask",),
    Opcode.UPDATE: ("bias",),
    Opcode.LOSS: (),
    Opcode.POOL: (),
    Opcode.UNPOOL: ("mask",),
}


@st.composite
def _moved(draw: st.DrawFn) -> dict[str, int]:
    """What LOAD and STORE know of a window."""
    values = {name: draw(st.integers(0, 4)) for name in MAP} if draw(st.booleans()) else {}
    if draw(st.booleans()):
        values |= {name: draw(st.integers(0, 3)) for name in KERNEL}
    return values | {"bias": draw(st.integers(0, 1))}


def _terms(i: Instruction) -> int:
    """Products of a pass, about; comparisons of a pool."""
    w = i.window
    pixels = w.map_pixels if i.opcode is Opcode.BACKWARD else w.out_pixels
    return i.rows * i.cols * max(1, i.depth) * pixels * w.taps


def _widths(rng: np.random.Generator, core: CoreParams, opcode: Opcode) -> dict[str, Any]:
    """Widths up to the core's, the core's own as often as not."""
    width = {Opcode.FORWARD: core.activation_bits, Opcode.UPDATE: core.gradient_bits}.get(opcode, core.error_bits)
    values: dict[str, Any] = {"width": up_to(rng, width)} if "width" in USED[opcode] else {}
    if opcode in (Opcode.FORWARD, Opcode.BACKWARD):
        values["weight_width"] = up_to(rng, core.weight_bits)
        exact_fit = core.master_bits - values["weight_width"]
        values["weight_shift"] = int(min(exact_fit, 31) if rng.integers(2) else rng.integers(32))
        values["weight_rounding"] = Rounding(int(rng.integers(2)))
    if opcode is Opcode.UPDATE:
        values["master_width"] = up_to(rng, core.master_bits)
    return values


def _scales(rng: np.random.Generator, core: CoreParams, i: Instruction) -> tuple[Instruction, Scales]:
    """Scale registers, and an lr_shift, that mostly let bits through, with one extreme case in eight."""
    exponents = rng.integers(-14, 3, (SCALES, 2))
    if rng.integers(8) == 0:
        wild = rng.random((SCALES, 2)) < 0.3
        exponents[wild] = rng.integers(-128, 128, int(wild.sum()))
    elif rng.integers(8) != 0 and len({i.sa, i.sb, i.sd, i.sm}) == 4:
        # Drop about as many bits as the accumulator has too many.
        if i.opcode is Opcode.LOSS:
            source, bits = int(exponents[i.sb, 0]) - 16, 16 + core.word_bits(Memory.ERR)
        else:
            source = int(exponents[i.sa, 0] + exponents[i.sb, 0]) + i.weight_shift
            right = core.activation_bits
            if i.weight_width:
                right = max(1, min(i.weight_width, core.master_bits - i.weight_shift))
            left = core.activation_bits if i.opcode is Opcode.FORWARD else core.error_bits
            bits = min(left + right - 2 + _steps(i).bit_length() // 2, core.accumulator_bits)
        exponents[i.sd] = source + max(0, bits - i.width) + rng.integers(-4, 3, 2)
        if i.opcode is Opcode.UPDATE:
            update_shift = int(rng.integers(-4, 12))
            exponents[i.sm, 0] = exponents[i.sd, 0] + update_shift - i.lr_shift
    if i.bias and rng.integers(4) != 0:
        operand = i.sa if i.opcode is Opcode.FORWARD else i.sb
        exponent = int(exponents[operand, 0]) + int(rng.integers(-1, core.activation_bits))
        i = replace(i, bias_exponent=min(max(exponent, -32), 31))
    clipped = np.clip(exponents, -128, 127).tolist()
    return i, tuple((e, following) for e, following in clipped)


def _steps(i: Instruction) -> int:
    """Terms of a sum, at most."""
    return i.depth * (i.window.out_pixels if i.opcode is Opcode.UPDATE else i.window.taps)
