"""Walks over a window: from the taps and pixels that meet to the places where a pass' steps begin.

Nothing that is not there is ever looked at: along each axis the taps (of FORWARD and BACKWARD) or output pixels (of
UPDATE) that meet something are a run, whose beginning and length follow from those of the pixel or tap before.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from amaranth import Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from insitu.arch.isa import Opcode
from insitu.arch.layout import Memory
from insitu.fpga import passes
from insitu.fpga.common import FieldsLayout, delay, register
from insitu.fpga.geometry import GeometryLayout
from insitu.fpga.tiles import Extent, Loop


class PlaceLayout(data.StructLayout):
    """A word's address, and the number of its row modulo N."""

    def __init__(self, n: int, bits: int) -> None:
        super().__init__({"address": unsigned(bits), "turn": unsigned(n.bit_length() - 1)})


class SegmentLayout(data.StructLayout):
    """Steps of a tile that follow one another in both operands, and where they begin.

    a, b: places; where A is read by columns, its address is less by the pitch times its turn. single: one step, else
    those of the span. zero: A counts as zero. extra: of the bias, where that stands apart; or, after a row's words, the
    turn of what lies in the same memory: of B, which A's place then is, or of the mask. right: in the last block of
    columns. last: of its tile; final: of the pass.
    """

    def __init__(self, n: int, bits: int) -> None:
        place = PlaceLayout(n, bits)
        flags = ("single", "zero", "extra", "right", "last", "final")
        super().__init__({"a": place, "b": place, **dict.fromkeys(flags, 1)})


def _set(place: Any, address: Value, turn: Value) -> list[Any]:
    return [place.address.eq(address), place.turn.eq(turn)]


def _sum(*places: Any) -> tuple[Value, Value]:
    address, turn = places[0].address, places[0].turn
    for place in places[1:]:
        address, turn = address + place.address, turn + place.turn
    return address, turn


class Modes:
    """How a pass goes over its window, as registers of a module; constants where a core `has` none of such passes."""

    def __init__(self, m: Module, opcode: Any, has: Collection[Opcode] = tuple(Opcode)) -> None:
        def flag(name: str, *codes: Opcode) -> Any:
            return passes.flag(m, opcode, name, *codes, has=has)

        self.forward, self.backward = flag("forward", *passes.TO_OUTPUT), flag("backward", *passes.TO_MAP)
        self.update = flag("update", *passes.TO_TAPS)
        self.pool, self.unpool = flag("pool", Opcode.POOL), flag("unpool", Opcode.UNPOOL)
        self.pools = flag("pools", *passes.POOLS)
        #: Of the array; by rows: a tile is a row.
        self.product, self.rowwise = flag("product", *passes.PRODUCTS), flag("rowwise", *passes.ROWWISE)
        #: Its bias, if any, is apart from all taps.
        self.kernel_row, self.kernel_update = (
            flag("kernel_row", Opcode.DW_FORWARD),
            flag("kernel_update", Opcode.DW_UPDATE),
        )
        #: B lies as A; both are gone over together.
        self.paired = flag("paired", *passes.PAIRED)


