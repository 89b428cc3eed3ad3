"""What a waveform shows of a running program: the opcode by name, the operands' places, tile and row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from insitu.arch.isa import TABLE_BITS, USED, Instruction, Opcode
from insitu.arch.place import BASE_BITS, NO_MEMORY, OPERANDS, PLACE_BITS, place
from insitu.fpga import passes
from insitu.fpga.passes import among

#: Nothing reads what is only looked at: tools would remove it.
_KEPT = {"keep": True}
#: Letters of an opcode's name.
_LETTERS = max(len(opcode.name) for opcode in Opcode)


def text_bits(text: str, letters: int) -> int:
    """ASCII in a signal of 8 * letters bits, as waveform viewers read it: the last letter lowest, zeros above."""
    return int.from_bytes(text.encode("ascii", "replace")[-letters:], "big")


class Trace(wiring.Component):
    """Signals for waveforms beside a core that is elaborated before; nothing in the core depends on them.

    operand_a, operand_b, operand_d: places of the current instruction's operands (NO_MEMORY: it has none). Inside:
    opcode, and opcode_name in ASCII; pc; tile_row and tile_col, the tile whose steps are issued; row, that of D which
    is on its way to memory (not in UNPOOL). show: what a simulator of Amaranth's displays for a place.
    """

    def __init__(self, core: Any, show: Callable[[int], str] | None = None) -> None:
        self.core = core
        super().__init__({f"operand_{name}": Out(PLACE_BITS) for name in OPERANDS})
        if show is not None:
            for name in OPERANDS:
                setattr(self, f"operand_{name}", Signal(PLACE_BITS, name=f"operand_{name}", decoder=show))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        core, n = self.core, self.core.params.n
        f, log = core.decoder.fields, n.bit_length() - 1
        opcode = Signal(Opcode, name="opcode", attrs=_KEPT)
        opcode_name = Signal(8 * _LETTERS, name="opcode_name", attrs=_KEPT)
        pc = Signal(len(core.sequencer.status.pc), name="pc", attrs=_KEPT)
        m.d.comb += [opcode.eq(f.opcode), pc.eq(core.sequencer.status.pc)]
        with m.Switch(f.opcode):
            for code in Opcode:
                with m.Case(code):
                    m.d.comb += opcode_name.eq(text_bits(code.name, _LETTERS))
        for name in OPERANDS:
            memory = Signal(PLACE_BITS - BASE_BITS, name=f"memory_{name}", init=NO_MEMORY)
            with m.Switch(f.opcode):
                for code in Opcode:
                    if f"{name}_base" in USED[code]:
                        with m.Case(code):
                            m.d.comb += memory.eq(_memory(code, name, f))
            m.d.comb += getattr(self, f"operand_{name}").eq(
                Mux(memory == NO_MEMORY, Const(place(NO_MEMORY, 0), PLACE_BITS), Cat(f[f"{name}_base"], memory))
            )

        tile_row, tile_col, row = (Signal(16, name=name, attrs=_KEPT) for name in ("tile_row", "tile_col", "row"))
        block = Signal(16, name="block")
        step, writer = core.datapath.issue.step, core.datapath.writer
        matrix = core.decoder.geometry.matrix
        by_rows = among(f.opcode, (*passes.POOLS, *passes.VECTOR))
        rows = matrix.rows * matrix.pixels
        row_tiles = Mux(by_rows, rows, ((f.rows + (n - 1)) >> log) * matrix.pixels)
        blocks = ((matrix.cols + (n - 1)) >> log) * matrix.groups + matrix.tail
        with m.If(core.sequencer.launch):
            m.d.sync += [tile_row.eq(0), tile_col.eq(0), row.eq(0), block.eq(0)]
        with m.Else():
            with m.If(step.valid & step.last):
                bottom = tile_row == row_tiles - 1
                m.d.sync += [tile_row.eq(Mux(bottom, 0, tile_row + 1)), tile_col.eq(tile_col + bottom)]
            with m.If(writer.valid):
                whole = ~writer.by_rows | (block == blocks - 1)
                m.d.sync += block.eq(Mux(whole, 0, block + 1))
                with m.If(whole):
                    m.d.sync += row.eq(Mux(row == rows - 1, 0, row + 1))
        return m


def _memory(opcode: Opcode, operand: str, f: Any) -> Any:
    """The memory of an operand: the opcode's own, or the one that the instruction names; none in place of which there
    is a constant."""
    if "memory" in USED[opcode] and (opcode, operand) != (Opcode.MULTIPLY, "b"):
        return f.memory
    smallest = {"rows": 1, "cols": 1, "depth": 1, "width": 2, "weight_width": 2, "master_width": 2}
    if opcode is Opcode.LOOKUP:
        smallest["table_bits"] = TABLE_BITS[0]
    values: dict[str, Any] = {name: value for name, value in smallest.items() if name in USED[opcode]}
    example = Instruction(opcode=opcode, **values)
    memory = int(getattr(example, operand).memory)
    return Mux(f.constant != 0, NO_MEMORY, memory) if "constant" in USED[opcode] and operand == "b" else memory
