"""A datapath around which the rules of its memories' ports are asserted: one instruction, whatever its fields are.

The memories, the walkers and the way back are the core's own; what only carries data falls away before the proof. The
fields are constant and such as the decoder lets pass, operands apart, matrices of up to SIDE x SIDE; the streams wait
as they like. `spoil` breaks the hardware on purpose: statements that come later win.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

from amaranth import Cat, ClockDomain, Module, Signal, Value
from amaranth.hdl import Assert, Assume

from insitu.arch import timing
from insitu.arch.isa import USED, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.arch.timing import cost
from insitu.fpga import datapath
from insitu.fpga.common import delay
from insitu.fpga.datapath import RAW, Datapath
from insitu.fpga.decode import EXTENTS
from insitu.fpga.memory import BankedMemory
from insitu.fpga.sequencer import LOCATE
from insitu.fpga.transfer import SLOTS
from insitu.fpga.weights import WeightPort
from tests.fpga.formal.prove import prove

N = 4
LOG = N.bit_length() - 1
#: Columns and terms go up to one more than a tile has, rows too but where they would take too long.
SIDE = N + 1
ROWS = {Opcode.LOSS: 1, Opcode.LOAD: 2}
#: Cycles that are proved beyond an instruction's end.
MARGIN = 4
#: Cycles that all that derives from the fields alone takes to settle.
SETTLE = 4
CORE = CoreParams(
    n=N,
    weight_bits=2,
    master_bits=2,
    activation_bits=2,
    error_bits=2,
    gradient_bits=2,
    accumulator_bits=8,
    target_bits=2,
    act_depth=32,
    err_depth=32,
    wgt_depth=32,
    program_depth=1,
)
#: The memories of each operand.
OPERANDS: dict[Opcode, dict[str, Memory]] = {
    Opcode.FORWARD: {"a": Memory.ACT, "b": Memory.WGT, "d": Memory.ACT},
    Opcode.BACKWARD: {"a": Memory.ERR, "b": Memory.WGT, "m": Memory.ACT, "d": Memory.ERR},
    Opcode.UPDATE: {"a": Memory.ERR, "b": Memory.ACT, "d": Memory.WGT},
    Opcode.LOSS: {"a": Memory.ACT, "b": Memory.ERR, "d": Memory.ERR},
}
#: What reads each memory: operands of steps, of LOSS, and the rows that a mask or an update looks up.
SOURCES: dict[Opcode, dict[Memory, str]] = {
    Opcode.FORWARD: {Memory.WGT: "step", Memory.ACT: "late step"},
    Opcode.BACKWARD: {Memory.WGT: "step", Memory.ERR: "late step", Memory.ACT: "row"},
    Opcode.UPDATE: {Memory.ERR: "late step", Memory.ACT: "late step", Memory.WGT: "row"},
    Opcode.LOSS: {Memory.ACT: "loss", Memory.ERR: "loss"},
    Opcode.LOAD: {},
}

Spoil = Callable[["WatchedDatapath", Module], None]


class WatchedMemory(BankedMemory):
    """A banked memory that shows its banks' ports. reads, writes: by bank, this cycle. addresses: what they read."""

    def __init__(self, n: int, depth: int, width: int) -> None:
        super().__init__(n, depth, width)
        self.reads, self.writes = Signal(n), Signal(n)
        self.addresses = [Signal(self.bits, name=f"seen_{k}") for k in range(n)]
        self.targets = [Signal(self.bits, name=f"target_{k}") for k in range(n)]

    def elaborate(self, platform: Any) -> Module:
        m = super().elaborate(platform)
        # The banks read at all times; what they read counts where it was asked for, when the addresses are there.
        asked = delay(m, self.read.enable, self.READ_LATENCY - 3, "asked")[-1]
        for k, bank in enumerate(self.banks):
            (reader,), (writer,) = bank.read_ports, bank.write_ports
            m.d.comb += [
                self.reads[k].eq(asked),
                self.addresses[k].eq(reader.addr),
                self.writes[k].eq(writer.en),
                self.targets[k].eq(writer.addr),
            ]
        return m


class WatchedDatapath(Datapath):
    """A datapath that shows its walkers; `spoil` adds statements of its own."""

    def __init__(self, params: CoreParams, spoil: Spoil | None = None) -> None:
        with mock.patch.object(datapath, "BankedMemory", WatchedMemory):
            super().__init__(params)
        self._spoil = spoil
        self._made: Module | None = None

    def elaborate(self, platform: Any) -> Module:
        """The same module every time: the bench looks into it before the bench itself is elaborated."""
        if self._made is None:
            self._made = self._elaborated(platform)
        return self._made

    def _elaborated(self, platform: Any) -> Module:
        m = super().elaborate(platform)
        units = m.submodules
        self.issue, self.walk, self.transfer = units.issue, units.walk, units.transfer
        self.reader, self.writer, self.pop = units.reader, units.writer, units.pop
        if self._spoil is not None:
            self._spoil(self, m)
        return m


