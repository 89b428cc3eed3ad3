"""The legality check against Instruction.decode and arch/check.py, on legal instructions with bits flipped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from insitu.arch.check import PlaceError, check
from insitu.arch.errors import ArchError
from insitu.arch.isa import FIELDS, WORDS, Instruction, Opcode
from insitu.arch.params import CoreParams
from insitu.arch.registers import Error
from insitu.fpga.decode import CHECK_LATENCY, Decoder, fields
from tests.fpga.units import simulate
from tests.reference.strategies import moves, pass_instructions
from tests.reference.vector_strategies import vector_instructions

CORES = (
    CoreParams(n=4, act_depth=61, err_depth=33, wgt_depth=90, tab_depth=40),
    CoreParams(n=8, weight_bits=5, master_bits=20, activation_bits=9, error_bits=3, act_depth=64, tab_depth=4096),
    CoreParams(n=4, momentum_bits=11, act_depth=40, err_depth=33, wgt_depth=50, tab_depth=40),
    CoreParams(n=4, act_depth=61, err_depth=33, wgt_depth=90, tab_depth=40, vector=0),
    CoreParams(n=4, act_depth=61, err_depth=33, wgt_depth=90, tab_depth=40, windows=0, vector=0),
)


def verdict(core: CoreParams, words: np.ndarray[Any, Any]) -> Error:
    """What the emulator says; `exact` is none of the core's."""
    try:
        instruction = Instruction.decode(words)
        has = fields(instruction.opcode, core)
        if any(getattr(instruction, name) for name in FIELDS if name not in has):
            return Error.ILLEGAL
        check(instruction, core)
    except PlaceError:
        return Error.ADDRESS
    except ArchError:
        return Error.ILLEGAL
    return Error.NONE


@st.composite
def words(draw: st.DrawFn, core: CoreParams) -> np.ndarray[Any, Any]:
    """Sixteen words: an instruction, of a unit that the core may lack too, with a few bits flipped or a field replaced,
    or anything."""
    core = draw(st.sampled_from([core, replace(core, windows=1, vector=1)]))
    passes = [pass_instructions(core), *([vector_instructions(core)] if core.vector else [])]
    case = draw(st.one_of(*passes, *passes, moves(core)))
    instruction = draw(st.sampled_from([*case.instructions, Instruction(opcode=Opcode.HALT)]))
    out = instruction.encode().copy()
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        if draw(st.booleans()):
            out[draw(st.integers(0, WORDS - 1))] ^= np.uint32(1 << draw(st.integers(0, 31)))
        else:
            f = FIELDS[draw(st.sampled_from(sorted(FIELDS)))]
            value = draw(st.sampled_from([0, 1, 2, 17, f.maximum]) | st.integers(0, (1 << f.width) - 1))
            kept = int(out[f.word]) & ~f.mask
            out[f.word] = kept | ((value << f.lsb) & f.mask)
    return out


def given_verdicts(core: CoreParams, programs: list[np.ndarray[Any, Any]]) -> list[Error]:
    """The decoder's verdicts on programs, one after the other."""
    unit = Decoder(core)
    got = []

    async def script(ctx: Any) -> None:
        for program in programs:
            for index, word in enumerate(program):
                ctx.set(unit.capture, 1)
                ctx.set(unit.index, index)
                ctx.set(unit.word, int(word))
                await ctx.tick()
            ctx.set(unit.capture, 0)
            await ctx.tick().repeat(CHECK_LATENCY)
            illegal, misplaced = ctx.get(unit.illegal), ctx.get(unit.misplaced)
            got.append(Error.ILLEGAL if illegal else Error.ADDRESS if misplaced else Error.NONE)

    simulate(unit, script)
    return got


@seed(1)
@settings(max_examples=30, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
@given(st.data())
def test_the_core_refuses_what_the_emulator_refuses(data: st.DataObject) -> None:
    core = data.draw(st.sampled_from(CORES))
    programs = data.draw(st.lists(words(core), min_size=10, max_size=20))
    assert given_verdicts(core, programs) == [verdict(core, program) for program in programs]
