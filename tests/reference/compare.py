"""Say where two states differ: instruction, memory, address, bank, element, expected and got in hex and as a real."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from tests.reference.machine import State
from tests.reference.windows import operands

#: Differences that one message lists.
SHOWN = 8


def expect_equal(core: CoreParams, instruction: Instruction | None, expected: State, got: State) -> None:
    """Raise AssertionError where the states differ. `instruction` is the one both executed last, None if unknown."""
    found = list(_differences(core, instruction, expected, got))
    if not found:
        return
    shown = "\n  ".join(found[:SHOWN])
    more = f"\n  and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise AssertionError(f"states differ after {instruction or 'the program'}\n  {shown}{more}")


def _differences(core: CoreParams, instruction: Instruction | None, expected: State, got: State) -> Iterator[str]:
    for name in ("seed", "accumulator_overflow", "saturated", "macs", "instructions"):
        want, have = int(getattr(expected, name)), int(getattr(got, name))
        if want != have:
            yield f"{name}: expected {want} ({want:#x}), got {have} ({have:#x})"
    for index, (want, have) in enumerate(zip(expected.scales, got.scales, strict=True)):
        if tuple(map(int, want)) != tuple(map(int, have)):
            yield f"scale[{index}]: expected exponent {want[0]}, next {want[1]}; got {have[0]}, {have[1]}"
    for memory in core.memories:
        want, have = (np.asarray(s.memories[memory], dtype=np.int64) for s in (expected, got))
        if want.shape != have.shape:
            yield f"{memory.name}: expected shape {want.shape}, got {have.shape}"
            continue
        for address, bank in np.argwhere(want != have).tolist():
            pair = (int(want[address, bank]), int(have[address, bank]))
            yield f"{memory.name}[{address:#x}] bank {bank}{_element(core, instruction, memory, address, bank)}: " + (
                _values(*pair, core.word_bits(memory), _exponent(instruction, expected, memory))
            )
    yield from _stream_differences(core, instruction, expected, got)


def _stream_differences(
    core: CoreParams, instruction: Instruction | None, expected: State, got: State
) -> Iterator[str]:
    if len(expected.stream_out) != len(got.stream_out):
        yield f"stream: expected {len(expected.stream_out)} beats, got {len(got.stream_out)}"
    for index, (want, have) in enumerate(zip(expected.stream_out, got.stream_out, strict=False)):
        if len(want) != len(have):
            yield f"beat {index}: expected {len(want)} lanes, got {len(have)}"
        for lane, pair in enumerate(zip(want, have, strict=False)):
            if pair[0] != pair[1]:
                yield f"beat {index} lane {lane}: " + _values(*map(int, pair), core.lane_bits, None)


def _element(core: CoreParams, instruction: Instruction | None, memory: Memory, address: int, bank: int) -> str:
    """The element of D that lies there, if the instruction has one."""
    d = operands(instruction).get("d") if instruction is not None else None
    if d is None or d.memory is not memory:
        return ""
    elements = ((r, c) for r in range(d.rows) for c in range(sum(d.groups)))
    found = [f", D[{r},{c}]" for r, c in elements if d.place(r, c, core.n) == (address, bank)]
    return "".join(found) or ", outside D"


def _exponent(instruction: Instruction | None, state: State, memory: Memory) -> int | None:
    """The exponent of what the instruction wrote to a memory; None where words alone do not tell."""
    if instruction is None or instruction.opcode in (Opcode.HALT, Opcode.LOAD, Opcode.STORE):
        return None
    moves = (Opcode.POOL, Opcode.UNPOOL, Opcode.LOOKUP)
    if instruction.opcode in moves or instruction.d.memory is not memory:
        return None
    return state.scales[instruction.sm if memory is Memory.WGT else instruction.sd][0]


def _values(want: int, have: int, bits: int, exponent: int | None) -> str:
    digits = -(-bits // 4)

    def show(value: int) -> str:
        real = "" if exponent is None else f", real {value * 2.0**exponent:.9g}"
        return f"{value} (0x{value % (1 << bits):0{digits}x}{real})"

    return f"expected {show(want)}, got {show(have)}"
