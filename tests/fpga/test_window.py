"""The walk over a window against plain loops over arch/window.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any

import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory, blocks
from insitu.arch.params import CoreParams
from insitu.fpga.decode import CHECK_LATENCY, GEOMETRY_LATENCY, Decoder
from insitu.fpga.window import Axis, SegmentLayout, WindowWalker
from tests.fpga.units import simulate
from tests.reference.vector_strategies import VECTOR_PASSES, vector_instructions

N = 4
CORE = CoreParams(n=N, act_depth=4096, err_depth=4096, wgt_depth=4096)
#: (A's address, its row modulo N, B's address, its row modulo N, steps, zero, last of its tile, last of all); None
#: where nothing is read that counts.
Segment = tuple[int | None, int | None, int | None, int | None, int, bool, bool, bool]


class Walk(wiring.Component):
    """A walker behind a decoder, which gives it fields and geometry."""

    def __init__(self) -> None:
        self.decoder = Decoder(CORE)
        self.walker = WindowWalker(N, self.decoder.bits)
        super().__init__(
            {
                "start": In(1),
                "take": In(1),
                "valid": Out(1),
                "segment": Out(SegmentLayout(N, self.decoder.bits)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.decoder, m.submodules.walker = self.decoder, self.walker
        walker = self.walker
        m.d.comb += [
            walker.fields.eq(self.decoder.fields),
            walker.geometry.eq(self.decoder.geometry),
            walker.start.eq(self.start),
            walker.take.eq(self.take),
            self.valid.eq(walker.valid),
            self.segment.eq(walker.segment),
        ]
        return m


def plain(i: Instruction) -> Iterator[list[tuple[int | None, int | None, int | None, int | None, int, bool]]]:
    """The segments of each tile."""
    w, wide, rows = i.window, blocks(i.cols, N), i.rows

    def a_at(row: int, word: int, *, columns: bool) -> tuple[int, int]:
        turn = row % N
        return i.a_base + (row - (turn if columns else 0)) * i.a_pitch + word, turn

    if i.opcode is Opcode.UPDATE:
        apart = i.bias if w.taps > 1 else 0
        group = blocks(i.cols - apart, N)
        for tap in range(w.taps):
            met = [(q, p) for q, p in enumerate(w.reads[:, tap].tolist()) if p >= 0]
            for block in range(group):
                for top in range(blocks(rows, N)):
                    yield [
                        (*a_at(q * i.depth, top, columns=False), i.b_base + p * i.depth * i.b_pitch + block,
                         p * i.depth % N, i.depth, False)
                        for q, p in met
                    ] or [(None, None, None, None, 1, True)]  # fmt: skip
        if apart:
            for top in range(blocks(rows, N)):
                yield [
                    (*a_at(q * i.depth, top, columns=False), None, None, i.depth, False) for q in range(w.out_pixels)
                ]
        return
    if i.opcode is Opcode.UNPOOL:
        yield from _kernels(i)
        return
    if i.opcode in VECTOR_PASSES:
        yield from _vector(i)
        return
    met = w.reads if i.opcode in (Opcode.FORWARD, Opcode.POOL) else w.writes
    bias = i.bias if i.opcode is Opcode.FORWARD else 0
    apart = bias if w.taps > 1 else 0
    group = blocks(i.depth - apart if i.opcode is Opcode.FORWARD else i.cols, N)
    for block in range(wide):
        for taps in met.tolist():
            for top in range(0, rows, 1 if i.opcode is Opcode.POOL else N):
                found = [(tap, pixel) for tap, pixel in enumerate(taps) if pixel >= 0]
                if i.opcode is Opcode.POOL:
                    yield [(*a_at(p * rows + top, block, columns=False), None, None, 1, False) for _, p in found] or [
                        (None, None, None, None, 1, True)
                    ]
                    continue
                first = block * N * i.b_pitch if i.opcode is Opcode.FORWARD else block
                first += i.b_base
                segments: list[Any] = []
                for tap, pixel in found:
                    address, turn = a_at(pixel * rows, 0, columns=True)
                    place = (address + top * i.a_pitch, turn)
                    segments.append((*place, first + tap * group, 0, i.depth - apart, False))
                if apart:
                    segments.append((None, None, first + w.taps * group, 0, 1, False))
                elif not segments and bias:
                    segments.append((None, None, first, 0, i.depth, True))
                yield segments or [(None, None, None, None, 1, True)]


def _vector(i: Instruction) -> Iterator[list[Any]]:
    """A tile for each row of D, block by block: a segment a word of A, or a pixel's of DW_UPDATE."""
    w, rows = i.window, i.rows
    nothing = [(None, None, None, None, 1, True)]

    def at(base: int, pitch: int, row: int, block: int) -> tuple[int, int]:
        return base + row * pitch + block, row % N

    in_turn = i.opcode is Opcode.ADD or (i.opcode is Opcode.MULTIPLY and i.memory is Memory.ACT)
    for block in range(blocks(i.cols, N)):
        a, b = partial(at, i.a_base, i.a_pitch, block=block), partial(at, i.b_base, i.b_pitch, block=block)
        if i.opcode is Opcode.DW_UPDATE:
            for tap in range(w.taps):
                met = [(q, p) for q, p in enumerate(w.reads[:, tap].tolist()) if p >= 0]
                yield [(*a(row=q * rows), *b(row=p * rows), rows, False) for q, p in met] or nothing
            if i.bias:
                yield [(*a(row=q * rows), None, None, rows, False) for q in range(w.out_pixels)]
            continue
        for pixel, taps in enumerate((w.writes if i.opcode is Opcode.DW_BACKWARD else w.reads).tolist()):
            found = [(tap, met) for tap, met in enumerate(taps) if met >= 0]
            for sample in range(rows):
                segments: list[Any] = []
                for tap, met in found:
                    row = met * rows + sample
                    second: tuple[int | None, int | None]
                    if i.opcode is Opcode.LOOKUP or i.constant:
                        second = None, None
                    elif i.opcode in (Opcode.DW_FORWARD, Opcode.DW_BACKWARD):
                        second = b(row=tap)
                    else:
                        second = b(row=sample if i.broadcast else row)
                    segments.append((*a(row=row), *second, 1, False))
                if i.opcode is Opcode.DW_FORWARD and i.bias:
                    segments.append((None, None, *b(row=w.taps), 1, False))
                if in_turn:
                    segments.append((*b(row=sample if i.broadcast else pixel * rows + sample), None, None, 1, False))
                elif i.mask and i.opcode in (Opcode.MULTIPLY, Opcode.REDUCE):
                    segments.append((None, None, None, None, 1, False))
                yield segments or nothing


