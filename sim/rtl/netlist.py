"""From the core's RTLIL to the flat Verilog that Verilator runs fastest.

Amaranth's Verilog as it comes runs about six times slower and takes minutes to verilate; flattened and cleaned by yosys
first, it takes seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from insitu.arch.layout import Memory
from insitu.fpga import yosys
from insitu.fpga.elaborate import TOP
from insitu.sim.rtl.errors import BuildError

_ARRAY = re.compile(r"^ *reg (?:\[(\d+):0\] )?(\\\S+ |\w+) *\[(\d+):0\];", re.M)
_BANK = re.compile(rf"(?:^|\.)({'|'.join(m.name.lower() for m in Memory)})\.bank_(\d+)$")


@dataclass(frozen=True)
class Bank:
    """A memory bank as the Verilog declares it."""

    memory: Memory
    index: int
    name: str
    width: int


def verilog(rtlil_text: str, *, keep_names: bool = False) -> str:
    """Flat Verilog of an RTLIL text. keep_names: keep signals that nothing reads, for waveforms."""
    clean = "opt_clean" if keep_names else "opt_clean -purge"
    script = f"hierarchy -top {TOP}\nproc\nflatten\nopt\nopt_dff\n{clean}\nwrite_verilog -noattr\n"
    try:
        return yosys.run(yosys.heredoc(rtlil_text) + script)
    except yosys.ToolError as error:
        raise BuildError(str(error)) from error


def name_banks(text: str) -> tuple[str, list[Bank]]:
    """The Verilog with every array of the three memories under a plain name, and those arrays."""
    banks = []
    names = {}
    for width, name, _ in _ARRAY.findall(text):
        found = _BANK.search(name.strip().lstrip("\\"))
        if found:
            bank = Bank(Memory[found[1].upper()], int(found[2]), f"bank_{found[1]}_{found[2]}", int(width or 0) + 1)
            banks.append(bank)
            names[name.strip()] = bank.name
    if names:
        pattern = re.compile("|".join(re.escape(n) + r"(?= )" for n in sorted(names, key=len, reverse=True)))
        text = pattern.sub(lambda match: names[match[0]], text)
    return text, banks