class Ports:
    """One instruction of an opcode from a reset on: fields settle, tables are built, it runs to its end.

    running: launched and not yet over; over: after its last cycle.
    """

    def __init__(self, opcode: Opcode, spoil: Spoil | None = None) -> None:
        self.m = Module()
        self.opcode = opcode
        self.m.domains.sync = domain = ClockDomain(reset_less=True)
        self.dut = WatchedDatapath(CORE, spoil)
        self.m.submodules.dut = self.dut
        self.dut.elaborate(None)
        self.inputs: list[Any] = [domain.clk]
        self._held: dict[str, Signal] = {}
        self._sequence()
        self._fields()
        self._streams()

    def past(self, value: Any, cycles: int = 1) -> Any:
        """What a value was some cycles ago; zero before the beginning."""
        for _ in range(cycles):
            late = Signal(Value.cast(value).shape(), name="past")
            self.m.d.sync += late.eq(value)
            value = late
        return value

    def free(self, width: int, name: str) -> Signal:
        """An input that may change in every cycle."""
        signal = Signal(width, name=name)
        self.inputs.append(signal)
        return signal

    def held(self, width: int, name: str) -> Signal:
        """An input that may be anything and stays."""
        signal = self.free(width, name)
        first, before = Signal(init=1, name=f"{name}_first"), Signal(width, name=f"{name}_before")
        self.m.d.sync += [first.eq(0), before.eq(signal)]
        with self.m.If(~first):
            self.m.d.comb += Assume(signal == before)
        return signal

    def _sequence(self) -> None:
        """The phases that the sequencer gives an instruction, without the fetch."""
        # As many cycles as the flags that derive from the fields take at most; the real sequencer gives more.
        settle, end = SETTLE, SETTLE + timing.setup(N)
        count = Signal(range(end + 1))
        self.launched, self.over = Signal(), Signal()
        self.m.d.comb += [
            self.dut.build.eq((count >= settle) & (count < settle + N)),
            self.dut.locate.eq(count == settle + LOCATE),
            self.dut.launch.eq(count == end - 2),
            self.launched.eq(count == end),
        ]
        with self.m.If(~self.launched):
            self.m.d.sync += count.eq(count + 1)
        with self.m.If(self.dut.finish & self.launched):
            self.m.d.sync += self.over.eq(1)

    def _fields(self) -> None:
        f, opcode = self.dut.fields, self.opcode
        side = range(SIDE + 1)
        self.rows, self.cols = self.held(len(Signal(side)), "rows"), self.held(len(Signal(side)), "cols")
        self.depth = self.held(len(Signal(side)), "depth")
        self.memory = self.held(2, "memory")
        self.mask = self.held(1, "mask")
        self.m.d.comb += [
            f.opcode.eq(opcode),
            f.rows.eq(self.rows),
            f.cols.eq(self.cols),
            f.depth.eq(self.depth if opcode in (Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE) else 0),
            f.memory.eq(self.memory if opcode in (Opcode.LOAD, Opcode.STORE) else 0),
            f.mask.eq(self.mask if opcode is Opcode.BACKWARD else 0),
        ]
        # Without a window: one pixel, one tap, and no way from one to the next.
        g = self.dut.geometry
        self.m.d.comb += [f[name].eq(1) for name in EXTENTS]
        self.m.d.comb += [g.span.eq(f.depth), g.matrix.rows.eq(f.rows), g.matrix.cols.eq(f.cols)]
        self.m.d.comb += [g.matrix.pixels.eq(1), g.matrix.groups.eq(1)]
        for size in (self.cols, self.depth):
            self.m.d.comb += Assume((size >= 1) & (size <= SIDE))
        self.m.d.comb += Assume((self.rows >= 1) & (self.rows <= ROWS.get(opcode, SIDE)))
        self.m.d.comb += Assume(self.memory < len(Memory))
        operands = OPERANDS.get(opcode, {"d": None} if opcode is Opcode.LOAD else {"a": None})
        self.base, self.pitch, self.end = {}, {}, {}
        for name in operands:
            base, pitch = self.held(5, f"{name}_base"), self.held(2, f"{name}_pitch")
            rows, cols = self._shape(name)
            end = Signal(8, name=f"{name}_end")
            words = (cols + (N - 1)) >> LOG
            self.m.d.comb += [
                f[f"{name}_base"].eq(base),
                f[f"{name}_pitch"].eq(pitch),
                end.eq(base + (rows - 1)[: len(rows)] * pitch + words),
                Assume((pitch >= words) | (rows == 1)),
                Assume(end <= CORE.act_depth),
            ]
            self.base[name], self.pitch[name], self.end[name] = base, pitch, end
        for name, memory in operands.items():
            if name != "d" and "d" in operands and memory is operands["d"]:
                self.m.d.comb += Assume((self.end[name] <= self.base["d"]) | (self.end["d"] <= self.base[name]))

    def _shape(self, operand: str) -> tuple[Signal, Signal]:
        rows, cols, depth = self.rows, self.cols, self.depth
        return {
            (Opcode.FORWARD, "a"): (rows, depth),
            (Opcode.FORWARD, "b"): (cols, depth),
            (Opcode.BACKWARD, "a"): (rows, depth),
            (Opcode.BACKWARD, "b"): (depth, cols),
            (Opcode.UPDATE, "a"): (depth, rows),
            (Opcode.UPDATE, "b"): (depth, cols),
        }.get((self.opcode, operand), (rows, cols))

    def _streams(self) -> None:
        """Beats come when they like; the output's queue takes and delivers them when it likes, each once."""
        dut = self.dut
        self.m.d.comb += dut.beat_valid.eq(self.free(1, "beat_valid"))
        taken, delivered = self.free(1, "taken"), self.free(1, "delivered")
        waiting, shown = Signal(range(SLOTS + 2)), Signal()
        self.m.d.comb += [dut.taken.eq(taken), dut.delivered.eq(delivered)]
        self.m.d.comb += [Assume(~taken | ((waiting != 0) & (~shown | delivered))), Assume(~delivered | shown)]
        self.m.d.sync += [waiting.eq(waiting + dut.beat_out_valid - taken), shown.eq(taken | (shown & ~delivered))]

    # The rules.

    def one_request(self) -> None:
        """Each memory has one thing that asks it for words; every request of it reaches the port, none else does."""
        dut = self.dut
        ago = RAW - BankedMemory.READ_LATENCY
        step, rows, loss = dut.issue.step.valid, dut.reader.valid, dut.walk.read
        sources = {"step": step, "late step": self.past(step, WeightPort.LATENCY), "loss": loss, "row": rows}
        for memory in Memory:
            asked: Any = 0
            if self.opcode is Opcode.STORE:
                asked = rows & (self.memory == memory)
            elif memory in SOURCES[self.opcode]:
                asked = sources[SOURCES[self.opcode][memory]]
                if self.opcode is Opcode.BACKWARD and memory is Memory.ACT:
                    asked &= self.mask
            served = self.past(asked, ago)
            self.m.d.comb += Assert(~self.launched | (dut.memories[memory].read.enable == served))

    def own_memories(self) -> None:
        """An opcode reads and writes its own memories and no other, whatever state the rest is in."""
        for memory in Memory:
            bank = self.dut.memories[memory]
            chosen = self.memory == memory
            reads: Any = chosen if self.opcode is Opcode.STORE else int(memory in SOURCES[self.opcode])
            destination = OPERANDS.get(self.opcode, {}).get("d")
            writes: Any = chosen if self.opcode is Opcode.LOAD else int(memory is destination)
            self.m.d.comb += Assert(~(self.launched & bank.read.enable & ~Value.cast(reads)[0]))
            self.m.d.comb += Assert(~(self.launched & bank.writes.any() & ~Value.cast(writes)[0]))
        # What was not started asks for nothing: `idle` proves it of the units by themselves.
        owners = SOURCES.get(self.opcode, {}).values()
        if "loss" not in owners:
            self.m.d.comb += Assume(~self.dut.walk.read)
        if "step" not in owners:
            self.m.d.comb += Assume(~self.dut.issue.step.valid)

    def one_write(self) -> None:
        """Every element of D is written in a cycle of its own, once, and in the cycles that the instruction may take;
        nothing outside D is. Rows on their way in never meet rows on their way out."""
        self.m.d.comb += Assert(~(self.dut.transfer.valid & self.dut.transfer.stored))
        if "d" not in self.base:
            return
        bank, address = self._element()
        written, target = self._written()
        count = Signal(2)
        hit = self.launched & written.bit_select(bank, 1) & (target == address)
        self.m.d.sync += count.eq(count + hit)
        self.m.d.comb += Assert(~(hit & (count != 0)))
        self.m.d.comb += Assert(~self.over | (count == 1))
        if self.opcode is not Opcode.LOAD:
            most = longest(self.opcode) - MARGIN
            age = Signal(range(most + 1))
            with self.m.If(age != most):
                self.m.d.sync += age.eq(age + 1)
            self.m.d.comb += Assert((age != most) | self.over)
        outside = (target < self.base["d"]) | (target >= self.end["d"])
        self.m.d.comb += Assert(~(self.launched & written.any() & outside))

    def read_before_write(self) -> None:
        """No word of an operand is read in the cycle it is written; an UPDATE reads each word once, then writes it."""
        dut = self.dut
        for memory in Memory:
            bank = dut.memories[memory]
            for name, place in OPERANDS.get(self.opcode, {}).items():
                if place is not memory or (name == "d" and self.opcode is not Opcode.UPDATE):
                    continue
                for k in range(N):
                    at = bank.addresses[k]
                    within = (at >= self.base[name]) & (at < self.end[name])
                    both = bank.reads[k] & bank.writes[k] & (at == bank.targets[k])
                    self.m.d.comb += Assert(~(self.launched & within & both))
        if self.opcode is Opcode.UPDATE:
            index, address = self._element()
            bank = dut.memories[Memory.WGT]
            read, written = Signal(), Signal()
            reads = [bank.reads[k] & (bank.addresses[k] == address) for k in range(N)]
            reading = self.launched & Cat(reads).bit_select(index, 1)
            writing = self.launched & bank.writes.bit_select(index, 1) & (bank.targets[0] == address)
            self.m.d.sync += [read.eq(read | reading), written.eq(written | writing)]
            self.m.d.comb += [Assert(~(reading & read)), Assert(~writing | read), Assert(~self.over | written)]

    def quiet_at_the_end(self) -> None:
        """After its last cycle an instruction uses no port any more, so the next one finds all of them free."""
        for bank in self.dut.memories.values():
            self.m.d.comb += Assert(~(self.over & (bank.reads.any() | bank.writes.any() | bank.read.enable)))

    def _element(self) -> tuple[Value, Value]:
        """Bank and address of some element of D: of any, as a proof has it."""
        row, col = self.held(3, "element_row"), self.held(3, "element_col")
        self.m.d.comb += Assume((row < self.rows) & (col < self.cols))
        address = Signal(8, name="element_address")
        self.m.d.comb += address.eq(self.base["d"] + row * self.pitch["d"] + (col >> LOG))
        return (row + col)[:LOG], address

    def _written(self) -> tuple[Value, Value]:
        """Which banks of D's memory are written in this cycle, and at which address."""
        banks = self.dut.memories
        if self.opcode is not Opcode.LOAD:
            bank = banks[OPERANDS[self.opcode]["d"]]
            return bank.writes, bank.targets[0]
        written, target = Signal(N), Signal.like(banks[Memory.ACT].targets[0])
        with self.m.Switch(self.memory):
            for memory, bank in banks.items():
                with self.m.Case(memory):
                    self.m.d.comb += [written.eq(bank.writes), target.eq(bank.targets[0])]
        return written, target


