"""A datapath around which the rules of its memories' ports are asserted: one instruction, whatever its fields are.

The memories, the walkers and the way back are the core's own; what only carries data falls away before the proof. The
fields are constant and such as the decoder lets pass, operands apart, matrices of up to SIDE x SIDE; the streams wait
as they like. `spoil` breaks the hardware on purpose: statements that come later win.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

from amaranth import Cat, ClockDomain, Const, Module, Signal, Value
from amaranth.hdl import Assert, Assume

from insitu.arch import timing
from insitu.arch.isa import UPDATES, USED, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.arch.timing import cost
from insitu.fpga import datapath
from insitu.fpga.common import any_of, delay
from insitu.fpga.datapath import RAW, Datapath
from insitu.fpga.decode import EXTENTS
from insitu.fpga.memory import BankedMemory
from insitu.fpga.sequencer import LOCATE
from insitu.fpga.tables import TableMemory
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
    tab_depth=32,
    program_depth=1,
)
#: Memories with an address a port; the tables are read by every lane for itself.
BANKED = (Memory.ACT, Memory.ERR, Memory.WGT, Memory.VEL)
PRODUCTS = (Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE)
#: The memories of each operand.
OPERANDS: dict[Opcode, dict[str, Memory]] = {
    Opcode.FORWARD: {"a": Memory.ACT, "b": Memory.WGT, "d": Memory.ACT},
    Opcode.BACKWARD: {"a": Memory.ERR, "b": Memory.WGT, "m": Memory.ACT, "d": Memory.ERR},
    Opcode.UPDATE: {"a": Memory.ERR, "b": Memory.ACT, "d": Memory.WGT},
    Opcode.LOSS: {"a": Memory.ACT, "b": Memory.ERR, "d": Memory.ERR},
    Opcode.DW_FORWARD: {"a": Memory.ACT, "b": Memory.WGT, "d": Memory.ACT},
    Opcode.DW_BACKWARD: {"a": Memory.ERR, "b": Memory.WGT, "m": Memory.ACT, "d": Memory.ERR},
    Opcode.DW_UPDATE: {"a": Memory.ERR, "b": Memory.ACT, "d": Memory.WGT},
    Opcode.ADD: {"a": Memory.ERR, "b": Memory.ERR, "m": Memory.ACT, "d": Memory.ERR},
    Opcode.MULTIPLY: {"a": Memory.ERR, "b": Memory.ACT, "m": Memory.ACT, "d": Memory.ERR},
    Opcode.REDUCE: {"a": Memory.ERR, "b": Memory.ACT, "m": Memory.ACT, "d": Memory.ERR},
    Opcode.LOOKUP: {"a": Memory.ACT, "d": Memory.ACT},
}
#: The same of what is proved in both memories that it may name.
IN_ACT: dict[Opcode, dict[str, Memory]] = {
    Opcode.ADD: {"a": Memory.ACT, "b": Memory.ACT, "d": Memory.ACT},
    Opcode.MULTIPLY: {"a": Memory.ACT, "b": Memory.ACT, "d": Memory.ACT},
}
#: What reads each memory: operands of steps, of LOSS, and the rows that a mask or an update looks up.
SOURCES: dict[Opcode, dict[Memory, tuple[str, ...]]] = {
    Opcode.FORWARD: {Memory.WGT: ("step",), Memory.ACT: ("late step",)},
    Opcode.BACKWARD: {Memory.WGT: ("step",), Memory.ERR: ("late step",), Memory.ACT: ("mask",)},
    Opcode.UPDATE: {Memory.ERR: ("late step",), Memory.ACT: ("late step",), Memory.WGT: ("row",)},
    Opcode.LOSS: {Memory.ACT: ("loss",), Memory.ERR: ("loss",)},
    Opcode.LOAD: {},
    Opcode.DW_FORWARD: {Memory.WGT: ("step",), Memory.ACT: ("late step",)},
    Opcode.DW_BACKWARD: {Memory.WGT: ("step",), Memory.ERR: ("late step",), Memory.ACT: ("mask",)},
    Opcode.DW_UPDATE: {Memory.ERR: ("late step",), Memory.ACT: ("late step",), Memory.WGT: ("row",)},
    Opcode.ADD: {Memory.ERR: ("late step",), Memory.ACT: ("mask",)},
    Opcode.MULTIPLY: {Memory.ERR: ("late step",), Memory.ACT: ("late step", "mask")},
    Opcode.REDUCE: {Memory.ERR: ("late step",), Memory.ACT: ("late step", "mask")},
    Opcode.LOOKUP: {Memory.ACT: ("late step",)},
}
#: Passes that may have a mask, and those whose last column or row may be a bias' that B has for itself.
MASKED = (Opcode.BACKWARD, Opcode.DW_BACKWARD, Opcode.ADD, Opcode.MULTIPLY, Opcode.REDUCE)
BIASED = (Opcode.DW_FORWARD, Opcode.DW_UPDATE)

#: Steps in which a mask is read in B's memory.
RESTING = (Opcode.MULTIPLY, Opcode.REDUCE)

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


class WatchedTables(TableMemory):
    """A tables' memory that shows what is written to its banks; it is read at all times, by nobody else."""

    def __init__(self, n: int, depth: int, width: int) -> None:
        super().__init__(n, depth, width)
        self.writes = Signal(n)
        self.targets = [Signal(self.bits, name=f"target_{k}") for k in range(n)]

    def elaborate(self, platform: Any) -> Module:
        m = super().elaborate(platform)
        for k, bank in enumerate(self.banks):
            (writer,) = bank.write_ports
            m.d.comb += [self.writes[k].eq(writer.en), self.targets[k].eq(writer.addr)]
        return m


