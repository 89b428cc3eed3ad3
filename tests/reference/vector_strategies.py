"""Hypothesis strategies of the passes of one channel a lane: alone, one after another on any contents, and a depthwise
layer's three on the same weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from insitu.arch.isa import CONSTANT_MAX, TABLE_BITS, USED, WINDOW_FIELDS, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.numbers import Overflow, Rounding
from insitu.arch.params import SCALES, TABLES_MAX, CoreParams
from tests.reference.drawing import (
    MAP,
    Case,
    Scales,
    cores,
    fits,
    placement,
    program_case,
    shrink,
    up_to,
    velocities,
    window_fields,
)
from tests.reference.training import learning_rate

DEPTHWISE = (Opcode.DW_FORWARD, Opcode.DW_BACKWARD, Opcode.DW_UPDATE)
VECTOR_PASSES = (*DEPTHWISE, Opcode.ADD, Opcode.MULTIPLY, Opcode.REDUCE, Opcode.LOOKUP)
#: What MULTIPLY and ADD have; the others have but one memory.
_FLAGS = {
    Opcode.DW_FORWARD: ("bias", "relu"),
    Opcode.DW_BACKWARD: ("mask",),
    Opcode.DW_UPDATE: ("bias",),
    Opcode.ADD: ("relu", "mask"),
    Opcode.MULTIPLY: ("relu", "mask", "broadcast"),
    Opcode.REDUCE: ("mask",),
    Opcode.LOOKUP: (),
}
#: Products of elements, about, that a pass may take of plain Python.
_TERMS = 8000


@st.composite
def vector_cores(draw: st.DrawFn) -> CoreParams:
    """Any core, one in eight with room for every table, one in four with accumulators of about two words."""
    core = draw(cores())
    if draw(st.integers(0, 7)) == 0:
        core = replace(core, tab_depth=TABLES_MAX)
    if draw(st.integers(0, 3)) == 0:
        widest = min(48, core.activation_bits + core.error_bits)
        core = replace(core, accumulator_bits=draw(st.integers(8, max(8, widest))))
    return core


@st.composite
def vector_instructions(
    draw: st.DrawFn, core: CoreParams, *, opcodes: tuple[Opcode, ...] = VECTOR_PASSES, exact: bool = True
) -> Case:
    """One legal pass on arbitrary contents. `exact` allows exact exponents, which no core has."""
    values = draw(_passes(core, opcodes, exact))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    instruction, scales = _finished(rng, core, values, _any_scales(rng))
    return replace(program_case(rng, core, [instruction]), scales=scales)


@st.composite
def vector_sequences(draw: st.DrawFn, core: CoreParams, *, exact: bool = True) -> Case:
    """A few passes and loads one after another, each anywhere: over what others wrote, at whatever pitch, too."""
    count = draw(st.integers(2, 6))
    loads = [draw(st.integers(0, 3)) == 0 for _ in range(count)]
    drawn = [draw(_loads(core) if load else _passes(core, VECTOR_PASSES, exact)) for load in loads]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scales = _any_scales(rng)
    program = []
    for values in drawn:
        instruction, scales = _finished(rng, core, values, scales)
        program.append(instruction)
    return replace(program_case(rng, core, program), scales=scales)


@st.composite
def depthwise_sequences(draw: st.DrawFn, core: CoreParams, *, exact: bool = True) -> Case:
    """DW_FORWARD, DW_BACKWARD and DW_UPDATE in any order, mostly on the same weights, whose reads may differ in width:
    what one of them writes another must read anew."""
    count = draw(st.integers(3, 6))
    drawn = [draw(_passes(core, (draw(st.sampled_from(DEPTHWISE)),), exact)) for _ in range(count)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scales = _any_scales(rng)
    program: list[Instruction] = []
    shared: dict[str, Any] = {}
    kept: dict[str, int] = {}
    read: dict[str, Any] = {}
    for values in drawn:
        if rng.integers(4):
            values = values | shared
        if not fits(core, Instruction(**values)) or _terms(Instruction(**values)) > 3 * _TERMS:
            continue
        i, scales = _finished(rng, core, values, scales)
        weights = "d" if i.opcode is Opcode.DW_UPDATE else "b"
        if kept and weights in i.matrices and rng.integers(8):
            moved = replace(i, **{f"{weights}_{part}": value for part, value in kept.items()})
            i = moved if _inside(core, moved) else i
        if read and i.weight_width and rng.integers(2):
            i = replace(i, **read)
        if not program:
            shared = {name: getattr(i, name) for name in ("rows", "cols", *WINDOW_FIELDS)}
        if not kept and weights in i.matrices:
            kept = {part: getattr(i, f"{weights}_{part}") for part in ("base", "pitch")}
        if i.weight_width:
            read = {name: getattr(i, name) for name in ("weight_width", "weight_shift", "weight_rounding")}
        program.append(i)
    return replace(program_case(rng, core, program), scales=scales)


def on_vector_cores(strategy: Any, **options: Any) -> st.SearchStrategy[Case]:
    """`strategy(core, **options)` for every core `vector_cores()` gives."""
    return vector_cores().flatmap(lambda core: strategy(core, **options))


@st.composite
def _passes(draw: st.DrawFn, core: CoreParams, opcodes: tuple[Opcode, ...], exact: bool) -> dict[str, Any]:
    """An instruction's shape, flags and roundings, such that its operands fit the core."""
    opcode = draw(st.sampled_from(opcodes))
    side = max(12, 2 * core.n + 2)
    rows, cols = draw(st.integers(1, 9)), draw(st.integers(1, side))
    values: dict[str, Any] = {"opcode": opcode, "rows": rows, "cols": cols}
    values |= {name: draw(st.integers(0, 1)) for name in _FLAGS[opcode]}
    if opcode in DEPTHWISE:
        if draw(st.integers(0, 3)):
            values |= draw(window_fields(opcode, side=7, taps=7, border=4))
    elif draw(st.booleans()):
        values |= {name: draw(st.integers(0, 5)) for name in MAP}
    if "memory" in USED[opcode]:
        values["memory"] = draw(st.sampled_from([Memory.ACT, Memory.ERR]))
        values["mask" if values["memory"] is Memory.ACT else "relu"] = 0
    if "width" in USED[opcode]:
        adapt = draw(st.sampled_from(["", "track", "track", "exact"] if exact else ["", "track"]))
        values |= {adapt: 1} if adapt else {}
        values |= {"rounding": draw(st.sampled_from(Rounding)), "overflow": draw(st.sampled_from(Overflow))}
        values["width"] = 2
    if opcode is Opcode.DW_UPDATE:
        values |= {"update_rounding": draw(st.sampled_from(Rounding)), "master_width": 2}
    if "constant" in USED[opcode]:
        values["constant"] = draw(st.sampled_from([0, 0, 0, 1, 3, 100, CONSTANT_MAX]))
        values |= {"bias": 0} if values["constant"] and "bias" in values else {}
        values |= {} if values["constant"] else {"weight_width": 2}
    if opcode is Opcode.LOOKUP or (opcode is Opcode.MULTIPLY and draw(st.booleans())):
        # At least as often a small table as a large one.
        values["table_bits"] = draw(st.integers(TABLE_BITS[0], core.tab_depth.bit_length() - 1))
        values["table_drop"] = draw(st.one_of(st.just(max(0, core.activation_bits - values["table_bits"])),
                                              st.integers(0, 15)))  # fmt: skip
    while not (fits(core, Instruction(**values)) and _terms(Instruction(**values)) <= _TERMS):
        shrink(values)
    return values


