"""What every strategy draws: cores, cases, windows, sizes that fit, places, contents.

Hypothesis draws what should shrink (shapes, flags, roundings) and a seed; numpy's generator fills in the rest. A core's
memories need at least 16 words each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from insitu.arch.declaration import WIDTHS, Role
from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Matrix, Memory
from insitu.arch.numbers import Rounding
from insitu.arch.params import SCALES, CoreParams

Image = npt.NDArray[np.int64]
Scales = tuple[tuple[int, int], ...]

MAP, OUT, KERNEL = (tuple(f"{what}_{axis}" for axis in ("height", "width")) for what in ("map", "out", "kernel"))
EXTENTS = (*MAP, *OUT, *KERNEL)


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


#: Windows and vector units that a core may have.
UNITS = ((1, 1), (1, 0), (0, 0))


@st.composite
def cores(draw: st.DrawFn, *, whole: bool = True) -> CoreParams:
    """Any core: mostly small arrays, any widths, memories of a few hundred words at most; `whole`: with all units."""
    n = draw(st.sampled_from([4] * 9 + [8] * 5 + [16, 32]))
    widths = {f"{role}_bits": draw(st.integers(*WIDTHS[role])) for role in Role}
    widths["master_bits"] = max(widths["master_bits"], widths["weight_bits"])
    if draw(st.booleans()):
        widths["momentum_bits"] = 0
    depths = {f"{name}_depth": draw(st.integers(16, 320)) for name in ("act", "err", "wgt", "tab")}
    windows, vector = draw(st.sampled_from(UNITS)) if not whole else UNITS[0]
    return CoreParams(n=n, program_depth=64, windows=windows, vector=vector, **widths, **depths)


def on_any_core(
    strategy: Callable[..., st.SearchStrategy[Case]], *, whole: bool = True, **options: Any
) -> st.SearchStrategy[Case]:
    """`strategy(core, **options)` for every core `cores(whole=whole)` gives."""
    return cores(whole=whole).flatmap(lambda core: strategy(core, **options))


def program_case(rng: np.random.Generator, core: CoreParams, program: list[Instruction]) -> Case:
    """A program on arbitrary contents and streams."""
    beats = sum(i.d.rows * i.d.row_words(core.n) for i in program if i.opcode is Opcode.LOAD)
    half = 1 << (core.lane_bits - 1)
    return Case(
        core=core,
        instructions=tuple(program),
        memories={m: image_of(rng, core, m) for m in core.memories},
        scales=tuple((int(e), int(e)) for e in rng.integers(-9, 1, SCALES)),
        seed=seed_of(rng),
        stream_in=rng.integers(-half, half, (beats, core.n)),
    )


def program_fits(core: CoreParams, program: list[Instruction]) -> bool:
    return all(inside(core, m) for i in program for m in i.matrices.values())


@st.composite
def window_fields(draw: st.DrawFn, opcode: Opcode, *, side: int = 5, taps: int = 3, border: int = 2) -> dict[str, int]:
    """The fields of a window: an output as large as PyTorch would make it or any other, taps that need not fit. `side`,
    `taps` and `border` bound the map, the kernel and the padding."""
    values: dict[str, int] = {}
    pool = opcode in (Opcode.POOL, Opcode.UNPOOL)
    stride = 0 if pool else draw(st.integers(0, 1))
    usual = draw(st.integers(0, 3)) != 0
    for mapped, out, kernel, pad in zip(MAP, OUT, KERNEL, ("pad_height", "pad_width"), strict=True):
        length, size = draw(st.integers(1, side)), draw(st.integers(1, taps))
        beyond = 0 if pool else draw(st.integers(0, min(border, size) if usual else border))
        given = (length + 2 * beyond - size) // (size if pool else 1 + stride) + 1
        if not usual or given < 1:
            given = draw(st.integers(1, 4))
        # A field of 0 says 1 too.
        zero = draw(st.booleans())
        values |= {name: 0 if zero and v == 1 else v for name, v in ((mapped, length), (out, given), (kernel, size))}
        values |= {} if pool else {pad: beyond}
    return values if pool else values | {"stride": stride}


def legalise(values: dict[str, Any]) -> None:
    """A bias needs a term, or a column, beside it."""
    if values.get("bias") and not values["opcode"].name.startswith("DW_"):
        short = "depth" if values["opcode"] is Opcode.FORWARD else "cols"
        if values[short] < 2:
            values["bias"] = 0


def shrink(values: dict[str, Any]) -> None:
    """Halve the largest size; a map and its output together, so that they still go with one another."""
    # Extents rather than rows and channels: three pixels show all that a window does, tiles need more than N elements.
    weights = {"rows": 2, "cols": 2, "depth": 2} | dict.fromkeys(EXTENTS, 3)
    largest = max(weights, key=lambda name: weights[name] * values.get(name, 0) * (values.get(name, 0) > 1))
    for name in {largest, largest.replace("map", "out")}:
        if name in values:
            values[name] = (values[name] + 1) // 2
    legalise(values)


def fits(core: CoreParams, instruction: Instruction) -> bool:
    """Whether the operands fit their memories side by side, each with its smallest pitch."""
    words = dict.fromkeys(Memory, 0)
    for m in instruction.matrices.values():
        words[m.memory] += m.rows * m.row_words(core.n)
    return all(words[memory] <= core.depth(memory) for memory in Memory)


def inside(core: CoreParams, matrix: Matrix) -> bool:
    return matrix.base + matrix.words(core.n) <= core.depth(matrix.memory)


def placement(rng: np.random.Generator, core: CoreParams, instruction: Instruction) -> dict[str, int]:
    """Bases and pitches: operands of one memory in any order, with gaps, apart from one another."""
    values: dict[str, int] = {}
    for memory in Memory:
        operands = [(name, m) for name, m in instruction.matrices.items() if m.memory is memory]
        rng.shuffle(operands)
        free = core.depth(memory) - sum(m.rows * m.row_words(core.n) for _, m in operands)
        base = 0
        for name, m in operands:
            words = m.row_words(core.n)
            extra = int(rng.integers(0, min(3, free // m.rows) + 1)) if rng.integers(2) else 0
            free -= extra * m.rows
            gap = int(rng.integers(0, free + 1))
            free -= gap
            values |= {f"{name}_base": base + gap, f"{name}_pitch": words + extra}
            base += gap + m.rows * (words + extra)
    return values


def seed_of(rng: np.random.Generator) -> int:
    return int(rng.integers(1, 2**32))


def image_of(rng: np.random.Generator, core: CoreParams, memory: Memory) -> Image:
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


def velocities(rng: np.random.Generator, core: CoreParams) -> dict[str, int]:
    """What an update says of its velocities: any, mostly such as keep most of themselves and move a master by little;
    none one time in four, and on a core that has none."""
    if not core.momentum_bits or rng.integers(4) == 0:
        return {}
    usual = rng.integers(8) != 0
    fraction = int(rng.integers(-3, 10) if usual else rng.integers(-24, 16))
    decay = int(rng.integers(2))
    return {
        "momentum_width": up_to(rng, core.momentum_bits),
        "momentum_mul": int(rng.choice([0, 128, 230, 255, 256]) if usual else rng.integers(257)),
        "velocity_fraction": fraction,
        "momentum_rounding": Rounding(int(rng.choice([0, 1, 2, 2, 2, 3]))),
        "hold": int(rng.integers(3) == 0),
        "decay_mul": decay * int(rng.integers(256)),
        "decay_shift": decay * int(rng.integers(max(0, fraction), 32) if usual else rng.integers(32)),
    }


def up_to(rng: np.random.Generator, bits: int) -> int:
    """A width: `bits` as often as not."""
    return bits if rng.integers(2) else int(rng.integers(2, bits + 1))
