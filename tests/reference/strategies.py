"""Hypothesis strategies: cores, single passes and short training programs, each a ready `Case`.

Hypothesis draws what should shrink (shapes, flags, roundings) and a seed; numpy's generator fills in the rest. A core's
memories need at least 16 words each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from insitu.arch.declaration import WIDTHS, Role
from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Matrix, Memory
from insitu.arch.numbers import Overflow, Rounding
from insitu.arch.params import SCALES, CoreParams

Image = npt.NDArray[np.int64]
Scales = tuple[tuple[int, int], ...]

PASSES = (Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE, Opcode.LOSS)


@dataclass(frozen=True, eq=False)
class Case:
    """A start and what to run from it.

    memories: int64 [depth, N] each, every value inside its memory's word. scales: (exponent, next) of all registers.
    stream_in: int64 [beats, N], signed lanes.
    """

    core: CoreParams
    instructions: tuple[Instruction, ...]
    memories: dict[Memory, Image]
    scales: Scales
    seed: int
    stream_in: Image

    def __repr__(self) -> str:
        listing = "\n  ".join(str(i) for i in self.instructions)
        used = sorted({getattr(i, s) for i in self.instructions for s in ("sa", "sb", "sd", "sm")})
        scales = ", ".join(f"{i}: {self.scales[i]}" for i in used)
        return f"Case({self.core}\n  {listing}\n  scales {{{scales}}}, seed {self.seed:#x})"


@st.composite
def cores(draw: st.DrawFn) -> CoreParams:
    """Any core: mostly small arrays, any widths, memories of a few hundred words at most."""
    n = draw(st.sampled_from([4] * 9 + [8] * 5 + [16, 32]))
    widths = {f"{role}_bits": draw(st.integers(*WIDTHS[role])) for role in Role}
    widths["master_bits"] = max(widths["master_bits"], widths["weight_bits"])
    depths = {f"{m.name.lower()}_depth": draw(st.integers(16, 320)) for m in Memory}
    return CoreParams(n=n, program_depth=64, **widths, **depths)


@st.composite
def pass_instructions(
    draw: st.DrawFn, core: CoreParams, *, opcodes: tuple[Opcode, ...] = PASSES, exact: bool = True
) -> Case:
    """One legal compute instruction on arbitrary contents. `exact` allows exact exponents, which no core has."""
    opcode = draw(st.sampled_from(opcodes))
    side = max(20, core.n + 4)
    rows, cols, depth = (draw(st.integers(1, side)) for _ in range(3))
    flags = {name: draw(st.integers(0, 1)) for name in _FLAGS[opcode]}
    adapt = draw(st.sampled_from(["", "track", "track", "exact"] if exact else ["", "track"]))
    roundings: dict[str, Any] = {"rounding": draw(st.sampled_from(Rounding))}
    if opcode is Opcode.UPDATE:
        roundings["update_rounding"] = draw(st.sampled_from(Rounding))
    overflow = draw(st.sampled_from(Overflow))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    values: dict[str, Any] = {"opcode": opcode, "rows": rows, "cols": cols, **flags, **roundings, "overflow": overflow}
    if adapt:
        values[adapt] = 1
    if opcode is not Opcode.LOSS:
        values["depth"] = depth
    values |= _widths(rng, core, opcode)
    _legalise(values)
    draft = Instruction(**values)
    while not _fits(core, draft):
        largest = max(("rows", "cols", "depth"), key=lambda name: values.get(name, 0))
        values[largest] = (values[largest] + 1) // 2
        _legalise(values)
        draft = Instruction(**values)
    values |= _placement(rng, core, draft)
    values |= {s: int(rng.integers(SCALES)) for s in ("sa", "sb", "sd")}
    if rng.integers(16) == 0:
        values["sd"] = values["sa"]
    if opcode is Opcode.UPDATE:
        values |= {"sm": int(rng.integers(SCALES)), "lr_mul": _lr_mul(rng), "lr_shift": int(rng.integers(64))}
    if values.get("bias"):
        values["bias_exponent"] = int(rng.integers(-32, 32))
    instruction = Instruction(**values)
    instruction, scales = _scales(rng, core, instruction)
    return Case(
        core=core,
        instructions=(instruction,),
        memories={m: _image(rng, core, m) for m in Memory},
        scales=scales,
        seed=_seed(rng),
        stream_in=np.zeros((0, core.n), dtype=np.int64),
    )


@st.composite
def train_sequences(draw: st.DrawFn, core: CoreParams, *, exact: bool = True) -> Case:
    """A training step of a perceptron of one to three layers on shared buffers, from LOAD to STORE and HALT."""
    batch = draw(st.integers(1, 9))
    sizes = draw(st.lists(st.integers(1, 11), min_size=2, max_size=4))
    bias = draw(st.integers(0, 1))
    policy = draw(st.sampled_from(["", "track", "track", "exact"] if exact else ["", "track"]))
    where = ("forward", "error", "gradient", "update")
    roundings = {f"{w}_rounding": draw(st.sampled_from(Rounding)) for w in where}
    overflow = draw(st.sampled_from(Overflow))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    while True:
        program = _Training(
            rng=rng, core=core, batch=batch, sizes=sizes, bias=bias, policy=policy, overflow=overflow, **roundings
        ).instructions()
        if all(_inside(core, m) for i in program for m in i.matrices.values()):
            break
        batch, sizes = max(1, batch // 2), [max(1, size // 2) for size in sizes]
        if batch == 1 and max(sizes) == 1:
            sizes = sizes[:2]
    beats = sum(i.rows * -(-i.cols // core.n) for i in program if i.opcode is Opcode.LOAD)
    half = 1 << (core.lane_bits - 1)
    scales = tuple((int(e), int(e)) for e in rng.integers(-9, 1, SCALES))
    return Case(
        core=core,
        instructions=tuple(program),
        memories={m: _image(rng, core, m) for m in Memory},
        scales=scales,
        seed=_seed(rng),
        stream_in=rng.integers(-half, half, (beats, core.n)),
    )


# One pass.

_FLAGS = {
    Opcode.FORWARD: ("bias", "relu"),
    Opcode.BACKWARD: ("mask",),
    Opcode.UPDATE: ("bias",),
    Opcode.LOSS: (),
}


def _legalise(values: dict[str, Any]) -> None:
    """A bias needs a term, or a column, beside it."""
    if values.get("bias"):
        short = "depth" if values["opcode"] is Opcode.FORWARD else "cols"
        if values[short] < 2:
            values["bias"] = 0


def _widths(rng: np.random.Generator, core: CoreParams, opcode: Opcode) -> dict[str, Any]:
    """Widths up to the core's, the core's own as often as not."""

    def up_to(bits: int) -> int:
        return bits if rng.integers(2) else int(rng.integers(2, bits + 1))

    width = {Opcode.FORWARD: core.activation_bits, Opcode.UPDATE: core.gradient_bits}.get(opcode, core.error_bits)
    values: dict[str, Any] = {"width": up_to(width)}
    if opcode in (Opcode.FORWARD, Opcode.BACKWARD):
        values["weight_width"] = up_to(core.weight_bits)
        exact_fit = core.master_bits - values["weight_width"]
        values["weight_shift"] = int(min(exact_fit, 31) if rng.integers(2) else rng.integers(32))
        values["weight_rounding"] = Rounding(int(rng.integers(2)))
    if opcode is Opcode.UPDATE:
        values["master_width"] = up_to(core.master_bits)
    return values


def _lr_mul(rng: np.random.Generator) -> int:
    return int(rng.integers(1, 8) if rng.integers(2) else rng.integers(256))


def _fits(core: CoreParams, instruction: Instruction) -> bool:
    """Whether the operands fit their memories side by side, each with its smallest pitch."""
    return all(sum(m.rows * -(-m.cols // core.n) for m in _in(instruction, k)) <= core.depth(k) for k in Memory)


def _in(instruction: Instruction, memory: Memory) -> list[Matrix]:
    return [m for m in instruction.matrices.values() if m.memory is memory]


def _inside(core: CoreParams, matrix: Matrix) -> bool:
    return matrix.base + matrix.words(core.n) <= core.depth(matrix.memory)


def _placement(rng: np.random.Generator, core: CoreParams, instruction: Instruction) -> dict[str, int]:
    """Bases and pitches: operands of one memory in any order, with gaps, apart from one another."""
    values: dict[str, int] = {}
    for memory in Memory:
        operands = [(name, m) for name, m in instruction.matrices.items() if m.memory is memory]
        rng.shuffle(operands)
        free = core.depth(memory) - sum(m.rows * -(-m.cols // core.n) for _, m in operands)
        base = 0
        for name, m in operands:
            words = -(-m.cols // core.n)
            extra = int(rng.integers(0, min(3, free // m.rows) + 1)) if rng.integers(2) else 0
            free -= extra * m.rows
            gap = int(rng.integers(0, free + 1))
            free -= gap
            values |= {f"{name}_base": base + gap, f"{name}_pitch": words + extra}
            base += gap + m.rows * (words + extra)
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
            bits = min(left + right - 2 + i.depth.bit_length() // 2, core.accumulator_bits)
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


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1, 2**32))


def _image(rng: np.random.Generator, core: CoreParams, memory: Memory) -> Image:
    """A memory's contents: any words, small ones, or any with many extremes among them."""
    half = 1 << (core.word_bits(memory) - 1)
    shape = (core.depth(memory), core.n)
    style = int(rng.integers(6))
    if style == 0:
        small = min(half, 4)
        return rng.integers(-small, small, shape)
    image = rng.integers(-half, half, shape)
    if style <= 2:
        extremes = np.array([-half, -half + 1, -1, 0, 1, half - 1])
        where = rng.random(shape) < (0.9 if style == 1 else 0.1)
        image = np.where(where, rng.choice(extremes, shape), image)
    return image