class WatchedDatapath(Datapath):
    """A datapath that shows its walkers; `spoil` adds statements of its own."""

    def __init__(self, params: CoreParams, spoil: Spoil | None = None) -> None:
        with mock.patch.multiple(datapath, BankedMemory=WatchedMemory, TableMemory=WatchedTables):
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

    def __init__(
        self,
        opcode: Opcode,
        spoil: Spoil | None = None,
        *,
        in_act: bool = False,
        velocities: bool = False,
        products: bool = False,
    ) -> None:
        self.m = Module()
        self.opcode, self.velocities = opcode, velocities
        self.core = replace(CORE, momentum_bits=2) if velocities else CORE
        if products:
            self.core = replace(self.core, windows=0, vector=0)
        self.banked = [memory for memory in BANKED if memory in self.core.memories]
        self.operands = (IN_ACT if in_act else OPERANDS).get(opcode, {})
        self.sources = {Memory.ACT: ("late step",)} if in_act else SOURCES.get(opcode, {})
        #: Memories that D is written to.
        self.targets = [self.operands["d"]] if "d" in self.operands else []
        if velocities and opcode in UPDATES:
            self.sources = self.sources | {Memory.VEL: ("row",)}
            self.targets.append(Memory.VEL)
        self.in_act = in_act
        self.m.domains.sync = domain = ClockDomain(reset_less=True)
        self.dut = WatchedDatapath(self.core, spoil)
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
        self.memory = self.held(len(Signal(range(len(Memory)))), "memory")
        self.mask, self.bias = self.held(1, "mask"), self.held(1, "bias")
        self.hold = self.held(1, "hold") if Memory.VEL in self.targets else Const(0, 1)
        named = Memory.ACT if self.in_act else Memory.ERR
        # Of DW_UPDATE: the only tap, and the bias.
        self.taps = Signal(2, name="taps")
        self.m.d.comb += [
            f.opcode.eq(opcode),
            f.rows.eq(self.rows),
            f.cols.eq(self.cols),
            f.depth.eq(self.depth if opcode in PRODUCTS else 0),
            f.memory.eq(self.memory if opcode in (Opcode.LOAD, Opcode.STORE) else 0),
            f.mask.eq(self.mask if opcode in MASKED and not self.in_act else 0),
            f.bias.eq(self.bias if opcode in BIASED else 0),
            self.taps.eq(1 + f.bias),
            f.momentum_width.eq(2 if Memory.VEL in self.targets else 0),
            f.hold.eq(self.hold),
        ]
        if opcode in IN_ACT:
            self.m.d.comb += f.memory.eq(named)
        if opcode is Opcode.STORE:
            self.m.d.comb += Assume(self.memory != Memory.TAB)
        # Without a window: one pixel, one tap, and no way from one to the next.
        g = self.dut.geometry
        self.m.d.comb += [f[name].eq(1) for name in EXTENTS]
        span = f.depth if opcode in PRODUCTS else f.rows if opcode is Opcode.DW_UPDATE else 1
        height = self.taps if opcode is Opcode.DW_UPDATE else f.rows
        self.m.d.comb += [g.span.eq(span), g.matrix.rows.eq(height), g.matrix.cols.eq(f.cols)]
        if opcode is Opcode.DW_FORWARD:
            self.m.d.comb += [g.grouped.eq(f.b_pitch), g.taps_turn.eq(1)]
        if self.core.windows:
            self.m.d.comb += [g.matrix.pixels.eq(1), g.matrix.groups.eq(1)]
        for size in (self.cols, self.depth):
            self.m.d.comb += Assume((size >= 1) & (size <= SIDE))
        self.m.d.comb += Assume((self.rows >= 1) & (self.rows <= ROWS.get(opcode, SIDE)))
        if opcode in (Opcode.LOAD, Opcode.STORE):
            self.m.d.comb += Assume(any_of([self.memory == memory for memory in self.core.memories]))
        operands = self.operands or ({"d": None} if opcode is Opcode.LOAD else {"a": None})
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
            (Opcode.DW_FORWARD, "b"): (self.taps, cols),
            (Opcode.DW_BACKWARD, "b"): (self.taps, cols),
            (Opcode.DW_UPDATE, "d"): (self.taps, cols),
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
        reads = step & ~dut.issue.step.extra if self.opcode in RESTING and not self.in_act else step
        late = self.past(reads, WeightPort.LATENCY)
        sources = {"step": step, "late step": late, "loss": loss, "row": rows, "mask": rows & dut.fields.mask}
        for memory in self.banked:
            asked: Any = 0
            if self.opcode is Opcode.STORE:
                asked = rows & (self.memory == memory)
            elif memory in self.sources:
                found = [sources[name] for name in self.sources[memory]]
                asked = Cat(found).any()
                if len(found) > 1:
                    self.m.d.comb += Assert(~(found[0] & found[1]))
            served = self.past(asked, ago)
            self.m.d.comb += Assert(~self.launched | (dut.memories[memory].read.enable == served))

    def own_memories(self) -> None:
        """An opcode reads and writes its own memories and no other, whatever state the rest is in."""
        for memory in self.core.memories:
            bank = self.dut.memories[memory]
            chosen = self.memory == memory
            reads: Any = chosen if self.opcode is Opcode.STORE else int(memory in self.sources)
            writes: Any = chosen if self.opcode is Opcode.LOAD else int(memory in self.targets)
            if memory is Memory.WGT and Memory.VEL in self.targets:
                writes = ~self.hold
            if memory in self.banked:
                self.m.d.comb += Assert(~(self.launched & bank.read.enable & ~Value.cast(reads)[0]))
            self.m.d.comb += Assert(~(self.launched & bank.writes.any() & ~Value.cast(writes)[0]))
        # What was not started asks for nothing: `idle` proves it of the units by themselves.
        owners = {name for names in self.sources.values() for name in names}
        if "loss" not in owners:
            self.m.d.comb += Assume(~self.dut.walk.read)
        if not owners & {"step", "late step"}:
            self.m.d.comb += Assume(~self.dut.issue.step.valid)

    def one_write(self) -> None:
        """Every element of D is written in a cycle of its own, once, and in the cycles that the instruction may take;
        nothing outside D is. Rows on their way in never meet rows on their way out."""
        self.m.d.comb += Assert(~(self.dut.transfer.valid & self.dut.transfer.stored))
        if "d" not in self.base:
            return
        bank, address = self._element()
        for written, target, times in self._written():
            count = Signal(2)
            hit = self.launched & written.bit_select(bank, 1) & (target == address)
            self.m.d.sync += count.eq(count + hit)
            self.m.d.comb += Assert(~(hit & (count != 0)))
            self.m.d.comb += Assert(~self.over | (count == times))
            outside = (target < self.base["d"]) | (target >= self.end["d"])
            self.m.d.comb += Assert(~(self.launched & written.any() & outside))
        if self.opcode is not Opcode.LOAD:
            most = longest(self.opcode, in_act=self.in_act, velocities=self.velocities) - MARGIN
            age = Signal(range(most + 1))
            with self.m.If(age != most):
                self.m.d.sync += age.eq(age + 1)
            self.m.d.comb += Assert((age != most) | self.over)

    def read_before_write(self) -> None:
        """No word of an operand is read in the cycle it is written; an UPDATE reads each word once, then writes it."""
        dut = self.dut
        updates = self.opcode in UPDATES
        for memory in self.banked:
            bank = dut.memories[memory]
            for name, place in self.operands.items():
                lies = memory in self.targets if name == "d" else place is memory
                if not lies or (name == "d" and not updates):
                    continue
                for k in range(N):
                    at = bank.addresses[k]
                    within = (at >= self.base[name]) & (at < self.end[name])
                    both = bank.reads[k] & bank.writes[k] & (at == bank.targets[k])
                    self.m.d.comb += Assert(~(self.launched & within & both))
        if updates:
            index, address = self._element()
            for memory, (writes, target, times) in zip(self.targets, self._written(), strict=True):
                bank = dut.memories[memory]
                read, written = Signal(), Signal()
                reads = [bank.reads[k] & (bank.addresses[k] == address) for k in range(N)]
                reading = self.launched & Cat(reads).bit_select(index, 1)
                writing = self.launched & writes.bit_select(index, 1) & (target == address)
                self.m.d.sync += [read.eq(read | reading), written.eq(written | writing)]
                self.m.d.comb += [Assert(~(reading & read)), Assert(~writing | read)]
                self.m.d.comb += Assert(~self.over | (written == times))

    def quiet_at_the_end(self) -> None:
        """After its last cycle an instruction uses no port any more, so the next one finds all of them free."""
        for memory, bank in self.dut.memories.items():
            used = bank.writes.any()
            if memory in self.banked:
                used |= bank.reads.any() | bank.read.enable
            self.m.d.comb += Assert(~(self.over & used))

    def _element(self) -> tuple[Value, Value]:
        """Bank and address of some element of D: of any, as a proof has it."""
        row, col = self.held(3, "element_row"), self.held(3, "element_col")
        rows, cols = self._shape("d")
        self.m.d.comb += Assume((row < rows) & (col < cols))
        address = Signal(8, name="element_address")
        self.m.d.comb += address.eq(self.base["d"] + row * self.pitch["d"] + (col >> LOG))
        return (row + col)[:LOG], address

    def _written(self) -> list[tuple[Value, Value, Value]]:
        """Of each memory that D lies in: which banks are written in this cycle, at which address, and how often an
        element is in all: not at all where an update holds its masters."""
        banks = self.dut.memories
        if self.opcode is not Opcode.LOAD:
            times = {memory: ~self.hold if memory is Memory.WGT else Const(1, 1) for memory in self.targets}
            return [(banks[memory].writes, banks[memory].targets[0], times[memory]) for memory in self.targets]
        written, target = Signal(N), Signal.like(banks[Memory.ACT].targets[0])
        with self.m.Switch(self.memory):
            for memory, bank in banks.items():
                with self.m.Case(memory):
                    self.m.d.comb += [written.eq(bank.writes), target.eq(bank.targets[0])]
        return [(written, target, Const(1, 1))]