def _kernels(i: Instruction) -> Iterator[list[Any]]:
    """UNPOOL's: kernels side by side until the map ends, whether or not an output pixel has them."""
    w, high, wide = i.window, i.window.kernel_height, i.window.kernel_width
    for block in range(blocks(i.cols, N)):
        for y in range(blocks(w.map_height, high)):
            for x in range(blocks(w.map_width, wide)):
                given = y < w.out_height and x < w.out_width
                for sample in range(i.rows):
                    row = (y * w.out_width + x) * i.rows + sample
                    a = (i.a_base + row * i.a_pitch + block, row % N) if given else (None, None)
                    pixels = [
                        (v * w.map_width + u) * i.rows + sample
                        for v in range(y * high, min((y + 1) * high, w.map_height))
                        for u in range(x * wide, min((x + 1) * wide, w.map_width))
                    ]
                    yield [(*a, i.b_base + p * i.b_pitch + block, p % N, 1, not given) for p in pixels]


def expected(i: Instruction) -> list[Segment]:
    tiles = list(plain(i))
    return [
        (*segment, k == len(tile) - 1, k == len(tile) - 1 and t == len(tiles) - 1)
        for t, tile in enumerate(tiles)
        for k, segment in enumerate(tile)
    ]


@st.composite
def windows(draw: st.DrawFn) -> Instruction:
    """Small instructions over windows that mostly fit, and some that do not."""
    opcodes = (Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE, Opcode.POOL, Opcode.UNPOOL)
    opcode = draw(st.sampled_from(opcodes))
    few = st.integers(1, 6)
    values: dict[str, Any] = {f"{what}_{axis}": draw(few) for what in ("map", "out") for axis in ("height", "width")}
    values |= {f"kernel_{axis}": draw(st.integers(1, 3)) for axis in ("height", "width")}
    values |= {"rows": draw(few), "cols": draw(few)}
    if opcode in (Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE):
        values |= {"depth": draw(few), "stride": draw(st.integers(0, 1))}
        values |= {f"pad_{axis}": draw(st.integers(0, 4)) for axis in ("height", "width")}
        values |= {"width": 8} | ({"master_width": 16} if opcode is Opcode.UPDATE else {"weight_width": 8})
    if opcode in (Opcode.FORWARD, Opcode.UPDATE) and min(values["depth"], values["cols"]) > 1:
        values["bias"] = draw(st.integers(0, 1))
    plain = Instruction(opcode=opcode, **values)
    places = {f"{name}_pitch": m.row_words(N) + draw(st.integers(0, 2)) for name, m in plain.matrices.items()}
    places |= {f"{name}_base": draw(st.integers(0, 9)) for name in plain.matrices}
    return Instruction(opcode=opcode, **values, **places)


@st.composite
def vectors(draw: st.DrawFn) -> Instruction:
    """Vector passes, in memories that hold any of them."""
    (instruction,) = draw(vector_instructions(CORE, exact=False)).instructions
    return instruction


@pytest.mark.parametrize("waits", [0.0, 0.6])
@seed(1)
@settings(max_examples=12, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_segments_are_those_of_the_window(waits: float, data: st.DataObject) -> None:
    """Many instructions one after the other, taken at once or now and then; without waits, one in every cycle."""
    instructions = data.draw(st.lists(st.one_of(windows(), vectors()), min_size=3, max_size=6))
    unit, random = Walk(), Random(0)

    async def script(ctx: Any) -> None:
        for instruction in instructions:
            want = expected(instruction)
            for index, word in enumerate(instruction.encode()):
                ctx.set(unit.decoder.capture, 1)
                ctx.set(unit.decoder.index, index)
                ctx.set(unit.decoder.word, int(word))
                await ctx.tick()
            ctx.set(unit.decoder.capture, 0)
            await ctx.tick().repeat(max(CHECK_LATENCY, GEOMETRY_LATENCY) + Axis.SETTLE)
            ctx.set(unit.start, 1)
            await ctx.tick()
            ctx.set(unit.start, 0)
            await ctx.tick().repeat(WindowWalker.LATENCY - 1)
            span = int(ctx.get(unit.decoder.geometry.span))
            for segment in want:
                while random.random() < waits:
                    await ctx.tick()
                assert ctx.get(unit.valid)
                got = ctx.get(unit.segment)
                steps = 1 if got.single else span
                places = (got.a.address, got.a.turn, got.b.address, got.b.turn)
                depth = 1 << unit.decoder.bits
                for name, here, there in zip("aabb", places, segment, strict=False):
                    assert there is None or here == there % depth, (instruction, segment, name)
                assert (steps, got.zero, got.last, got.final) == segment[4:], (instruction, segment)
                ctx.set(unit.take, 1)
                await ctx.tick()
                ctx.set(unit.take, 0)
            assert not ctx.get(unit.valid)

    simulate(unit, script)
