"""The sequencer: fetches, checks and runs instructions, loads programs, obeys CONTROL."""

from __future__ import annotations

from typing import Any

from amaranth import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch import timing
from insitu.arch.generator import MIX_STAGES, STREAMS
from insitu.arch.isa import WORDS, Opcode
from insitu.arch.params import CoreParams
from insitu.arch.registers import Error
from insitu.fpga.common import FieldsLayout
from insitu.fpga.decode import CHECK_LATENCY, GEOMETRY_LATENCY
from insitu.fpga.random import draws as drawing
from insitu.fpga.registers import CommandLayout, StatusLayout
from insitu.fpga.window import Axis, WindowWalker

#: Cycles of SETUP before the geometry is complete and has settled.
LOCATE = GEOMETRY_LATENCY - CHECK_LATENCY - 1 + Axis.SETTLE

assert timing.FETCH == WORDS + 1 + CHECK_LATENCY + 1
# The first segment waits in Issue when the instruction runs.
assert timing.SETUP == LOCATE + WindowWalker.LATENCY + 1


class Sequencer(wiring.Component):
    """Program memory, program counter, and the phases of an instruction.

    START, a cycle, before the first. FETCH, timing.FETCH cycles: a word a cycle to the decoder (capture, index,
    word), then operands and scale registers in `slot` 1 to 4, the verdict in the last. SETUP, timing.setup(): `build`
    in the first N, `locate` when the window's products are there; then what is static has settled. SEED,
    timing.seeding(): from `seed_start` on. RUN: from `launch` on until `finish`. begin: the check passed; finish goes
    out as `ended` with the last cycle. cycles: counted in this cycle; a fetch counts when its check passes, so a
    refused instruction counts nothing.

    flush: the datapath shall drop everything, in the next cycle. load: a program word is taken from the stream where
    `beat_valid`. load_program beyond program memory ends at once with ENTRY. Commands: abort before start before step
    before load_program, all but abort ignored while busy.
    """

    def __init__(self, params: CoreParams) -> None:
        self.params = params
        super().__init__(
            {
                "command": In(CommandLayout),
                "status": Out(StatusLayout),
                "entry": In(32),
                "count": In(32),
                "beat_valid": In(1),
                "beat": In(32),
                "load": Out(1),
                "capture": Out(1),
                "index": Out(4),
                "word": Out(32),
                "slot": Out(range(5)),
                "fields": In(FieldsLayout),
                "illegal": In(1),
                "misplaced": In(1),
                "begin": Out(1),
                "build": Out(1),
                "locate": Out(1),
                "seed_start": Out(1),
                "launch": Out(1),
                "running": Out(1),
                "finish": In(1),
                "ended": Out(1),
                "flush": Out(1),
                "cycles": Out(8),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        params, n, f = self.params, self.params.n, self.fields
        depth = params.program_depth
        m.submodules.program = program = memory.Memory(shape=32, depth=depth * WORDS, init=[])
        read, write = program.read_port(), program.write_port()

        pc, outside, stepping = Signal(13), Signal(), Signal()
        counter = Signal(range(max(timing.FETCH, timing.setup(n), STREAMS * n + MIX_STAGES)))
        busy, done, error = Signal(), Signal(), Signal(Error)
        place, left = Signal(range(depth * WORDS + 1)), Signal(32 + 4)
        fits, entry_outside, total = Signal(), Signal(), Signal(33)
        m.d.sync += [
            total.eq(self.entry + self.count),
            fits.eq(total <= depth),
            entry_outside.eq(self.entry >= depth),
        ]
        # Flags are registers: a count is looked at a cycle ahead.
        checked, none_left, none_asked = Signal(), Signal(), Signal()
        m.d.sync += [checked.eq(counter == timing.FETCH - 2), none_asked.eq(self.count == 0)]
        draws = Signal()
        m.d.sync += [
            draws.eq(drawing(f, velocities=bool(params.momentum_bits))),
            # Pulses, each in the last cycle of its phase.
            self.seed_start.eq(0),
            self.launch.eq(0),
            self.locate.eq(0),
        ]

        def stop(why: Error) -> None:
            m.d.sync += [busy.eq(0), done.eq(1), error.eq(why)]
            m.next = "IDLE"

        def stop_if_aborted() -> None:
            """The last statement of a state, so that it wins."""
            with m.If(self.command.abort):
                m.d.comb += self.flush.eq(1)
                m.d.sync += [self.launch.eq(0), self.seed_start.eq(0), self.locate.eq(0), self.running.eq(0)]
                stop(Error.ABORTED)

        m.d.comb += [
            self.status.busy.eq(busy),
            self.status.done.eq(done),
            self.status.error.eq(error),
            self.status.pc.eq(pc),
            self.word.eq(read.data),
            write.addr.eq(place),
            write.data.eq(self.beat),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += counter.eq(0)
                with m.If(self.command.start | self.command.step):
                    m.d.sync += [pc.eq(self.entry), stepping.eq(~self.command.start)]
                    m.d.sync += [busy.eq(1), done.eq(0), error.eq(Error.NONE)]
                    m.next = "START"
                with m.Elif(self.command.load_program):
                    m.d.sync += [place.eq(self.entry << 4), left.eq(self.count << 4), busy.eq(1)]
                    m.d.sync += none_left.eq(none_asked)
                    m.next = "LOAD"
            with m.State("START"):
                m.d.sync += outside.eq(entry_outside)
                m.next = "FETCH"
                stop_if_aborted()
            with m.State("LOAD"):
                with m.If(~fits):
                    stop(Error.ENTRY)
                with m.Elif(none_left):
                    m.d.sync += busy.eq(0)
                    m.next = "IDLE"
                with m.Else():
                    m.d.comb += [self.load.eq(1), write.en.eq(self.beat_valid)]
                    with m.If(self.beat_valid):
                        m.d.sync += [place.eq(place + 1), left.eq(left - 1), none_left.eq(left == 1)]
                stop_if_aborted()
            with m.State("FETCH"):
                m.d.comb += [
                    read.addr.eq((pc << 4) | counter[:4]),
                    read.en.eq(counter < WORDS),
                    self.capture.eq((counter >= 1) & (counter <= WORDS)),
                    self.index.eq(counter - 1),
                ]
                with m.If((counter >= WORDS + 2) & (counter < WORDS + 6)):
                    m.d.sync += self.slot.eq(counter - (WORDS + 1))
                with m.Else():
                    m.d.sync += self.slot.eq(0)
                m.d.sync += counter.eq(counter + 1)
                with m.If(outside):
                    stop(Error.ENTRY)
                with m.Elif(checked):
                    m.d.sync += counter.eq(0)
                    with m.If(self.illegal):
                        stop(Error.ILLEGAL)
                    with m.Elif(self.misplaced):
                        stop(Error.ADDRESS)
                    with m.Else():
                        m.d.comb += self.cycles.eq(timing.FETCH)
                        with m.If(f.opcode == Opcode.HALT):
                            m.d.comb += self.ended.eq(1)
                            stop(Error.NONE)
                        with m.Else():
                            m.d.comb += self.begin.eq(1)
                            m.next = "SETUP"
                stop_if_aborted()
            with m.State("SETUP"):
                m.d.comb += [self.cycles.eq(1), self.build.eq(counter < n)]
                m.d.sync += [counter.eq(counter + 1), self.locate.eq(counter == LOCATE - 1)]
                with m.If(counter == timing.setup(n) - 3):
                    m.d.sync += [self.seed_start.eq(draws), self.launch.eq(~draws)]
                with m.If(counter == timing.setup(n) - 1):
                    m.d.sync += counter.eq(0)
                    with m.If(draws):
                        m.next = "SEED"
                    with m.Else():
                        m.d.sync += self.running.eq(1)
                        m.next = "RUN"
                stop_if_aborted()
            with m.State("SEED"):
                m.d.comb += self.cycles.eq(1)
                m.d.sync += counter.eq(counter + 1)
                with m.If(counter == STREAMS * n + MIX_STAGES - 3):
                    m.d.sync += self.launch.eq(1)
                with m.If(counter == STREAMS * n + MIX_STAGES - 1):
                    m.d.sync += [counter.eq(0), self.running.eq(1)]
                    m.next = "RUN"
                stop_if_aborted()
            with m.State("RUN"):
                m.d.comb += self.cycles.eq(1)
                with m.If(self.finish):
                    m.d.comb += self.ended.eq(1)
                    m.d.sync += self.running.eq(0)
                    with m.If(stepping):
                        stop(Error.NONE)
                    with m.Else():
                        m.d.sync += [pc.eq(pc + 1), outside.eq(pc + 1 >= depth)]
                        m.next = "FETCH"
                stop_if_aborted()
        return m