class Axis(wiring.Component):
    """One axis of a window: goes over the output pixels (FORWARD, POOL and what goes as they do), map pixels
    (BACKWARD), taps (UPDATE), or kernels side by side over the map (UNPOOL), and says what each of them meets.

    geometry: static from SETTLE cycles before `start` on, its taps and places and the fields for longer. start: go to
    the first. step: go to the
    next; from the last to the first. last: this is the last. A run of pairs is met, maybe of none, that begins at `a`
    (of A's pixels) and `b` (of taps, or B's pixels); how many are in `count`, two cycles later. missed: likewise, in
    UNPOOL: no output pixel has this kernel.

    With `tap` the tap, or map pixel of UPDATE, and `place` the pixel of A, of the run's first pair: FORWARD begins
    above the map, at tap `pad` of map pixel 0, and a step on leaves fewer taps out, until tap 0 is inside. BACKWARD
    begins with the last output pixel there is for its map pixel, and UPDATE with the first that its tap puts inside:
    from either, a step takes the next tap or map pixel, or once that has come a whole stride, the output pixel beside.
    """

    SETTLE = 1

    def __init__(self, n: int, bits: int, *, down: bool, has: Collection[Opcode] = tuple(Opcode)) -> None:
        self.n, self.bits, self.has = n, bits, has
        self.axis, self.size, self.unit = ("down", "height", "row") if down else ("across", "width", "pixel")
        place = PlaceLayout(n, bits)
        super().__init__(
            {
                "fields": In(FieldsLayout),
                "geometry": In(GeometryLayout(n, bits)),
                "start": In(1),
                "step": In(1),
                "a": Out(place),
                "b": Out(place),
                "last": Out(1),
                "count": Out(8),
                "missed": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        f, g, mode = self.fields, self.geometry, Modes(m, self.fields.opcode, self.has)
        forward, update, unpool, pools = mode.forward, mode.update, mode.unpool, mode.pools
        kernel, mapped, given = (f[f"{what}_{self.size}"] for what in ("kernel", "map", "out"))
        # From a pixel of the same map to the next B goes on as A does.
        beside = register()
        m.d.sync += beside.eq(mode.paired & ~f.broadcast)
        first_tap, first_place = g[f"tap_{self.axis}"], g[f"place_{self.axis}"]
        unit, skip = (g.a[self.unit], g.b[self.unit]), (g.a[self.axis], g.b[self.axis])
        shape = PlaceLayout(self.n, self.bits)

        # How `tap` with b, and `place` with a, change: at `stay` the one, at `cross` both, at `move` the other.
        names = ("stay", "cross", "move")
        tap_by = {name: register(signed(10), name=f"tap_{name}") for name in names}
        place_by = {name: register(signed(9), name=f"place_{name}") for name in names}
        a_by = {name: register(shape, name=f"a_{name}") for name in names}
        b_by = {name: register(shape, name=f"b_{name}") for name in names}
        m.d.sync += [
            tap_by["stay"].eq(Mux(forward, -1 - f.stride, 1)),
            tap_by["cross"].eq(Mux(forward | f.stride, -1, 0)),
            tap_by["move"].eq(Mux(unpool, kernel, 0)),
            place_by["stay"].eq(0),
            place_by["cross"].eq(Mux(update, -1, 1)),
            place_by["move"].eq(Mux(mode.pool, kernel, Mux(unpool, 1, 1 + f.stride))),
        ]
        for part in ("address", "turn"):
            a_one, b_one = unit[0][part], unit[1][part]
            m.d.sync += [
                a_by["stay"][part].eq(0),
                a_by["cross"][part].eq(Mux(update, -a_one, a_one)),
                a_by["move"][part].eq(Mux(mode.pool, skip[0][part], Mux(unpool, a_one, a_one << f.stride))),
                b_by["stay"][part].eq(Mux(forward, -(b_one << f.stride), b_one)),
                b_by["cross"][part].eq(Mux(forward | f.stride, -b_one, 0)),
                b_by["move"][part].eq(Mux(unpool, skip[1][part], Mux(beside, b_one, 0))),
            ]
        begin_tap, begin_place = register(8), register(8)
        begin = [register(shape, name=f"begin_{name}") for name in "ab"]
        m.d.sync += [
            begin_tap.eq(Mux(pools, 0, first_tap)),
            begin_place.eq(Mux(pools, 0, first_place)),
            *(place.eq(Mux(pools, 0, away)) for place, away in zip(begin, skip, strict=True)),
        ]

        # A run may begin beyond the last tap or pixel; it is then empty.
        tap, place = register(signed(10)), register(signed(18))
        a, b = register(shape), register(shape)
        end = register(8)
        m.d.sync += end.eq(Mux(update, 0, given - 1))
        m.d.comb += [self.a.eq(a), self.b.eq(b)]
        # What comes next is known when its tap and pixel are: `crosses`, `moves`, neither.
        crosses, moves, begin_crosses, begin_moves = register(), register(), register(), register()
        at_end, begin_at_end, end_before = register(), register(), register(8)
        strides, toward = register(), register()
        m.d.sync += [
            strides.eq(f.stride),
            toward.eq(forward & ~pools),
            end_before.eq(Mux(update, 1, given - 2)),
            begin_at_end.eq(begin_place == end),
            begin_moves.eq(pools | (forward & (begin_tap == 0))),
            begin_crosses.eq(
                ~pools
                & Mux(forward, f.stride & (begin_tap == 1), ((begin_tap != 0) | ~f.stride) & (begin_place != end))
            ),
        ]
        # A pass that neither goes forward nor pools never has a tap below zero, nor a pixel beyond the end.
        nears_end = place[:8] == end_before
        stays = ~moves & ~crosses
        ready_next = stays | ~strides | tap[1:].any()
        at_end_next = Mux(stays, at_end, nears_end)
        to_zero = Mux(crosses, 1, Mux(moves, tap == 0, tap == Mux(strides, 2, 1)))
        to_one = strides & stays & (tap == 3)

        def chosen(by: dict[str, Any]) -> Value:
            return Mux(moves, by["move"], Mux(crosses, by["cross"], by["stay"]))

        total = register(8)
        m.d.sync += total.eq(Mux(mode.backward, mapped, Mux(update, kernel, given)))
        loop = Loop(m, total, "loop")
        # Kernels side by side until the map ends.
        ahead, covered, at_once = register(signed(10)), register(), register()
        m.d.sync += at_once.eq(mapped <= kernel)
        m.d.comb += self.last.eq(Mux(unpool, covered, loop.last))
        with m.If(self.start | (self.step & self.last)):
            m.d.sync += [tap.eq(begin_tap), place.eq(begin_place), a.eq(begin[0]), b.eq(begin[1])]
            m.d.sync += [*loop.first(), ahead.eq(mapped), covered.eq(at_once)]
            m.d.sync += [moves.eq(begin_moves), crosses.eq(begin_crosses), at_end.eq(begin_at_end)]
        with m.Elif(self.step):
            m.d.sync += [
                tap.eq(tap + chosen(tap_by)),
                place.eq(place + chosen(place_by)),
                *(
                    s[part].eq(s[part] + chosen({name: by[name][part] for name in names}))
                    for s, by in ((a, a_by), (b, b_by))
                    for part in ("address", "turn")
                ),
                *loop.next(),
                moves.eq(pools | (toward & to_zero)),
                crosses.eq(Mux(toward, to_one, ~pools & ready_next & ~at_end_next)),
                at_end.eq(at_end_next),
                ahead.eq(ahead - kernel),
                covered.eq(ahead <= (kernel << 1)),
            ]

        # What is left of both, a stride at a time where it goes by strides; then the lesser.
        tap_end, place_end, strided = register(signed(10)), register(signed(9)), register()
        m.d.sync += [
            tap_end.eq(Mux(update | unpool, mapped, kernel) + strided),
            place_end.eq(Mux(unpool, kernel, Mux(update, given, mapped))),
            strided.eq(f.stride & (mode.backward | update)),
        ]
        taps_left, places_left, beyond = register(signed(11)), register(signed(19)), register()
        m.d.sync += [
            taps_left.eq((tap_end - tap) >> strided),
            places_left.eq(Mux(mode.backward, place + 1, Mux(unpool, place_end, place_end - place))),
            beyond.eq(unpool & (place >= given)),
            self.missed.eq(beyond),
        ]
        with m.If((taps_left <= 0) | (places_left <= 0)):
            m.d.sync += self.count.eq(0)
        with m.Else():
            m.d.sync += self.count.eq(Mux(taps_left < places_left, taps_left, places_left))
        return m


class WindowWalker(wiring.Component):
    """The segments of a pass over a window, in the order of its sums, a segment a cycle.

    geometry: static from Axis.SETTLE cycles before `start` on, fields for longer. start: begin. segment, with `valid`,
    from LATENCY cycles after `start` on: what follows; taken with `take`, the next is there in the next cycle, as long
    as any are left.

    Tiles come as in arch/timing.py; POOL, UNPOOL and the vector passes have one for each pixel's row and block of
    columns, blocks outermost, and a segment a tap; DW_UPDATE one for each tap, the bias last, of a block. A tile that
    meets nothing has a single segment of zeros: one step, or, where the bias is one of the tap's columns, all of them.
    """

    #: A tile, sums of its places, all of a tile, what its segments begin with, two in its queue, its segment, that
    #: shown, a product, its difference, two in the queue.
    LATENCY = 12
    #: Tiles and segments that may wait, one of each on show, and with how many of them others are begun: it takes some
    #: cycles until those wait too.
    DEPTH = 17
    ENOUGH = 8

    def __init__(self, n: int, bits: int, has: Collection[Opcode] = tuple(Opcode)) -> None:
        self.n, self.bits, self.has = n, bits, has
        super().__init__(
            {
                "fields": In(FieldsLayout),
                "geometry": In(GeometryLayout(n, bits)),
                "start": In(1),
                "take": In(1),
                "valid": Out(1),
                "segment": Out(SegmentLayout(n, bits)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, bits, f, g = self.n, self.bits, self.fields, self.geometry
        log = n.bit_length() - 1
        mode = Modes(m, f.opcode, self.has)
        forward, update, unpool = mode.forward, mode.update, mode.unpool
        place = PlaceLayout(n, bits)
        room, tile_room, take = register(), register(), Signal()

        # 1: the tiles.
        m.submodules.rows = rows = Extent(n)
        m.submodules.cols = cols = Extent(n)
        m.d.comb += [rows.size.eq(f.rows), cols.size.eq(g.matrix.cols)]
        tiles_down = register(16)
        m.d.sync += tiles_down.eq(Mux(mode.rowwise, f.rows, Mux(mode.kernel_update, 1, rows.blocks)))
        down, across = Loop(m, tiles_down, "tile"), Loop(m, cols, "block")
        m.submodules.axis_down = y = Axis(n, bits, down=True, has=self.has)
        m.submodules.axis_across = x = Axis(n, bits, down=False, has=self.has)
        active, in_tail, step = Signal(), register(), Signal()
        m.d.comb += step.eq(active & tile_room)
        sided, inner_blocks, tailed, to_next_block = register(), register(), register(), register()
        m.d.sync += [
            sided.eq(unpool | mode.paired),
            inner_blocks.eq(update & ~mode.kernel_update),
            tailed.eq(Mux(mode.kernel_update, f.bias, update & g.matrix.tail)),
            to_next_block.eq(mode.rowwise | mode.kernel_update),
        ]
        # Places within a pixel, by rows of tiles, and beside it, by blocks of columns.
        a_down, b_down = register(place), register(place)
        a_base, b_base = register(bits), register(bits)
        a_by, b_by, b_block = register(bits), register(bits), register(bits)
        m.d.sync += [
            a_by.eq(Mux(mode.rowwise, f.a_pitch, Mux(update, 1, f.a_pitch << log))),
            b_by.eq(Mux(sided, f.b_pitch, 0)),
            b_block.eq(Mux(forward & mode.product, f.b_pitch << log, 1)),
        ]
        last_tile = Signal()
        # UPDATE goes through the blocks of every tap, and has its bias at the very end; DW_UPDATE goes through the
        # taps and the bias of every block.
        pixel_ends = down.last & (across.last | ~inner_blocks) & ~in_tail
        ended = across.last & x.last & y.last
        m.d.comb += last_tile.eq(down.last & Mux(in_tail, across.last | inner_blocks, ended & ~tailed))
        for axis in (x, y):
            m.d.comb += [axis.fields.eq(f), axis.geometry.eq(g), axis.start.eq(self.start)]
        m.d.comb += [x.step.eq(step & pixel_ends), y.step.eq(x.step & x.last)]
        with m.If(step):
            with m.If(~down.last):
                m.d.sync += [
                    *down.next(),
                    *_set(a_down, a_down.address + a_by, a_down.turn + mode.rowwise),
                    *_set(b_down, b_down.address + b_by, b_down.turn + sided),
                ]
            with m.Else():
                m.d.sync += [*down.first(), a_down.eq(0), b_down.eq(0)]
                with m.If(inner_blocks):
                    with m.If(across.last):
                        m.d.sync += [*across.first(), b_base.eq(f.b_base)]
                        m.d.sync += in_tail.eq(x.last & y.last)
                    with m.Else():
                        m.d.sync += [*across.next(), b_base.eq(b_base + b_block)]
                with m.Elif(x.last & y.last & tailed & ~in_tail):
                    m.d.sync += in_tail.eq(1)
                with m.Elif((x.last & y.last) | in_tail):
                    m.d.sync += [*across.next(), a_base.eq(a_base + to_next_block), b_base.eq(b_base + b_block)]
                    m.d.sync += in_tail.eq(0)
            m.d.sync += active.eq(~last_tile)
        with m.If(self.start):
            m.d.sync += [active.eq(1), in_tail.eq(0), *down.first(), *across.first(), a_down.eq(0), b_down.eq(0)]
            m.d.sync += [a_base.eq(f.a_base), b_base.eq(f.b_base)]

        # 2: sums of two places each. 3: of all, and how much is met.
        a_pair, b_pair, a_rest, b_rest = (
            register(place, name=name) for name in ("a_pair", "b_pair", "a_rest", "b_rest")
        )
        flags = data.StructLayout({"last": 1, "tail": 1, "right": 1})
        pair_flags, tile_flags = register(flags), register(flags)
        a, b = register(place, name="a_first"), register(place, name="b_first")
        # Of a tile's first tap, or beyond its last where the bias stands apart.
        bias_at, beyond_taps, bias_turn = register(bits), register(bits), register(log)
        m.d.sync += [
            beyond_taps.eq(Mux(g.several | mode.kernel_row, g.grouped, 0)),
            bias_turn.eq(Mux(mode.kernel_row, g.taps_turn, 0)),
        ]
        m.d.sync += [
            *_set(a_pair, *_sum(x.a, y.a)),
            *_set(b_pair, *_sum(x.b, y.b)),
            *_set(a_rest, a_base + a_down.address, a_down.turn),
            *_set(b_rest, b_base + b_down.address, b_down.turn),
            pair_flags.last.eq(last_tile),
            pair_flags.tail.eq(in_tail),
            pair_flags.right.eq(across.last),
            *_set(a, *_sum(a_pair, a_rest)),
            *_set(b, *_sum(b_pair, b_rest)),
            bias_at.eq(b_rest.address + beyond_taps),
            tile_flags.eq(pair_flags),
        ]
        # UPDATE's bias meets all of A, whatever the map.
        with m.If(pair_flags.tail):
            m.d.sync += _set(a, a_rest.address, a_rest.turn)
        height = Mux(tile_flags.tail, f.out_height, y.count)
        width = Mux(tile_flags.tail, f.out_width, x.count)
        empty = ~height.any() | ~width.any()

        # 4: what the segments of a tile begin with; a queue of that.
        apart, whole_tap = register(), register()
        # What B or the mask has its turn after is no bias.
        seconds, named_act, twice = register(), register(), register()
        m.d.sync += [
            named_act.eq(f.memory == Memory.ACT),
            twice.eq((f.opcode == Opcode.ADD) | ((f.opcode == Opcode.MULTIPLY) & named_act)),
            seconds.eq(twice | (mode.paired & f.mask)),
            apart.eq((forward & f.bias & (g.several | mode.kernel_row)) | seconds),
            whole_tap.eq(forward & f.bias & ~g.several & ~mode.kernel_row),
        ]
        a_x, b_x, a_y, b_y = (register(place, name=name) for name in ("a_x", "b_x", "a_y", "b_y"))
        strided = register()
        m.d.sync += strided.eq(f.stride & (mode.backward | update))
        for part in ("address", "turn"):
            for axis_a, axis_b, unit in ((a_x, b_x, "pixel"), (a_y, b_y, "row")):
                one, other = g.a[unit][part], g.b[unit][part]
                m.d.sync += [
                    axis_a[part].eq(Mux(unpool, 0, Mux(mode.backward, -one, one))),
                    axis_b[part].eq(other << strided),
                ]
        flags = ("empty", "single", "extra", "right", "zero", "apart", "last_x", "last_y", "only", "final")
        tile_shape = data.StructLayout(
            {"a": place, "b": place, "bias": bits, "wide": 8, "high": 8, **dict.fromkeys(flags, 1)}
        )
        whole = register(tile_shape)
        m.d.sync += [
            whole.a.eq(a),
            whole.b.eq(b),
            whole.bias.eq(bias_at),
            whole.wide.eq(width),
            whole.high.eq(height),
            whole.empty.eq(empty),
            whole.single.eq(empty & ~whole_tap),
            whole.extra.eq((empty & apart) | (tile_flags.tail & mode.kernel_update)),
            whole.right.eq(tile_flags.right),
            whole.zero.eq((empty & ~apart) | x.missed | y.missed),
            whole.apart.eq(apart & ~empty),
            whole.last_x.eq((width == 1) | empty),
            whole.last_y.eq((height == 1) | empty),
            whole.only.eq(empty | ((width == 1) & (height == 1) & ~apart)),
            whole.final.eq(tile_flags.last),
        ]
        tiles, tile = self._queue(m, "tiles", whole, delay(m, step, 3, "whole_valid")[-1], take)
        m.d.sync += tile_room.eq(tiles.level <= self.ENOUGH)

        # 5: the segments of a tile: a rectangle, then the bias where it is a group of its own.
        busy, shown, at = Signal(), register(SegmentLayout(n, bits)), register(bits)
        a_row, b_row = register(place), register(place)
        wide, left_x, left_y, last_x, last_y = register(8), register(8), register(8), register(), register()
        bias_next, final_next = register(), register()
        # `ends`: what is shown is the tile's last.
        ends, narrow = register(), register()
        m.d.comb += take.eq(room & tiles.r_rdy & (~busy | ends))
        out_valid, out = Signal(), register(SegmentLayout(n, bits))
        m.d.sync += out_valid.eq(busy & room)
        with m.If(room):
            m.d.sync += [out.eq(shown), out.last.eq(ends), out.final.eq(ends & final_next)]
        with m.If(room & busy & ~ends):
            with m.If(last_x & last_y):
                m.d.sync += [*_set(shown.b, at, bias_turn), shown.single.eq(1), shown.extra.eq(1), bias_next.eq(0)]
                m.d.sync += ends.eq(1)
                with m.If(seconds):
                    m.d.sync += shown.a.eq(shown.b)
            with m.Elif(~last_x):
                m.d.sync += [left_x.eq(left_x - 1), last_x.eq(left_x == 2)]
                m.d.sync += ends.eq((left_x == 2) & last_y & ~bias_next)
                m.d.sync += [*_set(shown.a, *_sum(shown.a, a_x)), *_set(shown.b, *_sum(shown.b, b_x))]
            with m.Else():
                m.d.sync += [left_x.eq(wide), last_x.eq(narrow), left_y.eq(left_y - 1), last_y.eq(left_y == 2)]
                m.d.sync += ends.eq(narrow & (left_y == 2) & ~bias_next)
                for row, by, now in ((a_row, a_y, shown.a), (b_row, b_y, shown.b)):
                    m.d.sync += [*_set(row, *_sum(row, by)), *_set(now, *_sum(row, by))]
        with m.If(take):
            m.d.sync += [
                busy.eq(1),
                shown.a.eq(tile.a),
                *_set(shown.b, Mux(tile.empty, tile.bias, tile.b.address), Mux(tile.empty, bias_turn, tile.b.turn)),
                *(shown[name].eq(tile[name]) for name in ("single", "extra", "right", "zero")),
                a_row.eq(tile.a),
                b_row.eq(tile.b),
                at.eq(tile.bias),
                wide.eq(tile.wide),
                left_x.eq(tile.wide),
                last_x.eq(tile.last_x),
                left_y.eq(tile.high),
                last_y.eq(tile.last_y),
                bias_next.eq(tile.apart),
                ends.eq(tile.only),
                narrow.eq(tile.last_x),
                final_next.eq(tile.final),
            ]
        with m.Elif(room & ends):
            m.d.sync += busy.eq(0)

        # 6, 7: columns begin at a row of bank 0.
        columns = register()
        m.d.sync += columns.eq(mode.product & (forward | mode.backward))
        held, turned, queued = register(out.shape()), register(len(f.a_pitch) + log), register(out.shape())
        m.d.sync += [
            held.eq(out),
            turned.eq(out.a.turn * f.a_pitch),
            queued.eq(held),
            queued.a.address.eq(held.a.address - Mux(columns, turned, 0)),
        ]
        queue, segment = self._queue(m, "queue", queued, delay(m, out_valid, 2, "out_valid")[-1], self.take)
        m.d.comb += [self.valid.eq(queue.r_rdy), self.segment.eq(segment)]
        m.d.sync += room.eq(queue.level <= self.ENOUGH)
        return m

    def _queue(self, m: Module, name: str, i: Any, valid: Any, take: Any) -> tuple[SyncFIFOBuffered, Any]:
        """A queue and what it shows, from registers."""
        # A multiple of four bits, as distributed memories are.
        width = len(i.as_value())
        queue = SyncFIFOBuffered(width=width + -width % 4, depth=self.DEPTH)
        m.submodules[name] = queue
        shown = Signal(i.shape(), name=f"{name}_shown")
        m.d.comb += [
            queue.w_data.eq(i),
            queue.w_en.eq(valid),
            queue.r_en.eq(take),
            shown.as_value().eq(queue.r_data[:width]),
        ]
        return queue, shown
