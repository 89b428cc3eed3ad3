"""The products of an instruction's sizes: what its operands take, how far it is from pixel to pixel. One multiplier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from amaranth import Array, Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.isa import Opcode
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.fpga import passes
from insitu.fpga.common import FieldsLayout, any_of, register
from insitu.fpga.passes import among
from insitu.fpga.tiles import ShapeLayout

#: Bits of a size that is checked; more than these are shown as all ones, which no memory has.
SIZE_BITS = 21
#: The word of an instruction with which the first operands of the multiplier are complete.
FIRST_WORD = 7
#: Operands that are chosen from together, before a register.
CHOICE = 2
#: Cycles between an operation and its result: its operands chosen among some, those among all, two products of parts,
#: their sum, the result.
LATENCY = 5
#: What is multiplied in which cycle, counted from that in which FIRST_WORD's fields are there. Those of the window are
#: there WINDOW_WORDS later.
WINDOW_WORDS = 3
_ORDER = (
    *("a_pixel", "b_pixel", "d_pixel", "map_pixels", "out_pixels", "taps", "a_row", "b_row"),
    *("mapped", "given", "grouped", "d_row", "a_across", "extent_b", "extent_a", "extent_d", "extent_m"),
    *("a_down", "b_down", "d_down", "b_across", "d_across"),
)
TIMES: Mapping[str, int] = {name: time for time, name in enumerate(_ORDER)}
#: Cycles from that of the first operation to all results, and to the verdict.
SETTLE = len(_ORDER) - 1 + LATENCY
VERDICT = TIMES["extent_m"] + LATENCY + 2
#: What an operation reads must be there.
_NEEDS = {
    **dict.fromkeys(("map_pixels", "out_pixels", "taps"), WINDOW_WORDS),
    "mapped": TIMES["map_pixels"] + LATENCY,
    "given": TIMES["out_pixels"] + LATENCY,
    "grouped": TIMES["taps"] + LATENCY,
    "extent_b": TIMES["mapped"] + LATENCY,
    **dict.fromkeys(("extent_a", "extent_d", "extent_m"), TIMES["given"] + LATENCY),
    **{f"{x}_row": TIMES[f"{x}_pixel"] + LATENCY for x in "abd"},
    **{f"{x}_down": TIMES[f"{x}_row"] + LATENCY for x in "abd"},
    **{f"{x}_across": TIMES[f"{x}_pixel"] + LATENCY for x in "abd"},
}
assert all(TIMES[name] >= needed for name, needed in _NEEDS.items())
#: The rest of an operand is looked at so much later than its product is begun, to meet it.
_BESIDE = LATENCY - 3
# The words of a kernel's weights come two cycles into an operand's check.
assert TIMES["extent_b"] + _BESIDE + 2 >= TIMES["grouped"] + LATENCY


class StrideLayout(data.StructLayout):
    """How far it is, in words and in rows modulo N, from pixel to pixel and from row to row of pixels; `down` and
    `across` are multiples of these that a walk begins at, or goes on by."""

    def __init__(self, n: int, bits: int) -> None:
        place = data.StructLayout({"address": unsigned(bits), "turn": unsigned(n.bit_length() - 1)})
        super().__init__({"pixel": place, "row": place, "down": place, "across": place})


class GeometryLayout(data.StructLayout):
    """What stays while an instruction runs.

    matrix: what it drains or moves. span: steps of a tap (FORWARD, BACKWARD) or a pixel (UPDATE). several: the kernel
    has several taps. group, grouped: words of a tap's weights, and of all taps', from tap to tap if these are rows;
    taps_turn: taps modulo N. a: of A's pixels; b: of B's pixels or
    taps; d: of D's pixels in UNPOOL. tap_*, place_*: where a walk begins: with this tap (in UPDATE this map pixel) and
    this map pixel (in BACKWARD and UPDATE this output pixel). Without windows the first two are all.
    """

    def __init__(self, n: int, bits: int, *, windows: bool = True) -> None:
        stride = StrideLayout(n, bits)
        plain = {"matrix": ShapeLayout(windows=windows), "span": unsigned(16)}
        super().__init__(
            plain
            if not windows
            else {
                **plain,
                "several": unsigned(1),
                "group": unsigned(bits),
                "grouped": unsigned(bits),
                "taps_turn": unsigned(n.bit_length() - 1),
                "a": stride,
                "b": stride,
                "d": stride,
                **{f"{what}_{axis}": unsigned(8) for what in ("tap", "place") for axis in ("down", "across")},
            }
        )


class Geometry(wiring.Component):
    """Sizes and strides of an instruction, and whether its operands lie inside their memories.

    first: in the next cycle the fields of FIRST_WORD are there, those of the window's words WINDOW_WORDS later; from
    then on they are static. `misplaced` is valid VERDICT cycles after that next cycle, `o` SETTLE cycles after it, its
    matrix and span before the verdict. clear: forget what was begun, and `misplaced`. misplaced: an operand ends beyond
    its memory, or its rows overlap. One multiplier.
    """

    def __init__(self, params: CoreParams, bits: int) -> None:
        self.params, self.bits = params, bits
        super().__init__(
            {
                "fields": In(FieldsLayout),
                "first": In(1),
                "clear": In(1),
                "misplaced": Out(1),
                "o": Out(GeometryLayout(params.n, bits, windows=bool(params.windows))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        f, n = self.fields, self.params.n
        bits, log = self.bits, n.bit_length() - 1
        o = register(self.o.shape())
        m.d.comb += self.o.eq(o)
        # One bit wanders: which operation is begun.
        now = Signal(SETTLE)
        m.d.sync += now.eq(Mux(self.clear & ~self.first, 0, Cat(self.first, now[:-1])))

        has, windows = self.params.opcodes, bool(self.params.windows)

        def kind(name: str, *codes: Opcode) -> Any:
            return passes.flag(m, f.opcode, name, *codes, has=has)

        forward, backward, update = (kind(f"is_{op.name.lower()}", op) for op in passes.PRODUCTS)
        moved, kernel_update = kind("moved", Opcode.LOAD, Opcode.STORE), kind("kernel_update", Opcode.DW_UPDATE)
        # B is weights, or a kernel's rows; A, or D, is a map as large as the output; tiles are rows.
        weighted, rowed = kind("weighted", *passes.WEIGHTED), kind("rowed", *passes.KERNEL_ROWS)
        gives = kind("gives", *passes.TO_OUTPUT, Opcode.POOL)
        takes = kind("takes", *passes.TO_MAP, *passes.TO_TAPS, Opcode.UNPOOL)
        rowwise = kind("rowwise", *passes.ROWWISE)

        # Rows of a pixel, columns of a group of weights and its words, and what is walked.
        samples, grouped_cols, group = Signal(16), register(16), o.group if windows else register(bits)
        apart = register() if windows else Const(0, 1)
        taps, kernel_rows = register(16) if windows else Const(1, 1), register(16)
        m.d.comb += samples.eq(Mux(update, f.depth, f.rows))
        m.d.sync += [
            grouped_cols.eq(Mux(forward, f.depth, f.cols) - apart),
            group.eq(Mux(rowed, f.b_pitch, (grouped_cols + (n - 1)) >> log)),
            kernel_rows.eq(taps + f.bias),
            o.span.eq(Mux(rowwise, 1, Mux(forward, grouped_cols, Mux(kernel_update, f.rows, f.depth)))),
            o.matrix.rows.eq(Mux(kernel_update, kernel_rows, f.rows)),
            o.matrix.cols.eq(Mux(update | moved, grouped_cols, f.cols)),
        ]

        # What is multiplied: the rows of each operand by its pitch. Those of B and D may be none of a map's.
        mapped, given, grouped = register(SIZE_BITS), register(SIZE_BITS), register(SIZE_BITS)
        b_apart, d_apart, b_rows, d_rows = register(), register(), register(16), register(16)
        m.d.sync += [
            b_apart.eq(weighted | f.broadcast),
            b_rows.eq(Mux(rowed, taps + f.bias, Mux(forward, f.cols, Mux(backward, f.depth, f.rows)))),
            d_apart.eq(update | kernel_update),
            d_rows.eq(Mux(update, f.rows, kernel_rows)),
        ]
        rows = {
            "a": Mux(takes, given, mapped),
            "b": Mux(b_apart, b_rows, mapped),
            "d": Mux(gives, given, Mux(d_apart, d_rows, mapped)),
            "m": Mux(gives, given, mapped),
        }
        factors: dict[str, tuple[Any, Any]] = {f"extent_{p}": (rows[p], f[f"{p}_pitch"]) for p in "abdm"}
        product, results = register(SIZE_BITS + 16), dict[str, Any]()
        if windows:
            m.d.sync += [
                o.several.eq((f.kernel_height != 1) | (f.kernel_width != 1)),
                apart.eq(f.bias & o.several),
                o.grouped.eq(grouped),
                o.taps_turn.eq(taps),
            ]
            map_pixels, out_pixels, to_map = register(16), register(16), kind("to_map", *passes.TO_MAP, Opcode.UNPOOL)
            m.d.sync += [
                o.matrix.groups.eq(Mux(update | moved, taps, 1)),
                o.matrix.tail.eq((update | moved) & apart),
                o.matrix.pixels.eq(Mux(gives, out_pixels, Mux(to_map | moved, map_pixels, 1))),
            ]
            self._begin(m, o)
            size = Mux(product[SIZE_BITS:].any(), (1 << SIZE_BITS) - 1, product[:SIZE_BITS])
            factors |= {
                "map_pixels": (f.map_height, f.map_width),
                "out_pixels": (f.out_height, f.out_width),
                "taps": (f.kernel_height, f.kernel_width),
                "mapped": (map_pixels, samples),
                "given": (out_pixels, samples),
                "grouped": (group, taps),
            }
            results |= {
                "map_pixels": map_pixels.eq(product),
                "out_pixels": out_pixels.eq(product),
                "taps": taps.eq(product),
                "mapped": mapped.eq(size),
                "given": given.eq(size),
                "grouped": grouped.eq(size),
            }
            strides = self._strides(m, o, samples, gives=gives, weighted=weighted, rowed=rowed)
            factors |= strides
            results |= {name: _stride(o, name).eq(product) for name in strides}
        else:
            m.d.sync += [mapped.eq(samples), given.eq(samples), grouped.eq(group)]

        # The multiplier: operands, product, result.
        x, y = register(SIZE_BITS), register(16)
        low, high = register(32), register(SIZE_BITS)
        m.d.sync += [low.eq(x[:16] * y), high.eq(x[16:] * y), product.eq(low + (high << 16))]
        chosen: tuple[list[Any], list[Any]] = ([], [])
        names = [name for name in TIMES if name in factors]
        for k in range(0, len(names), CHOICE):
            for side, (part, width) in enumerate((("x", SIZE_BITS), ("y", 16))):
                some = register(width, name=f"{part}_{k}")
                begun = [Mux(now[TIMES[name]], factors[name][side], 0)[:width] for name in names[k : k + CHOICE]]
                m.d.sync += some.eq(any_of(begun))
                chosen[side].append(some)
        m.d.sync += [x.eq(any_of(chosen[0])), y.eq(any_of(chosen[1]))]
        for name, result in results.items():
            with m.If(now[TIMES[name] + LATENCY - 1]):
                m.d.sync += result
        if windows:
            # B of FORWARD and BACKWARD is taps, how far it is between which is known without a product.
            with m.If(now[TIMES["b_row"]] & weighted):
                m.d.sync += o.b.pixel.address.eq(group)
        self._place(m, now, x, product, grouped, apart, grouped_cols)
        return m

    def _strides(
        self, m: Module, o: Any, samples: Any, *, gives: Any, weighted: Any, rowed: Any
    ) -> dict[str, tuple[Any, Any]]:
        """How far it is from pixel to pixel: products of words, and rows modulo N."""
        f, log = self.fields, self.params.n.bit_length() - 1
        pools = passes.flag(m, f.opcode, "pools", *passes.POOLS)
        begins = {
            **{f"a_{axis}": Mux(pools, f[f"kernel_{size}"], o[f"place_{axis}"]) for axis, size in _AXES},
            **{f"b_{axis}": Mux(pools, f[f"kernel_{size}"], o[f"tap_{axis}"]) for axis, size in _AXES},
            **{f"d_{axis}": f[f"kernel_{size}"] for axis, size in _AXES},
        }
        wide_of = {
            "a": Mux(gives, f.map_width, f.out_width),
            "b": Mux(weighted, f.kernel_width, f.map_width),
            "d": f.map_width,
        }
        factors: dict[str, tuple[Any, Any]] = {}
        for p in "abd":
            # Taps have no rows, or are rows.
            stride, still = o[p], Const(0, 1) if p == "a" else weighted
            pixel = Mux(weighted, o.group, o.b.pixel.address) if p == "b" else stride.pixel.address
            m.d.sync += [
                stride.pixel.turn.eq(Mux(still, rowed, samples[:log])),
                stride.row.turn.eq(_times(stride.pixel.turn, wide_of[p][:log])),
                stride.down.turn.eq(_times(stride.row.turn, begins[f"{p}_down"][:log])),
                stride.across.turn.eq(_times(stride.pixel.turn, begins[f"{p}_across"][:log])),
            ]
            factors |= {
                f"{p}_pixel": (f[f"{p}_pitch"], samples),
                f"{p}_row": (pixel, wide_of[p]),
                f"{p}_down": (stride.row.address, begins[f"{p}_down"]),
                f"{p}_across": (pixel, begins[f"{p}_across"]),
            }
        return factors

    def _begin(self, m: Module, o: Any) -> None:
        """Where the first pixel of a walk begins: FORWARD with tap `pad` and map pixel 0, or the tap 0 and map pixel 0;
        BACKWARD's map pixel 0 with the last output pixel that reaches it; UPDATE's tap 0 with the first output pixel
        that meets the map."""
        f = self.fields
        for axis, size in _AXES:
            pad, far = f[f"pad_{size}"], f[f"out_{size}"]
            halved, last = register(8, name=f"halved_{axis}"), register(8, name=f"last_{axis}")
            forward, update = register(name=f"forward_{axis}"), register(name=f"update_{axis}")
            m.d.sync += [
                forward.eq(among(f.opcode, passes.TO_OUTPUT)),
                update.eq(among(f.opcode, passes.TO_TAPS)),
                last.eq(far - 1),
                halved.eq(Mux(f.stride, (pad + update) >> 1, pad)),
            ]
            place, tap = o[f"place_{axis}"], o[f"tap_{axis}"]
            doubled = place << f.stride
            with m.If(forward):
                m.d.sync += [place.eq(0), tap.eq(pad)]
            with m.Elif(update):
                m.d.sync += [place.eq(halved), tap.eq(doubled - pad)]
            with m.Else():
                m.d.sync += [place.eq(Mux(halved < last, halved, last)), tap.eq(pad - doubled)]

    def _place(self, m: Module, now: Any, x: Any, product: Any, grouped: Any, apart: Any, grouped_cols: Any) -> None:
        """The check of an operand: its columns, its words, what they begin at, its end."""
        f, params, n = self.fields, self.params, self.params.n
        log = n.bit_length() - 1

        # What an operand is, by the opcode alone, then what that makes of the fields: registers, long before they are
        # looked at.
        def kind(p: str, name: str, codes: Iterable[Opcode]) -> Any:
            return passes.flag(m, f.opcode, f"{name}_{p}", *codes, has=params.opcodes)

        depth, less, no_constant, masked = register(16), register(16), register(), register()
        m.d.sync += [depth.eq(f.depth - f.bias), less.eq(f.cols - f.bias)]
        m.d.sync += [no_constant.eq(f.constant == 0), masked.eq(f.mask)]
        widths = {
            "a": Mux(kind("a", "deep", passes.PRODUCTS[:2]), depth, Mux(kind("a", "turned", _UPDATE), f.rows, f.cols))
        }
        widths["b"] = Mux(kind("b", "turned", _UPDATE), less, f.cols)
        needed = {"b": no_constant | ~kind("b", "kernels", passes.KERNEL_ROWS), "m": masked}
        used, cols, weights, memory = Signal(), Signal(16), Signal(), Signal(range(len(Memory)))
        base, pitch = Signal(20), Signal(12)
        for p in "abdm":
            is_used, its_cols = register(name=f"used_{p}"), register(16, name=f"cols_{p}")
            its_memory, grouped_too = register(range(len(Memory)), name=f"memory_{p}"), kind(p, "grouped", _GROUPED[p])
            in_act, in_wgt = kind(p, "act", _IN_ACT[p]), kind(p, "wgt", _IN_WGT[p])
            place = Mux(in_act, Memory.ACT, Mux(in_wgt, Memory.WGT, Memory.ERR))
            m.d.sync += [
                is_used.eq(kind(p, "has", _USED[p]) & needed.get(p, 1)),
                its_cols.eq(Mux(grouped_too, grouped_cols, widths.get(p, f.cols))),
                its_memory.eq(Mux(kind(p, "named", _NAMED[p]), f.memory, place)),
            ]
            with m.If(now[TIMES[f"extent_{p}"] + _BESIDE]):
                m.d.comb += [
                    base.eq(f[f"{p}_base"]),
                    pitch.eq(f[f"{p}_pitch"]),
                    used.eq(is_used),
                    cols.eq(its_cols),
                    weights.eq(grouped_too),
                    memory.eq(its_memory),
                ]

        # Beside the multiplier: operands; words of a row or group; the end less the product; the end.
        depths = Array(Const(params.depth(k), SIZE_BITS) for k in Memory)
        used_1, cols_1, weights_1, base_1, pitch_1 = register(), register(16), register(), register(20), register(12)
        used_2, blocks, weights_2, below = register(), register(17), register(), register(signed(22))
        used_3, above, used_4, several_3 = register(), register(signed(24)), register(), register()
        pitch_3, words_3 = register(12), register(SIZE_BITS + 1)
        words = Mux(weights_2, grouped + apart, blocks)
        pitch_2, limit = register(12), [register(SIZE_BITS, name=f"limit_{k}") for k in range(4)]
        extent, far, wrong = register(SIZE_BITS + 16), register(signed(SIZE_BITS + 18)), register()
        many, several = register(), register()  # rows
        m.d.sync += [
            used_1.eq(used),
            cols_1.eq(cols),
            weights_1.eq(weights),
            base_1.eq(base),
            pitch_1.eq(pitch),
            limit[0].eq(depths[memory]),
            used_2.eq(used_1),
            blocks.eq((cols_1 + (n - 1)) >> log),
            weights_2.eq(weights_1),
            below.eq(base_1 - pitch_1),
            pitch_2.eq(pitch_1),
            pitch_3.eq(pitch_2),
            *(late.eq(early) for early, late in zip(limit, limit[1:], strict=False)),
            many.eq(x > 1),
            several.eq(many),
            used_3.eq(used_2),
            above.eq(below + words),
            words_3.eq(words),
            several_3.eq(several),
            extent.eq(product),
            far.eq(extent + above),
            wrong.eq(several_3 & (pitch_3 < words_3)),
            used_4.eq(used_3),
        ]
        with m.If(self.clear):
            m.d.sync += self.misplaced.eq(0)
        with m.Elif(used_4 & (wrong | (far > limit[3]))):
            m.d.sync += self.misplaced.eq(1)


_AXES = (("down", "height"), ("across", "width"))
_UPDATE = (Opcode.UPDATE,)
#: By operand: the passes that have it, that have it in ACT, in WGT, where they name it, and all others in ERR; those in
#: whose groups it lies.
_USED: Mapping[str, Sequence[Opcode]] = {
    "a": [op for op in Opcode if op not in (Opcode.HALT, Opcode.LOAD)],
    "b": [op for op in Opcode if op not in (Opcode.HALT, *passes.MOVES, Opcode.POOL, Opcode.LOOKUP)],
    "d": [op for op in Opcode if op not in (Opcode.HALT, Opcode.STORE)],
    "m": passes.MASKED,
}
_IN_ACT: Mapping[str, Sequence[Opcode]] = {
    "a": passes.A_IN_ACT,
    "b": (*passes.B_IN_ACT, Opcode.MULTIPLY),
    "d": passes.TO_ACT,
    "m": passes.MASKED,
}
_IN_WGT: Mapping[str, Sequence[Opcode]] = {"a": (), "b": passes.WEIGHTED, "d": passes.TO_TAPS, "m": ()}
_NAMED: Mapping[str, Sequence[Opcode]] = {
    "a": (Opcode.STORE, Opcode.ADD, Opcode.MULTIPLY),
    "b": (Opcode.ADD,),
    "d": (Opcode.LOAD, Opcode.ADD, Opcode.MULTIPLY),
    "m": (),
}
_GROUPED: Mapping[str, Sequence[Opcode]] = {
    "a": (Opcode.STORE,),
    "b": passes.PRODUCTS[:2],
    "d": (Opcode.LOAD, Opcode.UPDATE),
    "m": (),
}


def _stride(o: Any, name: str) -> Any:
    """The stride that a product is: of a_row o.a.row."""
    operand, what = name.split("_")
    return o[operand][what].address


def _times(x: Value, y: Value) -> Value:
    """The product of a few bits, of which as few are kept: adders, where `*` would take a whole multiplier."""
    total: Value = Mux(y[0], x, 0)
    for k in range(1, len(y)):
        total = (total + Mux(y[k], x << k, 0))[: len(x)]
    return total
