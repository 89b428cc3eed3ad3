"""The sequencer: fetches, checks and runs instructions, loads programs, obeys CONTROL."""

from __future__ import annotations

from typing import Any

from amaranth import Module, Mux, Signal
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

#: Cycles until nothing is under way in the datapath any more, once all that begins something is held still.
QUIET = 1 << timing.UNDER_WAY.bit_length()
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

    flush: the datapath shall drop everything, for QUIET cycles after an abort or a reset; an instruction that is to run
    then waits for their end, uncounted. load: a program word is taken from the stream where
    `beat_valid`. load_program beyond program memory ends at once with ENTRY. Of several commands at once the
    first of abort, start, step and load_program is obeyed; all but abort are ignored while busy.
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
                "flush": Out(1, init=1),
                "cycles": Out(8),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        params, n, f, command = self.params, self.params.n, self.fields, self.command
        depth = params.program_depth
        m.submodules.program = program = memory.Memory(shape=32, depth=depth * WORDS, init=[])
        read, write = program.read_port(), program.write_port()

        # A state is a register of its own, and so is all that ends one: it is looked at a cycle ahead.
        idle, starting, loading = Signal(init=1), Signal(), Signal()
        fetching, setting_up, seeding, running = Signal(), Signal(), Signal(), Signal()
        checked, set_up, seeded, draws, halts = Signal(), Signal(), Signal(), Signal(), Signal()
        pc, following, outside, stepping = Signal(13), Signal(13), Signal(), Signal()
        phase_ends = timing.setup(n), STREAMS * n + MIX_STAGES
        counter = Signal(range(max(timing.FETCH, *phase_ends)))
        place, left = Signal(range(depth * WORDS + 1)), Signal(32 + 4)
        fits, entry_outside, next_outside, total = Signal(), Signal(), Signal(), Signal(33)
        none_left, none_asked = Signal(), Signal()
        goes_on = ~command.abort
        m.d.sync += [
            checked.eq(fetching & (counter == timing.FETCH - 2) & goes_on),
            set_up.eq(setting_up & (counter == phase_ends[0] - 2) & goes_on),
            seeded.eq(seeding & (counter == phase_ends[1] - 2) & goes_on),
            draws.eq(drawing(f, velocities=bool(params.momentum_bits))),
            halts.eq(f.opcode == Opcode.HALT),
            following.eq(pc + 1),
            next_outside.eq(following >= depth),
            total.eq(self.entry + self.count),
            fits.eq(total <= depth),
            entry_outside.eq(self.entry >= depth),
            none_asked.eq(self.count == 0),
        ]

        runs = command.start | command.step
        accepted, loads, began = idle & runs & goes_on, Signal(), Signal()
        ends, refused, begins = Signal(), Signal(), Signal()
        m.d.comb += [
            loads.eq(idle & ~runs & command.load_program & goes_on),
            ends.eq(running & self.finish),
            refused.eq(self.illegal | self.misplaced),
            begins.eq(fetching & checked & ~outside & ~refused & ~halts),
        ]
        stop, why = Signal(), Signal(Error)
        m.d.comb += stop.eq(
            (fetching & (outside | (checked & (refused | halts))))
            | (loading & ~fits)
            | (ends & stepping)
            | (command.abort & ~idle)
        )
        with m.If(command.abort):
            m.d.comb += why.eq(Error.ABORTED)
        with m.Elif(loading | outside):
            m.d.comb += why.eq(Error.ENTRY)
        with m.Elif(fetching & refused):
            m.d.comb += why.eq(Mux(self.illegal, Error.ILLEGAL, Error.ADDRESS))
        m.d.sync += [
            began.eq(accepted),
            starting.eq((accepted | (starting & self.flush)) & goes_on),
            loading.eq((loads | (loading & fits & ~none_left)) & goes_on),
            fetching.eq(((starting & ~self.flush) | (ends & ~stepping) | (fetching & ~outside & ~checked)) & goes_on),
            setting_up.eq((begins | (setting_up & ~set_up)) & goes_on),
            seeding.eq(((set_up & draws) | (seeding & ~seeded)) & goes_on),
            running.eq(((set_up & ~draws) | seeded | (running & ~ends)) & goes_on),
            idle.eq((idle & ~accepted & ~loads) | stop | (loading & none_left)),
            counter.eq(Mux(idle | starting | running | checked | set_up | seeded, 0, counter + 1)),
        ]

        resting = Signal(range(QUIET), init=QUIET - 1)
        with m.If(command.abort & ~idle):
            m.d.sync += [resting.eq(QUIET - 1), self.flush.eq(1)]
        with m.Else():
            m.d.sync += [resting.eq(Mux(self.flush, resting - 1, resting)), self.flush.eq(self.flush & (resting != 0))]

        # What is shown comes a cycle later.
        busy, done, error = Signal(), Signal(), Signal(Error)
        stopped, cause, loaded = Signal(), Signal(Error), Signal()
        m.d.sync += [stopped.eq(stop), cause.eq(why), loaded.eq(loading & none_left)]
        with m.If(accepted):
            m.d.sync += [busy.eq(1), done.eq(0), error.eq(Error.NONE)]
        with m.Elif(loads):
            m.d.sync += busy.eq(1)
        with m.Elif(stopped):
            m.d.sync += [busy.eq(0), done.eq(1), error.eq(cause)]
        with m.Elif(loaded):
            m.d.sync += busy.eq(0)

        with m.If(accepted):
            m.d.sync += [pc.eq(self.entry), stepping.eq(~command.start)]
        with m.Elif(ends & ~stepping):
            m.d.sync += pc.eq(following)
        with m.If(began):  # ENTRY may be written again while the start waits
            m.d.sync += outside.eq(entry_outside)
        with m.Elif(ends):
            m.d.sync += outside.eq(next_outside)
        with m.If(idle):
            m.d.sync += [place.eq(self.entry << 4), left.eq(self.count << 4), none_left.eq(none_asked)]
        with m.Elif(write.en):
            m.d.sync += [place.eq(place + 1), left.eq(left - 1), none_left.eq(left == 1)]

        m.d.sync += [
            # Pulses, each in the last cycle of its phase.
            self.locate.eq(setting_up & (counter == LOCATE - 1) & goes_on),
            self.seed_start.eq(setting_up & (counter == phase_ends[0] - 3) & draws & goes_on),
            self.launch.eq(
                ((setting_up & (counter == phase_ends[0] - 3) & ~draws) | (seeding & (counter == phase_ends[1] - 3)))
                & goes_on
            ),
            self.slot.eq(Mux(fetching & (counter >= WORDS + 1) & (counter < WORDS + 5), counter - WORDS, 0)),
        ]
        m.d.comb += [
            self.status.busy.eq(busy),
            self.status.done.eq(done),
            self.status.error.eq(error),
            self.status.pc.eq(pc),
            self.load.eq(loading & fits & ~none_left),
            write.en.eq(self.load & self.beat_valid),
            write.addr.eq(place),
            write.data.eq(self.beat),
            read.addr.eq((pc << 4) | counter[:4]),
            self.capture.eq(fetching & (counter >= 1) & (counter <= WORDS)),
            self.index.eq(counter - 1),
            self.word.eq(read.data),
            self.begin.eq(begins),
            self.build.eq(setting_up & (counter < n)),
            self.running.eq(running),
            self.ended.eq(ends | (fetching & checked & ~outside & ~refused & halts)),
            self.cycles.eq(
                Mux(
                    fetching,
                    Mux(checked & ~outside & ~refused, timing.FETCH, 0),
                    setting_up | seeding | running,
                )
            ),
        ]
        return m
