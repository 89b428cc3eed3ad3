"""What synthesis is made for, and what it counts."""

from __future__ import annotations

#: ECP5 parts come in speed grades 6, the slowest, to 8, which is meant where none is named.
SIZES, GRADES = ("85k", "45k", "25k"), (6, 7, 8)
TARGETS = (
    *(f"ecp5-{size}" for size in SIZES),
    *(f"ecp5-{size}-{grade}" for size in SIZES for grade in GRADES),
    "xc7",
)
#: Lookup tables, flip-flops, multipliers, block RAMs: fields of `synth.Cost`.
RESOURCES = ("lut", "ff", "dsp", "bram")
