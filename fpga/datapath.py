"""The datapath: memories, operands, array, drain and the way back, with every delay between them."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, ResetInserter, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from insitu.arch import timing
from insitu.arch.isa import Opcode
from insitu.arch.layout import Memory
from insitu.arch.loss import PROBABILITY_BITS, SUM_BITS
from insitu.arch.numbers import ALIGN_MAX
from insitu.arch.params import CoreParams
from insitu.fpga import passes
from insitu.fpga.array import MacArray
from insitu.fpga.common import FieldsLayout, any_of, copies, delay, register, stepped
from insitu.fpga.drain import NARROW_LATENCY, UPDATE_LATENCY, Drain
from insitu.fpga.fit import drive_fit
from insitu.fpga.geometry import GeometryLayout
from insitu.fpga.issue import Issue
from insitu.fpga.loss import Loss, LossWalk
from insitu.fpga.memory import BankedMemory, address_bits
from insitu.fpga.momentum import STEP_BITS, Momentum
from insitu.fpga.operands import Operands
from insitu.fpga.passes import flag
from insitu.fpga.pool import Pool
from insitu.fpga.random import LaneGenerators, draws
from insitu.fpga.rotate import Rotator
from insitu.fpga.shift import ShiftControl
from insitu.fpga.tables import TableMemory
from insitu.fpga.tiles import RowWalker
from insitu.fpga.transfer import SLOTS, WRITE_LATENCY, BeatCounter, BeatLayout, Transfer
from insitu.fpga.vector import VectorUnit
from insitu.fpga.walk import TileWalker
from insitu.fpga.weights import WeightPort
from insitu.fpga.window import WindowWalker

#: From a walker's address to its words: the request's register, the memory.
RAW = 1 + BankedMemory.READ_LATENCY
#: The same to the words that are transferred, whichever memory they come from.
WORDS = RAW + 1
#: From a step to its sum in the drain registers, and to the first pop at the earliest.
STEP_TO_DRAIN = RAW + Operands.LATENCY + MacArray.LATENCY
STEP_TO_POP = RAW + Operands.LATENCY + MacArray.POPPED
#: From a step to its words in the lanes.
STEP_TO_LANES = RAW + WeightPort.LATENCY + Rotator.LATENCY
#: From a row to its elements being written, all passes but UPDATE.
ROW_TO_MEMORY = NARROW_LATENCY + WRITE_LATENCY + BankedMemory.WRITE_LATENCY
#: From an address of the mask to its flags in the lanes.
MASK_LATENCY = RAW + 1 + Rotator.LATENCY
#: From the last step of a vector pass' row to its go. Its mask is read with it: there may be no other time.
STEP_TO_GO = STEP_TO_LANES + VectorUnit.LATENCY - 2
MASK_WAITS = STEP_TO_GO + 1 - WeightPort.LATENCY - MASK_LATENCY

assert timing.ISSUE_TO_ACCUMULATOR == STEP_TO_DRAIN
assert timing.DRAIN_TO_MEMORY == ROW_TO_MEMORY
assert timing.UPDATE_TO_MEMORY == timing.DRAIN_TO_MEMORY + UPDATE_LATENCY
assert timing.MOMENTUM == Momentum.LATENCY
# A register for the beat first.
assert timing.LOAD_TAIL == 1 + WRITE_LATENCY + BankedMemory.WRITE_LATENCY
# A step's register, its words in the lanes, the maximum, its element; then what a LOAD has beyond a beat's register.
assert timing.POOL_TAIL == 1 + STEP_TO_LANES + Pool.LATENCY + timing.LOAD_TAIL - 1
# A step's register, its go; of that the pop's and the row's.
assert timing.TERM_TO_DRAIN == 1 + STEP_TO_GO + 2
# As POOL's, but for the words' way through the tables.
assert timing.LOOKUP_TAIL == timing.POOL_TAIL - Pool.LATENCY + TableMemory.LATENCY
# A go of the walker, the words, a register, the rotator, the queue's memory, the display.
assert timing.STORE_HEAD == 1 + WORDS + 1 + Rotator.LATENCY + 2
assert timing.LOSS_TAIL == RAW + Rotator.LATENCY + Loss.DIVIDE_LATENCY + 1 - timing.LOSS_DIVIDE


class Datapath(wiring.Component):
    """Everything an instruction moves. All static controls derive from `fields` and the exponents.

    build: the tables of the column addresses, N cycles. locate: `geometry` is complete, the window's walk begins.
    seed_start: the lanes' generators. launch: the instruction runs from the next cycle on; finish: in its last one.
    beat_in: a beat, taken where `beat_valid` and `beat_ready`. beat: out, to a queue of SLOTS that says `taken`;
    out_done: the display is empty or being emptied of a beat. flush: what begins something is held still; nothing is
    written from the third cycle on, and when what was under way has run out the datapath is idle, memories as they are.
    """

    def __init__(self, params: CoreParams) -> None:
        self.params = params
        n = params.n
        kinds = {k: TableMemory if k is Memory.TAB else BankedMemory for k in params.memories}
        self.memories: dict[Memory, Any] = {
            k: kind(n, params.depth(k), params.word_bits(k)) for k, kind in kinds.items()
        }
        #: Of an address in any memory.
        self.bits = max(address_bits(params.depth(k)) for k in params.memories)
        #: Of what an update subtracts: two more than a master has change no fit of the difference.
        self.delta_bits = max(params.master_bits + 2, STEP_BITS if params.momentum_bits else 0)
        self.drain_bits = max(params.accumulator_bits, params.word_bits(Memory.ERR) + SUM_BITS + PROBABILITY_BITS + 1)
        super().__init__(
            {
                "fields": In(FieldsLayout),
                "geometry": In(GeometryLayout(n, self.bits, windows=bool(params.windows))),
                "narrow_shift": In(signed(7)),
                "update_shift": In(signed(7)),
                "loss_shift": In(6),
                "bias": In(params.activation_bits),
                "factor_a": In(ALIGN_MAX + 1),
                "factor_b": In(ALIGN_MAX + 1),
                "spread": Out(self.drain_bits),
                "seed": In(32),
                "flush": In(1),
                "begin": In(1),
                "build": In(1),
                "locate": In(1),
                "seed_start": In(1),
                "launch": In(1),
                "finish": Out(1),
                "beat_valid": In(1),
                "beat_in": In(params.stream_bits),
                "beat_ready": Out(1),
                "beat_out_valid": Out(1),
                "beat_out": Out(BeatLayout(params.stream_bits)),
                "taken": In(1),
                "delivered": In(1),
                "work": Out(range(n * n + 1)),
                "clipped": Out(range(n + 1)),
                "unfit": Out(range(2 * n + 1)),
                "overflow": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        params, n, f = self.params, self.params.n, self.fields
        log = n.bit_length() - 1
        bits, shape = self.bits, self.geometry.matrix
        has, windows = params.opcodes, bool(params.windows)

        def kind(name: str, *codes: Opcode) -> Any:
            return flag(m, f.opcode, name, *codes, has=has)

        is_op = {op: kind(f"is_{op.name.lower()}", op) for op in Opcode}
        forward, backward = is_op[Opcode.FORWARD], is_op[Opcode.BACKWARD]
        loss_op = is_op[Opcode.LOSS]
        load, store = is_op[Opcode.LOAD], is_op[Opcode.STORE]
        pool_op, unpool_op = is_op[Opcode.POOL], is_op[Opcode.UNPOOL]
        lookup_op = is_op[Opcode.LOOKUP]
        update, product = kind("update", *passes.TO_TAPS), kind("product", *passes.PRODUCTS)
        sums, walks = kind("sums", *passes.SUMS), kind("walks", *passes.PRODUCTS, *passes.POOLS, *passes.VECTOR)
        # Which memories ADD and MULTIPLY have is theirs to say.
        named = passes.among(f.opcode, (Opcode.ADD, Opcode.MULTIPLY))
        of_act = f.memory == Memory.ACT
        weights_read, a_act, b_act, to_act, rest = register(), register(), register(), register(), register()
        m.d.sync += [
            weights_read.eq(passes.among(f.opcode, passes.WEIGHTED) & (f.constant == 0)),
            a_act.eq(passes.among(f.opcode, passes.A_IN_ACT) | (named & of_act)),
            b_act.eq(passes.among(f.opcode, passes.B_IN_ACT) | ((f.opcode == Opcode.MULTIPLY) & ~of_act)),
            to_act.eq(passes.among(f.opcode, passes.TO_ACT) | (named & of_act)),
            # An extra step is the mask's.
            rest.eq((f.opcode == Opcode.REDUCE) | ((f.opcode == Opcode.MULTIPLY) & ~of_act)),
        ]

        # Engines find the banks by these submodules' names: no wire here may be called the same.
        banks = self.memories
        for name, bank in banks.items():
            m.submodules[name.name.lower()] = bank
            if name not in (Memory.TAB, Memory.VEL):
                m.d.comb += [bank.build.eq(self.build), bank.pitch.eq(f.b_pitch if name is Memory.WGT else f.a_pitch)]
        act, err, wgt = (banks[name] for name in (Memory.ACT, Memory.ERR, Memory.WGT))

        # Static while an instruction runs, like the flags.
        read_base, read_pitch = register(bits), register(12)
        m.d.sync += [
            read_base.eq(Mux(store, f.a_base, Mux(update, f.d_base, f.m_base))),
            read_pitch.eq(Mux(store, f.a_pitch, Mux(update, f.d_pitch, f.m_pitch))),
        ]

        # The units start a cycle after `launch`.
        start_pass, start_loss, start_stream, start_tiles = register(), register(), register(), register()
        m.d.sync += [
            start_pass.eq(self.launch & walks),
            start_loss.eq(self.launch & loss_op),
            start_stream.eq(self.launch & (load | store)),
            start_tiles.eq(self.launch),
        ]
        start_rows = copies(m, self.launch, 3, "start_rows")

        def still(name: str, unit: Any) -> Any:
            """A unit that begins something stands still in a flush, by a register of its own."""
            return ResetInserter(copies(m, self.flush, 1, f"flush_{name}")[0])(unit)

        m.submodules.window = window = still("window", (WindowWalker if windows else TileWalker)(n, bits, has))
        m.submodules.issue = self.issue = issue = still("issue", Issue(n, bits, has))
        m.submodules.walk = walk = still("walk", LossWalk(n, bits))
        m.submodules.reader = reader = still("reader", RowWalker(n, bits, windows=windows))
        m.submodules.pop = pop = still("pop", RowWalker(n, 1, windows=windows))
        m.submodules.writer = self.writer = writer = still("writer", RowWalker(n, bits, windows=windows))
        m.submodules.beats = beats = still("beats", BeatCounter(n, windows=windows))
        m.d.comb += [
            issue.start.eq(start_pass),
            issue.fields.eq(f),
            issue.shape.eq(shape),
            issue.span.eq(self.geometry.span),
            issue.segment.eq(window.segment),
            issue.valid.eq(window.valid),
            window.take.eq(issue.take),
            window.fields.eq(f),
            window.geometry.eq(self.geometry),
            window.start.eq(self.locate & walks),
            walk.start.eq(start_loss),
            walk.fields.eq(f),
            reader.base.eq(read_base),
            reader.pitch.eq(read_pitch),
            reader.by_rows.eq(store),
            pop.by_rows.eq(loss_op),
            writer.base.eq(f.d_base),
            writer.pitch.eq(f.d_pitch),
            writer.by_rows.eq(loss_op | load),
            beats.start.eq(start_stream),
            beats.shape.eq(shape),
            reader.singly.eq(store | sums),
            pop.singly.eq(loss_op | sums),
            writer.singly.eq(loss_op | load | pool_op | sums | lookup_op),
            self.work.eq(issue.work),
        ]
        for walker, start in zip((reader, pop, writer), start_rows, strict=True):
            m.d.comb += [walker.start.eq(start), walker.shape.eq(shape)]

        # Requests. Those of a pass's operands in ACT and ERR come later than in WGT, which has its rounding to do.
        step = issue.step
        late = delay(m, step, WeightPort.LATENCY, "step")[-1]
        late_valid = delay(m, step.valid & ~(step.extra & rest), WeightPort.LATENCY, "late_valid")[-1]
        last = delay(m, step.valid & step.last, STEP_TO_DRAIN, "step_last")
        moving = self._flag(m, params.momentum_bits and f.momentum_width != 0, "moving")
        feeds = {
            Memory.ACT: ((backward | sums) & f.mask) | (store & of_act),
            Memory.ERR: store & (f.memory == Memory.ERR),
            Memory.WGT: update | (store & (f.memory == Memory.WGT)),
        }
        if Memory.VEL in banks:
            feeds[Memory.VEL] = moving | (store & (f.memory == Memory.VEL))
        reads_of = {}
        for memory, when in feeds.items():
            fed = register(name=f"fed_{memory.name.lower()}")
            m.d.sync += fed.eq(when)
            reads_of[memory] = reader.valid & fed

        def request(memory: Memory, column: Any, turn: Any, *sources: tuple[Any, Any]) -> None:
            """The one source that an instruction has for a memory: (when, address); whether it reads columns, with
            nothing else from that memory, and where then they are turned; None where it never does."""
            read, name = banks[memory].read, memory.name.lower()
            place = register(len(read.address), name=f"{name}_place")
            m.d.comb += read.address.eq(place)
            if column is not None:
                near, far = register(n, name=f"{name}_near"), register(n, name=f"{name}_far")
                m.d.comb += [read.near.eq(near), read.far.eq(far)]
                for k in range(n):
                    m.d.sync += [near[k].eq(column & (turn <= k)), far[k].eq(column & (turn > k))]
            m.d.sync += read.enable.eq(Cat(active for active, _ in sources).any())
            m.d.sync += place.eq(any_of([Mux(active, address, 0) for active, address in sources]))

        request(
            Memory.ACT,
            forward,
            late.a.turn,
            (late_valid & a_act, late.a.address),
            (late_valid & b_act, late.b.address),
            (walk.read, walk.a),
            (reads_of[Memory.ACT], reader.address),
        )
        request(
            Memory.ERR,
            backward,
            late.a.turn,
            (late_valid & ~a_act, late.a.address),
            (walk.read, walk.b),
            (reads_of[Memory.ERR], reader.address),
        )
        request(
            Memory.WGT,
            forward,
            step.b.turn,
            (step.valid & weights_read, step.b.address),
            (reads_of[Memory.WGT], reader.address),
        )
        if Memory.VEL in banks:
            request(Memory.VEL, None, None, (reads_of[Memory.VEL], reader.address))

        m.submodules.operands = operands = Operands(params)
        m.submodules.array = array = MacArray(n, operands.a_bits, operands.b_bits, params.accumulator_bits)
        m.d.comb += [
            operands.fields.eq(f),
            operands.shape.eq(shape),
            operands.bias.eq(self.bias),
            operands.start.eq(start_tiles),
            operands.valid.eq(delay(m, step.valid & product, RAW, "step_valid")[-1]),
            operands.last.eq(last[RAW]),
            operands.zero.eq(delay(m, step.zero, RAW, "zero")[-1]),
            operands.a_turn.eq(delay(m, step.a.turn, RAW, "a_turn")[-1]),
            operands.b_turn.eq(delay(m, step.b.turn, RAW, "b_turn")[-1]),
            operands.looked.eq(delay(m, walk.read, RAW, "looked")[-1]),
            operands.looked_row.eq(delay(m, walk.row, RAW, "looked_row")[-1]),
            operands.act_words.eq(act.o),
            operands.err_words.eq(err.o),
            operands.wgt_words.eq(wgt.o),
            array.clear.eq(delay(m, self.begin, 1, "begin")[-1]),
            array.valid.eq(operands.o_valid),
            array.last.eq(operands.o_last),
            array.a.eq(operands.a),
            array.b.eq(operands.b),
            array.pop.eq(pop.valid),
        ]

        # LOSS.
        m.submodules.loss_unit = unit = Loss(n, params.activation_bits, err.width)
        seen = Rotator.LATENCY + RAW
        ragged, lanes_seen = register(n), register(n)
        m.d.sync += [
            ragged.eq(Cat((f.cols - 1)[:log] >= k for k in range(n))),
            lanes_seen.eq(Mux(delay(m, walk.ragged, seen - 1, "loss_ragged")[-1], ragged, (1 << n) - 1)),
        ]
        m.d.comb += [
            unit.shift.eq(self.loss_shift),
            unit.valid.eq(delay(m, walk.read, seen, "loss_valid")[-1]),
            unit.phase.eq(delay(m, walk.phase, seen, "loss_phase")[-1]),
            unit.first.eq(delay(m, walk.first, seen, "loss_first")[-1]),
            unit.lanes.eq(lanes_seen),
            *(unit.z[k].eq(operands.z[k]) for k in range(n)),
            *(unit.t[k].eq(operands.t[k]) for k in range(n)),
        ]

        overflow = array.overflow
        if windows:
            # The same walk again, over what UNPOOL writes.
            m.submodules.patches = patches = still("patches", WindowWalker(n, bits, has))
            m.submodules.pool = pool = still("pool", Pool(n, bits, act.width, err.width, self._moved))
            m.d.comb += [
                patches.fields.eq(f),
                patches.fields.opcode.eq(Opcode.UNPOOL),
                patches.fields.b_base.eq(f.d_base),
                patches.fields.b_pitch.eq(f.d_pitch),
                patches.geometry.eq(self.geometry),
                patches.geometry.b.eq(self.geometry.d),
                patches.start.eq(self.locate & unpool_op),
                patches.take.eq(pool.take),
                pool.unpool.eq(unpool_op),
                pool.mask.eq(f.mask),
                pool.valid.eq(delay(m, step.valid & (pool_op | unpool_op), STEP_TO_LANES, "pooled")[-1]),
                pool.last.eq(last[STEP_TO_LANES]),
                pool.zero.eq(delay(m, step.zero, STEP_TO_LANES, "pool_zero")[-1]),
                *(pool.x[k].eq(Mux(unpool_op, operands.t[k], operands.z[k])) for k in range(n)),
                *(pool.y[k].eq(operands.z[k]) for k in range(n)),
                pool.segment.eq(patches.segment),
            ]
        if params.vector:
            tab, ahead = banks[Memory.TAB], STEP_TO_LANES - VectorUnit.AHEAD
            in_ragged = delay(m, step.right, ahead, "in_ragged")[-1]
            accumulators = params.accumulator_bits
            m.submodules.vector = vector = still(
                "vector", VectorUnit(n, operands.act_bits, operands.err_bits, params.weight_bits, accumulators)
            )
            m.d.comb += [
                vector.fields.eq(f),
                vector.bias.eq(self.bias),
                vector.factor_a.eq(self.factor_a),
                vector.factor_b.eq(self.factor_b),
                vector.clear.eq(array.clear),
                vector.valid.eq(delay(m, step.valid & (sums | lookup_op), ahead, "vector")[-1]),
                vector.zero.eq(delay(m, step.zero, ahead, "vector_zero")[-1]),
                vector.extra.eq(delay(m, step.extra, ahead, "extra")[-1]),
                vector.last.eq(last[ahead]),
                vector.col_lanes.eq(ragged | ~in_ragged.replicate(n)),
                *(vector.z[k].eq(operands.z[k]) for k in range(n)),
                *(vector.t[k].eq(operands.t[k]) for k in range(n)),
                vector.found.eq(tab.o),
                tab.fields.eq(f),
                tab.x.eq(vector.look),
            ]
            overflow = overflow | vector.overflow
        m.d.comb += self.overflow.eq(overflow)

        # Drain.
        m.submodules.generators = generators = LaneGenerators(n)
        m.submodules.drain = drain = Drain(n, self.drain_bits, self._widest, self.delta_bits)
        m.submodules.narrow_control = narrow = ShiftControl(drain.narrow_shape)
        m.submodules.update_control = scale = ShiftControl(drain.update_shape)
        m.submodules.mask = mask = Rotator(n, 1)
        drive_fit(m, drain.narrow_fit, f.width, f.overflow)
        gate = Signal()
        m.d.sync += gate.eq(draws(f, velocities=bool(params.momentum_bits)))
        rows, kept = [array.row[k] for k in range(n)], [mask.o[k] for k in range(n)]
        if params.vector:
            from_vector = copies(m, sums, n, "from_vector")
            waited = delay(m, Cat(mask.o[k] for k in range(n)), MASK_WAITS, "waited")[-1]
            rows = [Mux(from_vector[k], vector.sums[k], rows[k]) for k in range(n)]
            kept = [Mux(from_vector[k], waited[k], kept[k]) for k in range(n)]
        from_loss = copies(m, loss_op, n, "from_loss")
        positive = register(n)
        m.d.sync += positive.eq(Cat(act.o[k] > 0 for k in range(n)))
        m.d.comb += [
            generators.start.eq(self.seed_start),
            generators.seed.eq(self.seed),
            generators.step.eq(Mux(gate, drain.step, 0)),
            narrow.shift.eq(self.narrow_shift),
            narrow.rounding.eq(f.rounding),
            scale.shift.eq(self.update_shift),
            scale.rounding.eq(Mux(moving, f.momentum_rounding, f.update_rounding)),
            mask.amount.eq(delay(m, reader.row, RAW + 1, "mask_row")[-1]),
            *(mask.i[k].eq(positive[k]) for k in range(n)),
            drain.start.eq(self.begin),
            drain.fields.eq(f),
            drain.narrow_shift.eq(narrow.o),
            drain.update_shift.eq(scale.o),
            drain.delta_fit.low.eq((1 << (drain.delta_bits - 1)) - 1),
            drain.delta_fit.sign.eq(1 << (drain.delta_bits - 1)),
            drain.valid.eq(pop.valid),
            drain.col_lanes.eq(pop.col_lanes),
            *(drain.mask[k].eq(kept[k]) for k in range(n)),
            *(drain.row[k].eq(Mux(from_loss[k], unit.acc[k], rows[k])) for k in range(n)),
            drain.r0.eq(generators.r0),
            drain.r1.eq(generators.r1),
            self.spread.eq(drain.spread),
            self.clipped.eq(drain.clipped),
        ]

        # Velocities.
        holding = self._flag(m, self.params.momentum_bits and f.hold, "holding")
        moves, moved_banks, to_write, unfit, masters = drain.delta, Const(0, n), wgt.o, Const(0, 1), wgt.o
        if params.momentum_bits:
            vel = banks[Memory.VEL]
            m.submodules.momentum = momentum = Momentum(params, self.delta_bits)
            # A row is read RAW cycles before its words come, and those as its random bits leave the rotator.
            known = RAW - Rotator.LATENCY
            m.d.comb += [
                momentum.fields.eq(f),
                momentum.row.eq(delay(m, reader.row, known, "moved_row")[-1]),
                momentum.col_lanes.eq(delay(m, reader.col_lanes & reader.valid.replicate(n), known, "moved_lanes")[-1]),
                momentum.r.eq(generators.r1),
                momentum.velocity.eq(vel.o),
                momentum.master.eq(wgt.o),
                momentum.step.eq(drain.delta),
            ]
            from_vel = copies(m, store & (f.memory == Memory.VEL), n, "from_vel")
            moves, moved_banks, to_write, unfit = momentum.moves, momentum.banks, momentum.to_write, momentum.unfit
            masters = [Mux(from_vel[k], vel.o[k], Mux(moving, momentum.masters[k], wgt.o[k])) for k in range(n)]

        # The way back.
        m.submodules.transfer = transfer = Transfer(params, self._moved, self.delta_bits)
        drive_fit(m, transfer.fit, Mux(update, f.master_width, transfer.word_bits), ~update)
        pop_go = (last[STEP_TO_POP - 1] & product) | unit.go
        if params.vector:
            pop_go = pop_go | vector.go
        # A pop is the cycle after its go, its row the cycle after that; the elements must meet their place.
        writing, credit, all_sent = 2 + NARROW_LATENCY - 1, register(range(SLOTS + 1), init=SLOTS), register(init=1)
        subtracting = writing + UPDATE_LATENCY
        go = delay(m, pop_go, subtracting + (Momentum.LATENCY if params.momentum_bits else 0), "go")
        # A velocity's words are there with the random bits, which come before what the gradient adds.
        fetching = subtracting - Momentum.STEP_AFTER + Rotator.LATENCY - RAW
        beat, words = register(self.beat_in.shape()), register(transfer.words.shape())
        m.d.sync += beat.eq(self.beat_in)
        accepted = self.beat_valid & self.beat_ready
        credited = register(init=1)
        asked = store & beats.more & credited
        # What comes to be written, where, and when.
        values = [drain.value[k] for k in range(n)]
        comes = Mux(moving, go[-1], Mux(update, go[subtracting], go[writing]))
        valid, row, address, col_lanes = writer.valid, writer.row, writer.address, writer.col_lanes
        if params.vector:
            looked_up = copies(m, lookup_op, n, "looked_up")
            found_go = delay(m, vector.valid & lookup_op, VectorUnit.AHEAD + TableMemory.LATENCY - 1, "found_go")[-1]
            values, comes = [Mux(looked_up[k], tab.o[k], values[k]) for k in range(n)], comes | found_go
        if windows:
            pools = copies(m, pool_op | unpool_op, n, "pools")
            values, comes = [Mux(pools[k], pool.value[k], values[k]) for k in range(n)], comes | (pool_op & pool.go)
            valid, row = Mux(unpool_op, pool.put, valid), Mux(unpool_op, pool.place.turn, row)
            address = Mux(unpool_op, pool.place.address, address)
            col_lanes = Mux(unpool_op, ragged | ~pool.right.replicate(n), col_lanes)
        m.d.comb += [
            pop.go.eq(pop_go),
            self.beat_ready.eq(load & beats.more),
            beats.step.eq(accepted | asked),
            writer.go.eq(Mux(load, accepted, comes)),
            reader.go.eq(
                Mux(
                    store,
                    asked,
                    Mux(
                        update,
                        Mux(moving, go[fetching], go[subtracting + 1 + Rotator.LATENCY - WORDS]),
                        Mux(sums, last[WeightPort.LATENCY - 1], last[STEP_TO_POP - 1 - MASK_LATENCY]),
                    ),
                )
            ),
            transfer.fields.eq(f),
            *(transfer.value[k].eq(values[k]) for k in range(n)),
            *(transfer.delta[k].eq(Mux(moving, moves[k], drain.delta[k])) for k in range(n)),
            transfer.words.eq(words),
            transfer.beat_in.as_value().eq(beat),
            transfer.valid.eq(valid),
            # What velocities move comes in the order of banks.
            transfer.row.eq(Mux(moving, 0, row)),
            transfer.address.eq(address),
            transfer.col_lanes.eq(Mux(moving, moved_banks, col_lanes)),
            transfer.stored.eq(delay(m, reader.valid & store, WORDS, "stored")[-1]),
            transfer.stored_row.eq(delay(m, reader.row, WORDS, "stored_row")[-1]),
            transfer.stored_lanes.eq(delay(m, reader.col_lanes, WORDS, "stored_lanes")[-1]),
            transfer.stored_last.eq(delay(m, reader.last, WORDS, "stored_last")[-1]),
            self.beat_out_valid.eq(transfer.beat_valid),
            self.beat_out.eq(transfer.beat),
            self.unfit.eq(Mux(holding, 0, transfer.unfit) + unfit),
        ]
        sent = Mux(self.taken, Mux(asked, all_sent, credit == SLOTS - 1), all_sent & ~asked)
        stored, empty = register(), copies(m, self.flush, 1, "flush_stream")[0]
        with m.If(empty):
            m.d.sync += [credit.eq(SLOTS), credited.eq(1), all_sent.eq(1)]
        with m.Else():
            m.d.sync += [
                credit.eq(stepped(credit, self.taken, asked)),
                credited.eq(self.taken | Mux(asked, credit != 1, credit != 0)),
                all_sent.eq(sent),
            ]
        m.d.sync += stored.eq(store & ~beats.more & ~start_stream & sent)
        # Zero where an instruction neither stores nor updates.
        from_act = copies(m, store & (f.memory == Memory.ACT), n, "from_act")
        from_err = copies(m, store & (f.memory == Memory.ERR), n, "from_err")
        from_wgt = copies(m, update | (store & (f.memory >= Memory.WGT)), n, "from_wgt")
        for k in range(n):
            master = Mux(from_wgt[k], masters[k], 0)
            m.d.sync += words[k].eq(Mux(from_act[k], act.o[k], Mux(from_err[k], err.o[k], master)))

        target = Mux(load, f.memory, Mux(to_act, Memory.ACT, Mux(update, Memory.WGT, Memory.ERR)))
        # It has a reset, unlike what it gates: a reset takes the instruction away before what is under way has passed.
        writable = Signal()
        m.d.sync += writable.eq(~self.flush)
        for name, bank in banks.items():
            here = ((target == name) & ~holding | (moving if name is Memory.VEL else 0)) & writable
            targeted = copies(m, here, n, f"to_{name.name.lower()}")
            m.d.comb += [
                bank.write.enable.eq(transfer.write_lanes & Cat(targeted)),
                bank.write.address.eq(copies(m, transfer.write_address, 1, f"{name.name.lower()}_target")[0]),
                *(
                    bank.write.data[lane].eq(
                        Mux(moving, to_write[lane], transfer.write_data[lane])
                        if name is Memory.VEL
                        else transfer.write_data[lane]
                    )
                    for lane in range(n)
                ),
            ]

        # The end: the last row was popped, or taken, or sent.
        ends_here = (load | pool_op | lookup_op) & writer.valid & writer.last
        if windows:
            ends_here = ends_here | (pool.put & pool.final)
        tail, ends = register(range(timing.UPDATE_TO_MEMORY + timing.MOMENTUM + 2)), register()
        m.d.sync += ends.eq(tail == 2)
        with m.If(pop.valid & pop.last):
            plain, longer = timing.UPDATE_TO_MEMORY, timing.UPDATE_TO_MEMORY + timing.MOMENTUM
            m.d.sync += tail.eq(Mux(moving, longer, Mux(update, plain, timing.DRAIN_TO_MEMORY)) + 1)
        with m.Elif(ends_here):
            m.d.sync += tail.eq(timing.LOAD_TAIL - 1)
        with m.Elif(tail != 0):
            m.d.sync += tail.eq(tail - 1)
        m.d.comb += self.finish.eq(ends | (stored & self.delivered))
        return m

    @staticmethod
    def _flag(m: Module, when: Any, name: str) -> Any:
        """A register of something static; 0 where a core never has it."""
        if isinstance(when, int):
            return Const(0, 1)
        found = register(name=name)
        m.d.sync += found.eq(when)
        return found

    @property
    def _widest(self) -> int:
        """Bits of a narrowed element."""
        p = self.params
        return max(p.activation_bits, p.error_bits, p.gradient_bits)

    @property
    def _moved(self) -> int:
        """Bits of an element that comes from the drain, or as it is from ACT or ERR."""
        return max(self._widest, self.params.word_bits(Memory.ACT), self.params.word_bits(Memory.ERR))