@st.composite
def _loads(draw: st.DrawFn, core: CoreParams) -> dict[str, Any]:
    """A LOAD into any memory, most often of a table."""
    memory = draw(st.sampled_from([*core.memories, Memory.TAB, Memory.TAB]))
    values = {"opcode": Opcode.LOAD, "memory": memory}
    values |= {"rows": draw(st.integers(1, 16)), "cols": draw(st.sampled_from([core.n, core.n, 1, core.n + 3]))}
    while not fits(core, Instruction(**values)):
        shrink(values)
    return values


def _finished(
    rng: np.random.Generator, core: CoreParams, values: dict[str, Any], scales: Scales
) -> tuple[Instruction, Scales]:
    """Widths, places, scale registers; the registers, of which mostly D's lets bits through."""
    values = dict(values)
    opcode = values["opcode"]
    d = Instruction(**values).d.memory
    if "width" in USED[opcode]:
        bits = {Memory.ACT: core.activation_bits, Memory.ERR: core.error_bits, Memory.WGT: core.gradient_bits}[d]
        values["width"] = up_to(rng, bits)
        values |= {s: int(rng.integers(SCALES)) for s in ("sa", "sb", "sd")}
        values |= {"sd": values["sa"]} if rng.integers(16) == 0 else {}
        values |= {"sd": values["sb"]} if rng.integers(16) == 0 else {}
        values |= {"sb": 0} if values.get("constant") else {}
    if opcode is Opcode.DW_UPDATE:
        values |= {"sm": int(rng.integers(SCALES)), "lr_mul": learning_rate(rng), "lr_shift": int(rng.integers(64))}
        values["master_width"] = up_to(rng, core.master_bits)
        values |= velocities(rng, core)
    if "weight_width" in values:
        values["weight_width"] = up_to(rng, core.weight_bits)
        spare = min(core.master_bits - values["weight_width"], 31)
        values["weight_shift"] = int(spare if rng.integers(2) else rng.integers(32))
        values["weight_rounding"] = Rounding(int(rng.integers(2)))
    if values.get("bias") or values.get("constant"):
        values["bias_exponent"] = int(rng.integers(-32, 32))
        if values.get("bias") and rng.integers(4):
            operand = scales[values["sb" if opcode is Opcode.DW_UPDATE else "sa"]][0]
            exponent = operand + int(rng.integers(-1, core.activation_bits))
            values["bias_exponent"] = min(max(exponent, -32), 31)
    if values.get("table_bits"):
        size = 1 << values["table_bits"]
        values["table_base"] = size * int(rng.integers(core.tab_depth // size))
    instruction = Instruction(**values)
    instruction = replace(instruction, **placement(rng, core, instruction))
    if rng.integers(4) == 0:
        instruction = _over_another(rng, core, instruction)
    return instruction, _through(rng, core, instruction, scales)


def _over_another(rng: np.random.Generator, core: CoreParams, i: Instruction) -> Instruction:
    """B where another operand that is read lies, some rows on, or at another pitch: apart from D still."""
    for name, m in i.matrices.items():
        if name in "am" and "b" in i.matrices and m.memory is i.b.memory:
            base, pitch = m.base + m.pitch * int(rng.integers(3)), m.pitch + int(rng.integers(2))
            moved = replace(i, b_base=base, b_pitch=min(pitch, i.b_pitch + 3))
            if _inside(core, moved):
                return moved
    return i


def _through(rng: np.random.Generator, core: CoreParams, i: Instruction, scales: Scales) -> Scales:
    """Registers whose D drops, about, as many bits as the accumulator has too many; one time in four as they are."""
    if not i.width or rng.integers(4) == 0 or i.sd in (i.sa, i.sb):
        return scales
    ea, eb = scales[i.sa][0], scales[i.sb][0]
    left, right = core.word_bits(i.a.memory), core.activation_bits
    source = ea + eb + i.weight_shift
    if i.opcode is Opcode.ADD:
        source, right = min(ea, eb), min(15, abs(ea - eb))
    elif i.constant:
        source, right = ea + i.bias_exponent, i.constant.bit_length()
    elif i.weight_width:
        right = max(1, min(i.weight_width, core.master_bits - i.weight_shift))
    bits = min(left + right - 2, core.accumulator_bits)
    exponents = np.array(scales)
    exponents[i.sd] = source + max(0, bits - i.width) + rng.integers(-4, 5, 2)
    if i.opcode is Opcode.DW_UPDATE:
        exponents[i.sm, 0] = exponents[i.sd, 0] + int(rng.integers(-4, 12)) - i.lr_shift
    return tuple((e, following) for e, following in np.clip(exponents, -128, 127).tolist())


def _any_scales(rng: np.random.Generator) -> Scales:
    """Registers near one another, one time in eight with far ones among them."""
    exponents = rng.integers(-14, 3, (SCALES, 2))
    if rng.integers(8) == 0:
        wild = rng.random((SCALES, 2)) < 0.3
        exponents[wild] = rng.integers(-128, 128, int(wild.sum()))
    return tuple((e, following) for e, following in exponents.tolist())


def _inside(core: CoreParams, i: Instruction) -> bool:
    """Whether every operand ends inside its memory, its rows and those of D apart from all others."""
    found = list(i.matrices.items())
    ends = all(m.base + m.words(core.n) <= core.depth(m.memory) for _, m in found)
    rows = all(m.rows == 1 or m.pitch >= m.row_words(core.n) for _, m in found)
    return ends and rows and not any(m.overlaps(i.d, core.n) for name, m in found if name != "d")


def _terms(i: Instruction) -> int:
    """Products of a pass, about; words that a LOAD takes."""
    w = i.window
    return i.rows * i.cols * max(w.map_pixels, w.out_pixels) * (w.taps if i.opcode in DEPTHWISE else 1)