def longest(opcode: Opcode) -> int:
    """Cycles from the fields to an instruction's end and a few more, for the largest of what is proved. LOAD and STORE
    may wait for as long as they like besides: what is proved of them has some waits in it."""
    sides = range(1, SIDE + 1)
    used = USED[opcode]
    shapes = product(range(1, ROWS.get(opcode, SIDE) + 1), sides, sides if "depth" in used else [0])
    cycles = max(
        cost(
            Instruction(
                opcode=opcode,
                rows=rows,
                cols=cols,
                depth=depth,
                width=2 * ("width" in used),
                weight_width=2 * ("weight_width" in used),
                master_width=2 * ("master_width" in used),
            ),
            N,
        ).cycles
        for rows, cols, depth in shapes
    )
    return SETTLE + cycles - timing.FETCH + MARGIN


def check(
    opcode: Opcode, rules: Sequence[str], folder: Path, *, induction: int = 0, spoil: Spoil | None = None
) -> None:
    """Prove rules for an instruction of an opcode from its launch to its end, or by induction over some cycles."""
    bench = Ports(opcode, spoil)
    for rule in rules:
        getattr(bench, rule)()
    how: Any = {"mode": "prove", "depth": induction} if induction else {"mode": "bmc", "depth": longest(opcode)}
    prove(bench.m, bench.inputs, folder, solver="boolector", **how)
