"""Emulator and RTL side by side: after every instruction everything is compared that either can show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.errors import ArchError
from insitu.arch.isa import UPDATES, USED, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.registers import REGISTERS, WORD_MASK, Error
from insitu.arch.timing import cost
from insitu.sim.emulator import Emulator
from insitu.sim.rtl.engine import Engine, Until
from insitu.sim.rtl.errors import EngineError

#: Differences of one instruction that are kept; the rest are counted.
KEPT = 8
#: Cycles beyond the model's that an instruction may take before it counts as hung, and per beat where streams stall.
GRACE = 20_000
GRACE_PER_BEAT = 200


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something the two do not agree on: `where` it is, the emulator's value and the RTL's.

    bits: the word's width, for hexadecimal. exponent: of its tensor, None where words alone do not tell.
    """

    where: str
    expected: int
    got: int
    bits: int = 32
    exponent: int | None = None

    def __str__(self) -> str:
        return f"{self.where}: expected {self._show(self.expected)}, got {self._show(self.got)}"

    def _show(self, value: int) -> str:
        real = "" if self.exponent is None else f", real {value * 2.0**self.exponent:.9g}"
        return f"{value} (0x{value % (1 << self.bits):0{-(-self.bits // 4)}x}{real})"


@dataclass(frozen=True, kw_only=True)
class Report:
    """One instruction on both. cycles: (model, RTL less stalls). differences: at most KEPT of `count`."""

    index: int
    instruction: Instruction | None
    cycles: tuple[int, int]
    differences: tuple[Difference, ...] = ()
    count: int = 0

    def __str__(self) -> str:
        head = f"instruction {self.index} ({self.instruction or 'no instruction'})"
        if not self.count:
            return f"{head}: equal, {self.cycles[0]} cycles"
        more = f"\n  and {self.count - len(self.differences)} more" if self.count > len(self.differences) else ""
        return f"{head}: {self.count} differences\n  " + "\n  ".join(map(str, self.differences)) + more


