"""A compiled student as a published setting has it: what of that is no number format, but words of its program."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from insitu.arch.declaration import Role
from insitu.arch.isa import Opcode
from insitu.arch.numbers import EXPONENT_MAX, EXPONENT_MIN, FixedFormat, clamp
from insitu.arch.program import Program
from insitu.host.compiler.compile import Compiled
from insitu.host.study.presets import Preset

#: NITRO-D divides a sum by this power of two and by its fan-in.
_NITRO_BITS = 8
#: The exponent its activations are given: 8 bits reach 4.
_NITRO_ACTIVATION = -5


def published(compiled: Compiled, preset: Preset) -> Compiled:
    """The student with the preset's exponents, masters quantised anew where theirs change, and its rounding of the
    loss gradient."""
    program = compiled.program
    if preset.loss_rounding is not None:
        rounding = preset.loss_rounding
        words = tuple(replace(i, rounding=rounding) if i.opcode is Opcode.LOSS else i for i in program.instructions)
        compiled = replace(compiled, program=replace(program, instructions=words))
        program = compiled.program
    if preset.exponents is None:
        return compiled
    if preset.exponents == "fan-in":
        scales = _by_fan_in(program)
    else:
        scales = (preset.exponents,) * len(program.scales)
    masters = {}
    for name, q in compiled.masters.items():
        tensor = program.tensors[name]
        assert tensor.role is Role.MASTER
        real = np.ldexp(q.astype(np.float64), program.scales[tensor.scale])
        fmt = FixedFormat(width=tensor.width, exponent=scales[tensor.scale])
        masters[name] = fmt.quantise(real).astype(np.int32)
    return replace(compiled, program=replace(program, scales=scales), masters=masters)


def _by_fan_in(program: Program) -> tuple[int, ...]:
    """Exponents after NITRO-D: a sum of K products is divided by 2**8 K, K brought to a power of two. What the integers
    stand for is ours to say: activations have one exponent, and weights the one that the division leaves them."""
    scales = list(program.scales)
    for i in program.entry("train"):
        if i.opcode is Opcode.FORWARD:
            divided = _NITRO_BITS + ((i.depth - i.bias) * i.window.taps - 1).bit_length()
            scales[i.sd] = _NITRO_ACTIVATION
            masters = _NITRO_ACTIVATION - scales[i.sa] - i.weight_shift - divided
            scales[i.sb] = clamp(masters, EXPONENT_MIN, EXPONENT_MAX)
    return tuple(scales)