# A training step.


@dataclass(kw_only=True)
class _Training:
    """The instructions of one training step. Buffers follow one another in each memory."""

    rng: np.random.Generator
    core: CoreParams
    batch: int
    sizes: list[int]
    bias: int
    policy: str
    overflow: Overflow
    forward_rounding: Rounding
    error_rounding: Rounding
    gradient_rounding: Rounding
    update_rounding: Rounding

    def __post_init__(self) -> None:
        self.top = dict.fromkeys(Memory, 0)

    def _allocate(self, memory: Memory, rows: int, cols: int) -> tuple[int, int]:
        pitch = -(-cols // self.core.n)
        base = self.top[memory]
        self.top[memory] += rows * pitch
        return base, pitch

    def instructions(self) -> list[Instruction]:
        core, batch, sizes, bias = self.core, self.batch, self.sizes, self.bias
        common: dict[str, Any] = {"overflow": self.overflow} | ({self.policy: 1} if self.policy else {})
        layers = range(len(sizes) - 1)
        acts = [self._allocate(Memory.ACT, batch, size) for size in sizes]
        errs = [self._allocate(Memory.ERR, batch, size) for size in sizes]
        targets = self._allocate(Memory.ERR, batch, sizes[-1])
        wgts = [self._allocate(Memory.WGT, sizes[k + 1], sizes[k] + bias) for k in layers]
        # Scale registers: 0.. activations, 8.. weights, 16.. errors, 24.. gradients, 32 targets.
        weight: dict[str, Any] = {
            "weight_width": core.weight_bits,
            "weight_shift": min(31, core.master_bits - core.weight_bits),
            "weight_rounding": Rounding(int(self.rng.integers(2))),
        }
        load = {"opcode": Opcode.LOAD, "rows": batch}
        out = [
            Instruction(**load, memory=Memory.ACT, cols=sizes[0], **_at(d=acts[0])),
            Instruction(**load, memory=Memory.ERR, cols=sizes[-1], **_at(d=targets)),
        ]
        if self.rng.integers(2):
            place = _at(d=wgts[0])
            out.append(Instruction(opcode=Opcode.LOAD, memory=Memory.WGT, rows=sizes[1], cols=sizes[0] + bias, **place))
        for k in layers:
            out.append(
                Instruction(
                    opcode=Opcode.FORWARD,
                    **(common | weight | _at(a=acts[k], b=wgts[k], d=acts[k + 1])),
                    rows=batch,
                    cols=sizes[k + 1],
                    depth=sizes[k] + bias,
                    bias=bias,
                    relu=int(k != layers[-1]),
                    width=core.activation_bits,
                    rounding=self.forward_rounding,
                    sa=k,
                    sb=8 + k,
                    sd=k + 1,
                    bias_exponent=-2 * bias,
                )
            )
        out.append(
            Instruction(
                opcode=Opcode.LOSS,
                **(common | _at(a=acts[-1], b=targets, d=errs[-1])),
                rows=batch,
                cols=sizes[-1],
                width=core.error_bits,
                rounding=self.error_rounding,
                sa=len(sizes) - 1,
                sb=32,
                sd=16 + len(sizes) - 1,
            )
        )
        for k in reversed(layers):
            if k > 0:
                out.append(
                    Instruction(
                        opcode=Opcode.BACKWARD,
                        **(common | weight | _at(a=errs[k + 1], b=wgts[k], d=errs[k], m=acts[k])),
                        rows=batch,
                        cols=sizes[k],
                        depth=sizes[k + 1],
                        mask=1,
                        width=core.error_bits,
                        rounding=self.error_rounding,
                        sa=16 + k + 1,
                        sb=8 + k,
                        sd=16 + k,
                    )
                )
            out.append(
                Instruction(
                    opcode=Opcode.UPDATE,
                    **(common | _at(a=errs[k + 1], b=acts[k], d=wgts[k])),
                    rows=sizes[k + 1],
                    cols=sizes[k] + bias,
                    depth=batch,
                    bias=bias,
                    width=core.gradient_bits,
                    master_width=core.master_bits,
                    rounding=self.gradient_rounding,
                    update_rounding=self.update_rounding,
                    lr_mul=_lr_mul(self.rng),
                    lr_shift=int(self.rng.integers(12)),
                    sa=16 + k + 1,
                    sb=k,
                    sd=24 + k,
                    sm=8 + k,
                    bias_exponent=-2 * bias,
                )
            )
        stores = [(Memory.ACT, acts[-1], batch, sizes[-1]), (Memory.WGT, wgts[0], sizes[1], sizes[0] + bias)]
        for memory, place, rows, cols in stores:
            out.append(Instruction(opcode=Opcode.STORE, memory=memory, rows=rows, cols=cols, **_at(a=place)))
        out.append(Instruction(opcode=Opcode.HALT))
        return out


def _at(**places: tuple[int, int]) -> dict[str, int]:
    """a=(base, pitch) -> a_base, a_pitch."""
    return {f"{name}_{part}": place[k] for name, place in places.items() for k, part in enumerate(("base", "pitch"))}


def on_any_core(strategy: Callable[..., st.SearchStrategy[Case]], **options: Any) -> st.SearchStrategy[Case]:
    """`strategy(core, **options)` for every core `cores()` gives."""
    return cores().flatmap(lambda core: strategy(core, **options))
