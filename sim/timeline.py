"""A cycle report as a timeline for Perfetto (ui.perfetto.dev), in the Trace Event format.

One track for the sequencer's instructions and one for each unit; a cycle is shown as a microsecond.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from insitu.arch.files import write_whole
from insitu.arch.timing import FETCH, pipeline, seeding, setup
from insitu.sim.cycles import UNITS, CycleReport, Timed

_PROCESS = 1
_TRACKS = {"instructions": 0, **{unit: i for i, unit in enumerate(UNITS, 1)}}


def events(report: CycleReport) -> list[dict[str, Any]]:
    """The trace's events: metadata, then complete events in order of start."""
    named = [
        {"ph": "M", "pid": _PROCESS, "tid": tid, "name": "thread_name", "args": {"name": name}}
        for name, tid in _TRACKS.items()
    ]
    title = f"insitu core {report.core.n} x {report.core.n}, 1 us = 1 cycle"
    process = {"ph": "M", "pid": _PROCESS, "name": "process_name", "args": {"name": title}}
    found: list[dict[str, Any]] = [process, *named]
    for t in report.instructions:
        arguments = {"index": t.index, "disassembly": str(t.instruction), "macs": t.cost.macs}
        found.append(_complete("instructions", t.instruction.opcode.name, t.start, t.cost.cycles, arguments))
        found += _units(t, report.core.n)
    return found


def save(report: CycleReport, path: str | Path) -> None:
    """Write the trace as JSON, whole or not at all."""
    trace = {"traceEvents": events(report), "displayTimeUnit": "ns"}
    write_whole(path, json.dumps(trace, separators=(",", ":")).encode())


def _units(t: Timed, n: int) -> list[dict[str, Any]]:
    """What the units do inside an instruction: set-up, then their work as one block, then the tail."""
    head = min(t.cost.cycles, FETCH + setup(n) + seeding(t.instruction, n)) if t.cost.overhead > FETCH else FETCH
    found = [_complete("sequencer", "set up", t.start, head, {})]
    at = t.start + head
    for unit, part in UNITS.items():
        cycles = getattr(t.cost, part)
        if unit != "sequencer" and cycles:
            found.append(_complete(unit, t.instruction.opcode.name, at, cycles, {}))
            at += cycles
    if at < t.end:
        name = "drain" if t.cost.macs and t.end - at >= pipeline(t.instruction) else "finish"
        found.append(_complete("sequencer", name, at, t.end - at, {}))
    return found


def _complete(track: str, name: str, start: int, cycles: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": _PROCESS,
        "tid": _TRACKS[track],
        "name": name,
        "ts": start,
        "dur": cycles,
        "args": arguments,
    }
