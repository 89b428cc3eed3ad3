"""Generation: everything that another flow needs to use a core, as files. The same core gives the same bytes."""

from __future__ import annotations

import re
from pathlib import Path

from insitu.arch.files import write_whole
from insitu.arch.params import CoreParams
from insitu.fpga import documents, vivado, yosys
from insitu.fpga.elaborate import TOP, rtlil

#: A function's declaration in Verilog, where its name is escaped; an escaped name.
_FUNCTION = re.compile(r"^ *function [^;\n]*?(\\\S+) ;$", re.M)
_ESCAPED = re.compile(r"\\\S+")


def generate(params: CoreParams, out: str | Path) -> list[Path]:
    """Write a core's files into a folder, which is made; the paths written.

    insitu.v: the core with its AXI ports, Verilog 2005, module `insitu`. core.json: parameters, hash, formats,
    registers, instruction fields. insitu.h: the registers for C. registers.md: for people. insitu.core: for FuseSoC.
    vivado/package_ip.tcl, vivado/block_design.tcl: an IP, and a Zynq design with its DMA.
    Raises ToolError where yosys is missing.
    """
    out = Path(out)
    texts = {
        f"{TOP}.v": verilog(params),
        "core.json": documents.core_json(params),
        f"{TOP}.h": documents.c_header(params),
        "registers.md": documents.register_page(params),
        f"{TOP}.core": fusesoc(params),
        "vivado/package_ip.tcl": vivado.package_tcl(TOP),
        "vivado/block_design.tcl": vivado.block_design_tcl(params),
    }
    (out / "vivado").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_whole(out / name, text.encode())
    return [out / name for name in texts]


def verilog(params: CoreParams) -> str:
    """The top as Verilog, its hierarchy kept. Memories have no initial contents: they are loaded before they are
    read."""
    script = f"hierarchy -top {TOP}\nproc\nopt_clean\nmemory_collect\nwrite_verilog -noattr -norename\n"
    text = _plain_functions(yosys.run(yosys.heredoc(rtlil(params)) + script))
    head = f"// insitu core {params.hash:016x}: {params.n} x {params.n} cells. Generated, do not edit.\n"
    return head + text


def _plain_functions(text: str) -> str:
    """yosys writes a multiplexer of many inputs as a function whose name begins with a dollar sign; Icarus Verilog
    takes that for a function of the system's, escaped or not."""
    names = {name: f"multiplexer_{k}" for k, name in enumerate(dict.fromkeys(_FUNCTION.findall(text)))}
    return _ESCAPED.sub(lambda match: names.get(match[0], match[0]), text) if names else text


def fusesoc(params: CoreParams) -> str:
    """A FuseSoC core file (CAPI2)."""
    return f"""\
CAPI=2:
name: insitu:insitu:core:1.0
description: insitu online-training core, {params.n} x {params.n} cells, parameter hash {params.hash:016x}
filesets:
  rtl:
    files:
      - {TOP}.v
    file_type: verilogSource-2005
  software:
    files:
      - {TOP}.h: {{is_include_file: true}}
      - core.json
      - registers.md
    file_type: user
targets:
  default:
    filesets: [rtl]
    toplevel: {TOP}
  lint:
    default_tool: verilator
    filesets: [rtl]
    tools:
      verilator:
        mode: lint-only
        verilator_options: [-Wno-fatal]
    toplevel: {TOP}
"""
