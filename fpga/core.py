"""The core: streams and a register bus around the datapath."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from insitu.arch.isa import Opcode
from insitu.arch.params import CoreParams
from insitu.fpga.datapath import Datapath
from insitu.fpga.decode import Decoder
from insitu.fpga.exponents import Exponents, ScaleRegisters
from insitu.fpga.random import draws as drawing
from insitu.fpga.registers import RegisterBus, Registers
from insitu.fpga.sequencer import Sequencer
from insitu.fpga.transfer import BeatLayout, OutputQueue


class Core(wiring.Component):
    """The accelerator of docs/arithmetic.md, registers of arch/registers.py, cycles of arch/timing.py.

    i_stream: beats of LOAD, lane l in bits [l * lane_bits, (l + 1) * lane_bits), and words of load_program, one a
    beat, in the low 32 bits. o_stream: beats of STORE, `last` on its final one. Both with full back pressure; nothing
    is taken that was not asked for. A beat on display stays until taken, even through an abort; those behind it are
    dropped by one. bus: see RegisterBus. A reset leaves all but the memories' contents as at power-up.
    """

    def __init__(self, params: CoreParams) -> None:
        self.params = params
        super().__init__(
            {
                "i_stream": In(stream.Signature(unsigned(params.stream_bits))),
                "o_stream": Out(stream.Signature(BeatLayout(params.stream_bits))),
                "bus": In(RegisterBus()),
            }
        )
        self.datapath = Datapath(params)
        self.registers = Registers(params)
        self.sequencer = Sequencer(params)
        self.scales = ScaleRegisters(params.scales)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        params = self.params
        m.submodules.registers = registers = self.registers
        m.submodules.scales = scales = self.scales
        m.submodules.sequencer = sequencer = self.sequencer
        m.submodules.decoder = self.decoder = decoder = Decoder(params)
        datapath = self.datapath
        m.submodules.datapath = datapath
        m.submodules.exponents = exponents = Exponents(
            params.activation_bits,
            datapath.drain_bits,
            params.scales,
            velocities=bool(params.momentum_bits),
            vector=bool(params.vector),
        )
        m.submodules.queue = queue = OutputQueue(params.stream_bits)
        f = decoder.fields
        draws, committed, held = Signal(), Signal(), Signal(8)
        storing = sequencer.running & (f.opcode == Opcode.STORE)
        shown, taken = self.o_stream.valid, self.o_stream.ready

        wiring.connect(m, wiring.flipped(self.bus), registers.bus)
        wiring.connect(m, queue.o, wiring.flipped(self.o_stream))
        m.d.comb += [
            sequencer.command.eq(registers.command),
            sequencer.entry.eq(registers.entry),
            sequencer.count.eq(registers.program_count),
            sequencer.beat_valid.eq(self.i_stream.valid),
            sequencer.beat.eq(self.i_stream.payload),
            sequencer.fields.eq(f),
            sequencer.illegal.eq(decoder.illegal),
            sequencer.misplaced.eq(decoder.misplaced),
            sequencer.finish.eq(datapath.finish),
            decoder.capture.eq(sequencer.capture),
            decoder.index.eq(sequencer.index),
            decoder.word.eq(sequencer.word),
            exponents.fields.eq(f),
            exponents.slot.eq(sequencer.slot),
            exponents.scale.eq(scales.core_o),
            exponents.spread.eq(datapath.spread),
            scales.core_index.eq(exponents.index),
            scales.core_write.eq(committed),
            scales.core_write_index.eq(f.sd),
            scales.core_data.eq(Cat(exponents.target, held)),
            scales.bus_write_index.eq(registers.scale_write_index),
            scales.bus_index.eq(registers.scale_index),
            scales.bus_write.eq(registers.scale_write),
            scales.bus_data.eq(registers.scale_data),
            registers.scale.eq(scales.bus_o),
            registers.status.eq(sequencer.status),
            datapath.fields.eq(f),
            datapath.geometry.eq(decoder.geometry),
            datapath.narrow_shift.eq(exponents.narrow_shift),
            datapath.update_shift.eq(exponents.update_shift),
            datapath.loss_shift.eq(exponents.loss_shift),
            datapath.bias.eq(exponents.bias),
            datapath.factor_a.eq(exponents.factor_a),
            datapath.factor_b.eq(exponents.factor_b),
            datapath.seed.eq(registers.seed),
            datapath.flush.eq(sequencer.flush),
            datapath.begin.eq(sequencer.begin),
            datapath.build.eq(sequencer.build),
            datapath.locate.eq(sequencer.locate),
            datapath.seed_start.eq(sequencer.seed_start),
            datapath.launch.eq(sequencer.launch),
            datapath.beat_valid.eq(self.i_stream.valid),
            datapath.beat_in.eq(self.i_stream.payload),
            self.i_stream.ready.eq(sequencer.load | (sequencer.running & datapath.beat_ready)),
            queue.flush.eq(sequencer.flush),
            queue.i_valid.eq(datapath.beat_out_valid),
            queue.i.eq(datapath.beat_out),
            datapath.taken.eq(queue.taken),
            datapath.delivered.eq(shown & taken),
        ]
        m.d.sync += [
            committed.eq(f.track & (sequencer.begin | (sequencer.ended & sequencer.running))),
            held.eq(Mux(sequencer.running, exponents.following, exponents.target)),
            draws.eq(drawing(f, velocities=bool(params.momentum_bits))),
            registers.step_seed.eq(sequencer.ended & draws),
            registers.count.cycles.eq(sequencer.cycles),
            registers.count.macs.eq(Mux(sequencer.flush, 0, datapath.work)),
            registers.count.stall_in.eq(sequencer.running & datapath.beat_ready & ~self.i_stream.valid),
            registers.count.stall_out.eq(storing & shown & ~taken),
            registers.count.instructions.eq(sequencer.ended),
            registers.count.overflow.eq(datapath.overflow & ~sequencer.flush),
        ]
        m.d.comb += [
            registers.count.clipped.eq(Mux(sequencer.flush, 0, datapath.clipped)),
            registers.count.unfit.eq(Mux(sequencer.flush, 0, datapath.unfit)),
        ]
        return m
