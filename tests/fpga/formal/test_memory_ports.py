"""The memories' ports: no pass waits for one, none is asked for two things at once, nothing is read as it is written.

Proved for every shape, place and pitch that ports.py allows and for streams that wait at will; each rule is seen to
fail on hardware that breaks it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from amaranth import Module, Signal, Value
from amaranth.hdl import Assert, Assume

from insitu.arch.isa import UPDATES, Opcode
from insitu.arch.layout import Memory
from insitu.fpga import issue
from insitu.fpga.common import delay
from insitu.fpga.loss import LossWalk
from insitu.fpga.passes import VECTOR
from insitu.fpga.tiles import TileCounter
from insitu.fpga.transfer import WRITE_LATENCY
from tests.fpga.formal import ports
from tests.fpga.formal.ports import IN_ACT, WatchedDatapath, check
from tests.fpga.formal.prove import Refuted, prove

PASSES = (Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE, Opcode.LOSS)
RULES = ["one_request", "one_write", "read_before_write", "quiet_at_the_end"]


# Minutes each: part of `make verify`, as are those broken rules whose proof takes as long to fail.
@pytest.mark.slow
@pytest.mark.parametrize("opcode", PASSES)
def test_a_pass_keeps_the_rules(opcode: Opcode, tmp_path: Path) -> None:
    check(opcode, RULES, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("opcode", VECTOR)
def test_a_vector_pass_keeps_the_rules(opcode: Opcode, tmp_path: Path) -> None:
    check(opcode, RULES, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("opcode", IN_ACT)
def test_a_vector_pass_in_one_memory_keeps_the_rules(opcode: Opcode, tmp_path: Path) -> None:
    check(opcode, RULES, tmp_path, in_act=True)


@pytest.mark.slow
@pytest.mark.parametrize("opcode", UPDATES)
def test_an_update_with_velocities_keeps_the_rules(opcode: Opcode, tmp_path: Path) -> None:
    check(opcode, RULES, tmp_path, velocities=True)


@pytest.mark.slow
@pytest.mark.parametrize("opcode", PASSES)
def test_a_pass_of_a_core_of_products_keeps_the_rules(opcode: Opcode, tmp_path: Path) -> None:
    check(opcode, RULES, tmp_path, products=True)


@pytest.mark.parametrize("velocities", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_load_keeps_the_rules(velocities: bool, tmp_path: Path) -> None:
    check(Opcode.LOAD, ["one_write", "quiet_at_the_end"], tmp_path, velocities=velocities)


@pytest.mark.slow
@pytest.mark.parametrize("velocities", [False, True])
def test_a_store_keeps_the_rules(velocities: bool, tmp_path: Path) -> None:
    rules = ["one_request", "own_memories", "one_write", "quiet_at_the_end"]
    check(Opcode.STORE, rules, tmp_path, velocities=velocities)


@pytest.mark.parametrize(
    "opcode",
    [
        Opcode.FORWARD,
        Opcode.UPDATE,
        Opcode.LOAD,
        *(pytest.param(other, marks=pytest.mark.slow) for other in (Opcode.BACKWARD, Opcode.LOSS, *VECTOR)),
    ],
)
def test_an_opcode_has_its_memories_for_ever(opcode: Opcode, tmp_path: Path) -> None:
    """By induction: whatever shape, and however long it takes."""
    check(opcode, ["own_memories"], tmp_path, induction=8)


@pytest.mark.slow
@pytest.mark.parametrize("opcode", [*UPDATES, Opcode.FORWARD, Opcode.LOAD])
def test_an_opcode_of_a_core_with_velocities_has_its_memories_for_ever(opcode: Opcode, tmp_path: Path) -> None:
    check(opcode, ["own_memories"], tmp_path, induction=8, velocities=True)


@pytest.mark.slow
@pytest.mark.parametrize("opcode", [*PASSES, Opcode.LOAD])
def test_an_opcode_of_a_core_of_products_has_its_memories_for_ever(opcode: Opcode, tmp_path: Path) -> None:
    check(opcode, ["own_memories"], tmp_path, induction=8, products=True)


@pytest.mark.parametrize("kind", [LossWalk, issue.Issue])
def test_what_was_not_started_asks_for_nothing(kind: Any, tmp_path: Path) -> None:
    """What `own_memories` takes for granted of the units that ask."""
    m = Module()
    m.submodules.unit = unit = kind(ports.N, 5)
    asks = unit.read if kind is LossWalk else unit.step.valid
    m.d.comb += [Assume(~unit.start), Assert(~asks)]
    prove(m, [unit.start, Value.cast(unit.fields)], tmp_path, mode="bmc", depth=40)


# Hardware that breaks the rules.


def two_ask(dut: WatchedDatapath, m: Module) -> None:
    """The reads of LOSS start beside a pass's."""
    m.d.comb += dut.walk.start.eq(dut.launch)


def two_memories(dut: WatchedDatapath, m: Module) -> None:
    """What goes to ACT goes to ERR too."""
    m.d.comb += dut.memories[Memory.ERR].write.enable.eq(dut.memories[Memory.ACT].write.enable)


def read_late(dut: WatchedDatapath, m: Module) -> None:
    """An update reads its masters when it has written them."""
    m.d.comb += dut.reader.go.eq(delay(m, dut.writer.go, WRITE_LATENCY, "spoilt")[-1])


def end_early(dut: WatchedDatapath, m: Module) -> None:
    """An instruction ends when its last row leaves the drain."""
    m.d.comb += dut.finish.eq(dut.pop.valid & dut.pop.last)


def in_and_out(dut: WatchedDatapath, m: Module) -> None:
    """A STORE's rows enter the rotator where a row to write is."""
    at = Signal()
    m.d.sync += at.eq(dut.writer.valid)
    m.d.comb += dut.transfer.stored.eq(at)


def masters_too(dut: WatchedDatapath, m: Module) -> None:
    """Masters are written though they shall stay."""
    m.d.comb += dut.memories[Memory.WGT].write.enable.eq(dut.memories[Memory.VEL].write.enable)


@pytest.mark.slow
def test_masters_that_do_not_stay_are_seen(tmp_path: Path) -> None:
    with pytest.raises(Refuted):
        check(Opcode.UPDATE, ["own_memories"], tmp_path, spoil=masters_too, velocities=True)


@pytest.mark.parametrize(
    ("opcode", "rule", "spoil"),
    [
        pytest.param(Opcode.FORWARD, "one_request", two_ask, marks=pytest.mark.slow),
        pytest.param(Opcode.FORWARD, "own_memories", two_memories, marks=pytest.mark.slow),
        pytest.param(Opcode.UPDATE, "read_before_write", read_late, marks=pytest.mark.slow),
        pytest.param(Opcode.BACKWARD, "quiet_at_the_end", end_early, marks=pytest.mark.slow),
        (Opcode.LOAD, "one_write", in_and_out),
    ],
)
def test_a_broken_rule_is_seen(opcode: Opcode, rule: str, spoil: Any, tmp_path: Path) -> None:
    with pytest.raises(Refuted):
        check(opcode, [rule], tmp_path, spoil=spoil)


@pytest.mark.slow
def test_two_tiles_at_the_write_port_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hasty(TileCounter):
        """Says that every tile is drained in a cycle, so that the next one does not wait for it."""

        def elaborate(self, platform: Any) -> Module:
            m = super().elaborate(platform)
            m.d.comb += self.count.eq(1)
            return m

    monkeypatch.setattr(issue, "TileCounter", Hasty)
    with pytest.raises(Refuted):
        check(Opcode.FORWARD, ["one_write"], tmp_path)