def longest(opcode: Opcode, *, in_act: bool = False, velocities: bool = False) -> int:
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
                momentum_width=2 * (velocities and opcode in UPDATES),
                table_bits=2 * (opcode is Opcode.LOOKUP),
                memory=Memory.ERR if opcode in IN_ACT and not in_act else Memory.ACT,
                mask=int(opcode in MASKED and not in_act),
                bias=int(opcode in BIASED),
            ),
            N,
        ).cycles
        for rows, cols, depth in shapes
    )
    return SETTLE + cycles - timing.FETCH + MARGIN


def check(
    opcode: Opcode,
    rules: Sequence[str],
    folder: Path,
    *,
    induction: int = 0,
    spoil: Spoil | None = None,
    in_act: bool = False,
    velocities: bool = False,
    products: bool = False,
) -> None:
    """Prove rules for an instruction of an opcode from its launch to its end, or by induction over some cycles. in_act:
    of one that names its memory, in ACT; else in ERR. velocities: on a core that has them, which an update moves.
    products: on a core that has neither windows nor the vector unit."""
    bench = Ports(opcode, spoil, in_act=in_act, velocities=velocities, products=products)
    for rule in rules:
        getattr(bench, rule)()
    depth = induction or longest(opcode, in_act=in_act, velocities=velocities)
    how: Any = {"mode": "prove" if induction else "bmc", "depth": depth}
    prove(bench.m, bench.inputs, folder, solver="boolector", **how)
