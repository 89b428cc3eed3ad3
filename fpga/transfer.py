"""The way to the memories and back: rows of lanes turned into banks, masters decremented, beats loaded and stored."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.isa import Opcode
from insitu.arch.params import CoreParams
from insitu.fpga import passes
from insitu.fpga.common import FieldsLayout, copies, count_of, delay, lanes, register, stepped
from insitu.fpga.fit import Fit, FitLayout
from insitu.fpga.memory import address_bits
from insitu.fpga.passes import among
from insitu.fpga.rotate import Rotator
from insitu.fpga.tiles import Columns, Loop, ShapeLayout, pixels

#: From a row's lanes to its words at the memories: a register, to banks, less the decrement, fit.
WRITE_LATENCY = 1 + Rotator.LATENCY + 1 + Fit.LATENCY
#: Beats that may be on their way out of the memories.
SLOTS = 16


class BeatLayout(data.StructLayout):
    """A beat of the output stream; last: of its STORE."""

    def __init__(self, bits: int) -> None:
        super().__init__({"data": unsigned(bits), "last": unsigned(1)})


class BeatCounter(wiring.Component):
    """The beats of LOAD and STORE. shape: from Extent.SETTLE cycles before `start` on. more: from the cycle after
    `start` on until `step` was set once a beat."""

    def __init__(self, n: int, *, windows: bool = True) -> None:
        self.n, self.windows = n, windows
        shape = ShapeLayout(windows=windows)
        super().__init__({"start": In(1), "shape": In(shape), "step": In(1), "more": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        sample, pixel = Loop(m, self.shape.rows, "sample"), pixels(m, self.shape, windows=self.windows)
        columns = Columns(m, self.n, self.shape, windows=self.windows)
        with m.If(self.start):
            m.d.sync += [*sample.first(), *pixel.first(), *columns.first(), self.more.eq(1)]
        with m.Elif(self.step):
            columns.step(m)
            with m.If(columns.last):
                m.d.sync += self.more.eq(~(sample.last & pixel.last))
                with m.If(~sample.last):
                    m.d.sync += sample.next()
                with m.Else():
                    m.d.sync += [*sample.first(), *pixel.next()]
        return m


class Transfer(wiring.Component):
    """One rotator for all that is written, and for what STORE reads.

    Rows from the drain (value, delta) or from beats, with their place (`row`, `address`, `col_lanes`, from a RowWalker)
    and `valid`; in `write_*` WRITE_LATENCY cycles after the lanes, but the address a cycle before: every memory
    has a register of its own. In UPDATE the masters must be in `words` as the lanes leave the rotator, zeros but there
    and in STORE. stored: `words` of a STORE's row were read; `stored_row`, `stored_lanes` of it. beat: what goes out,
    valid with `beat_valid`. unfit: masters that were saturated, a count a row. One row a cycle, no back pressure: the
    owner holds credits.
    """

    def __init__(self, params: CoreParams, value_bits: int, delta_bits: int) -> None:
        self.params, self.value_bits, self.delta_bits = params, value_bits, delta_bits
        n = params.n
        self.word_bits = max(params.word_bits(k) for k in params.memories)
        self.lane_bits = max(self.word_bits, delta_bits, value_bits)
        self.bits = max(address_bits(params.depth(k)) for k in params.memories)
        log = n.bit_length() - 1
        super().__init__(
            {
                "fields": In(FieldsLayout),
                "fit": In(FitLayout(self.word_bits)),
                "value": In(lanes(signed(value_bits), n)),
                "delta": In(lanes(signed(delta_bits), n)),
                "beat_in": In(lanes(signed(params.lane_bits), n)),
                "valid": In(1),
                "row": In(log),
                "address": In(self.bits),
                "col_lanes": In(n),
                "words": In(lanes(signed(self.word_bits), n)),
                "stored": In(1),
                "stored_row": In(log),
                "stored_lanes": In(n),
                "stored_last": In(1),
                "beat_valid": Out(1),
                "beat": Out(BeatLayout(params.stream_bits)),
                "write_lanes": Out(n),
                "write_address": Out(self.bits),
                "write_data": Out(lanes(signed(self.word_bits), n)),
                "unfit": Out(range(n + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, f = self.params.n, self.fields
        is_load, is_store, is_update = register(), register(), register()
        m.d.sync += [
            is_load.eq(f.opcode == Opcode.LOAD),
            is_store.eq(f.opcode == Opcode.STORE),
            is_update.eq(among(f.opcode, passes.TO_TAPS)),
        ]
        # Every lane has these of its own.
        loads, stores, updates = (
            copies(m, flag, n, name)
            for flag, name in ((is_load, "loads"), (is_store, "stores"), (is_update, "updates"))
        )
        lane = data.StructLayout({"value": signed(self.lane_bits), "valid": unsigned(1)})
        m.submodules.rotator = rotator = Rotator(n, lane)

        held = register(lanes(signed(self.lane_bits), n))
        for k in range(n):
            with m.If(loads[k]):
                m.d.sync += held[k].eq(self.beat_in[k])
            with m.Elif(stores[k]):
                m.d.sync += held[k].eq(self.words[k])
            with m.Elif(updates[k]):
                # -1 - delta; the one comes back where it is added.
                m.d.sync += held[k].eq(~self.delta[k])
            with m.Else():
                m.d.sync += held[k].eq(self.value[k])
        amount, held_lanes = register(n.bit_length() - 1), register(n)
        m.d.sync += [
            amount.eq(Mux(is_store, self.stored_row, -self.row)),
            held_lanes.eq(self.col_lanes),
        ]
        m.d.comb += rotator.amount.eq(amount)
        for k in range(n):
            m.d.comb += [rotator.i[k].value.eq(held[k]), rotator.i[k].valid.eq(held_lanes[k])]

        # Out of the memories.
        shown = delay(m, self.stored_lanes, 1 + Rotator.LATENCY, "stored_lanes")[-1]
        last = delay(m, self.stored_last, 1 + Rotator.LATENCY, "stored_last")[-1]
        stored = delay(m, self.stored, 1 + Rotator.LATENCY, "stored")[-1]
        m.d.comb += [self.beat_valid.eq(stored), self.beat.last.eq(last)]
        width = self.params.lane_bits
        for k in range(n):
            whole = Signal(signed(width), name=f"whole_{k}")
            m.d.comb += [
                whole.eq(Mux(shown[k], rotator.o[k].value, 0)),
                self.beat.data[k * width : (k + 1) * width].eq(whole),
            ]

        # Into them.
        valid = delay(m, self.valid, WRITE_LATENCY, "valid")
        banks = Signal(n)
        m.d.comb += banks.eq(Cat(rotator.o[k].valid for k in range(n)))
        bank_lanes = delay(m, banks, 1 + Fit.LATENCY, "banks")
        counted, changed = register(n), []
        m.d.sync += counted.eq(Mux(is_update & valid[-2], bank_lanes[-2], 0))
        for k in range(n):
            m.submodules[f"fit_{k}"] = fit = Fit(max(self.lane_bits, self.word_bits) + 1, self.word_bits)
            new = register(signed(fit.bits_in), name=f"new_{k}")
            moved = Cat(updates[k], rotator.o[k].value).as_signed()
            m.d.sync += new.eq((Cat(Const(1, 1), self.words[k]).as_signed() + moved) >> 1)
            m.d.comb += [fit.control.eq(self.fit), fit.i.eq(new), self.write_data[k].eq(fit.o)]
            changed.append(fit.changed & counted[k])
        m.d.comb += [
            self.write_lanes.eq(bank_lanes[-1] & valid[-1].replicate(n)),
            self.write_address.eq(delay(m, self.address, WRITE_LATENCY - 1, "address")[-1]),
        ]
        m.d.comb += self.unfit.eq(count_of(m, changed, "unfit_lanes"))
        return m


class OutputQueue(wiring.Component):
    """SLOTS beats and one on display, which stays there until it is taken whatever happens to the others.

    flush: drops all but the one on display. taken: a beat went from the slots to the display.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__(
            {
                "flush": In(1),
                "i_valid": In(1),
                "i": In(BeatLayout(bits)),
                "taken": Out(1),
                "o": Out(stream.Signature(BeatLayout(bits))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # A multiple of four bits, as distributed memories are: yosys's ABC9 stumbles over the rest of one.
        m.submodules.slots = slots = memory.Memory(shape=self.bits + 4, depth=SLOTS, init=[])
        write, read = slots.write_port(), slots.read_port(domain="comb")
        filled, taken_from, level = Signal(range(SLOTS)), Signal(range(SLOTS)), Signal(range(SLOTS + 1))
        # Whether a beat waits, as a register.
        waits, free = Signal(), ~self.o.valid | self.o.ready
        m.d.comb += [
            self.taken.eq(free & waits),
            write.addr.eq(filled),
            write.data.eq(Cat(self.i.data, self.i.last)),
            write.en.eq(self.i_valid),
            read.addr.eq(taken_from),
        ]
        m.d.sync += [
            filled.eq(filled + self.i_valid),
            level.eq(stepped(level, self.i_valid, self.taken)),
            waits.eq(self.i_valid | Mux(self.taken, level > 1, waits)),
        ]
        with m.If(self.taken):
            m.d.sync += taken_from.eq(taken_from + 1)
        with m.If(self.flush):
            m.d.sync += [filled.eq(0), taken_from.eq(0), level.eq(0), waits.eq(0)]
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(waits & ~self.flush),
                self.o.payload.data.eq(read.data[: self.bits]),
                self.o.payload.last.eq(read.data[self.bits]),
            ]
        return m