@dataclass
class Lockstep:
    """An emulator and an engine of one core, started alike.

    stalls_expected: the engine was told to stall; cycles are then compared less the cycles the core waited.
    """

    emulator: Emulator
    engine: Engine
    stalls_expected: bool = False
    _program: dict[int, Instruction | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.core = self.engine.core
        self.align()

    def align(self) -> None:
        """Give the engine the emulator's state, and both zero counters."""
        for memory in self.core.memories:
            self.engine.set_image(memory, self.emulator.image(memory))
        for index, (exponent, following) in enumerate(self.emulator.scales):
            fields = REGISTERS["SCALE"].fields
            self._write("SCALE", fields["exponent"].put(exponent) | fields["next"].put(following), index)
        self._write("SEED", self.emulator.seed)
        self._clear()

    def load(self, words: npt.NDArray[np.uint32], at: int = 0) -> None:
        """Put instruction words [count, WORDS] into both program memories."""
        self.emulator.load_program(words, at)
        self._write("ENTRY", at)
        self._write("COUNT", len(words))
        self._command("load_program")
        self.engine.push(self.word_beats(words))
        if not self.engine.run(Until.SENT | Until.IDLE, GRACE + GRACE_PER_BEAT * words.size):
            raise EngineError("the core does not take its program")
        for index, word in enumerate(words):
            self._program[at + index] = _decoded(word)

    def word_beats(self, words: npt.NDArray[np.uint32]) -> npt.NDArray[np.signedinteger[Any]]:
        """Program words as beats: one word each, in the low 32 bits."""
        lanes = np.ascontiguousarray(words.reshape(-1), dtype="<u4").view(f"<i{self.core.lane_bits // 8}")
        beats = np.zeros((words.size, self.core.n), dtype=lanes.dtype)
        beats[:, : 32 // self.core.lane_bits] = lanes.reshape(words.size, -1)
        return beats

    def step(self, index: int, beats: npt.NDArray[np.integer[Any]] | None = None) -> Report:
        """Run the one instruction at `index` on both, a LOAD with its beats, and compare."""
        instruction = self._program.get(index)
        opcode = None if instruction is None else instruction.opcode
        coming = 0
        if instruction is not None and opcode is Opcode.STORE:
            coming = instruction.a.rows * instruction.a.row_words(self.core.n)
        expected_cycles = 0 if instruction is None else cost(instruction, self.core.n).cycles
        moving = coming + (0 if beats is None else len(beats))
        before = self.emulator.stream_out.pending
        self._clear()
        if beats is not None:
            self.emulator.stream_in.put(beats)
            self.engine.push(beats)
        self.emulator.start(index)
        self.emulator.advance(1)
        self.emulator.finish()
        sent = self.emulator.stream_out.take(self.emulator.stream_out.pending) if coming and not before else None
        self._write("ENTRY", index)
        self.engine.accept(0 if sent is None else len(sent))
        self._command("step")
        limit = 2 * expected_cycles + GRACE + GRACE_PER_BEAT * moving
        ended = self.engine.run(Until.IDLE | Until.SENT | Until.RECEIVED, limit)
        cycles = self._pair("CYCLES") - self._read("STALL_IN") - self._read("STALL_OUT")
        if self.emulator.error is not Error.NONE:
            expected_cycles = cycles  # what a refused instruction costs is no part of the contract
        found = [] if ended else [Difference(where=f"busy after {limit} cycles", expected=0, got=1, bits=1)]
        found += self._differences(instruction, sent, expected_cycles, cycles)
        report = Report(
            index=index,
            instruction=instruction,
            cycles=(expected_cycles, cycles),
            differences=tuple(found[:KEPT]),
            count=len(found),
        )
        self.emulator.clear()
        if not ended:
            raise EngineError(f"the core hangs: {report}")
        return report

    def _differences(
        self, instruction: Instruction | None, sent: npt.NDArray[np.int64] | None, model: int, cycles: int
    ) -> list[Difference]:
        return [
            *self._register_differences(model, cycles),
            *self._stream_differences(sent),
            *self._memory_differences(instruction),
        ]

    def _register_differences(self, model: int, cycles: int) -> Iterator[Difference]:
        emulator, status = self.emulator, REGISTERS["STATUS"].fields
        word = self._read("STATUS")
        pairs = [
            ("cycles", model, cycles),
            ("error", int(emulator.error), status["error"].of(word)),
            ("done", int(emulator.done), status["done"].of(word)),
            ("accumulator_overflow", int(emulator.accumulator_overflow), status["accumulator_overflow"].of(word)),
            ("SATURATED", emulator.saturated & WORD_MASK, self._read("SATURATED")),
            ("MACS", emulator.counters.macs, self._pair("MACS")),
            ("INSTRUCTIONS", emulator.counters.instructions, self._read("INSTRUCTIONS")),
            ("SEED", emulator.seed, self._read("SEED")),
        ]
        if emulator.error is not Error.NONE:
            pairs.append(("pc", emulator.pc, status["pc"].of(word)))
        if not self.stalls_expected:
            pairs += [(name, 0, self._read(name)) for name in ("STALL_IN", "STALL_OUT")]
        for where, expected, got in pairs:
            if expected != got:
                yield Difference(where=where, expected=expected, got=got)
        for index in range(self.core.scales):
            word = self._read("SCALE", index)
            names = ("exponent", "next")
            for name, expected in zip(names, emulator.scales[index], strict=True):
                got = REGISTERS["SCALE"].fields[name].of(word)
                if expected % 256 != got:
                    signed = got - 256 if got > 127 else got
                    yield Difference(where=f"SCALE[{index}].{name}", expected=expected, got=signed, bits=8)

    def _stream_differences(self, sent: npt.NDArray[np.int64] | None) -> Iterator[Difference]:
        came = self.engine.pull(self.engine.received)
        count = 0 if sent is None else len(sent)
        if len(came) != count:
            yield Difference(where="beats sent", expected=count, got=len(came))
        elif sent is not None:
            for beat, lane in np.argwhere(sent != came).tolist():
                pair = {"expected": int(sent[beat, lane]), "got": int(came[beat, lane])}
                yield Difference(where=f"beat {beat} lane {lane}", bits=self.core.lane_bits, **pair)

    def _memory_differences(self, instruction: Instruction | None) -> Iterator[Difference]:
        for memory in self.core.memories:
            want, have = self.emulator.image(memory), self.engine.image(memory)
            if np.array_equal(want, have):
                continue
            elements = _elements(instruction, memory, self.core.n)
            exponent = self._exponent(instruction, memory)
            for address, bank in np.argwhere(want != have).tolist():
                yield Difference(
                    where=f"{memory.name}[{address:#x}] bank {bank}{elements.get((address, bank), '')}",
                    expected=int(want[address, bank]),
                    got=int(have[address, bank]),
                    bits=self.core.word_bits(memory),
                    exponent=exponent,
                )

    def _exponent(self, instruction: Instruction | None, memory: Memory) -> int | None:
        """The exponent of what the instruction wrote to a memory; None where it has no scale register for that."""
        if instruction is None:
            return None
        register = "sm" if instruction.opcode in UPDATES else "sd"
        if register not in USED[instruction.opcode] or instruction.d.memory is not memory:
            return None
        return self.emulator.scales[getattr(instruction, register)][0]

    # Registers by name.

    def _read(self, name: str, index: int = 0) -> int:
        return self.engine.read(REGISTERS[name].offset + 4 * index)

    def _pair(self, name: str) -> int:
        return self._read(f"{name}_HI") << 32 | self._read(f"{name}_LO")

    def _write(self, name: str, value: int, index: int = 0) -> None:
        self.engine.write(REGISTERS[name].offset + 4 * index, value)

    def _command(self, name: str) -> None:
        self._write("CONTROL", REGISTERS["CONTROL"].fields[name].put(1))

    def _clear(self) -> None:
        self.emulator.clear()
        self._command("clear")


def _decoded(words: npt.NDArray[np.uint32]) -> Instruction | None:
    try:
        return Instruction.decode(words)
    except ArchError:
        return None


def _elements(instruction: Instruction | None, memory: Memory, n: int) -> dict[tuple[int, int], str]:
    """(address, bank) -> the element of D that lies there."""
    d = instruction.matrices.get("d") if instruction is not None else None
    if d is None or d.memory is not memory:
        return {}
    addresses, banks = d.locate(n)
    places = zip(addresses.ravel().tolist(), banks.ravel().tolist(), np.ndindex(addresses.shape), strict=True)
    return {(address, bank): f", D[{r},{c}]" for address, bank, (r, c) in places}
