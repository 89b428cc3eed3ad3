"""The arrows between rooms, read from the sources; and that every folder of code is installed."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What of insitu a folder may import; a folder that is not named answers to the one above it.
MAY = {
    "arch": {"arch"},
    "fpga": {"fpga", "arch"},
    "sim": {"sim", "arch"},
    "sim/rtl": {"sim", "arch", "fpga"},
    "models": {"models", "arch"},
    "host": {"host", "arch", "sim", "fpga", "models"},
}
#: Packages of others that a folder has no business with.
MAY_NOT = {
    "arch": {"amaranth", "torch", "numba"},
    "fpga": {"torch", "numba"},
    "sim": {"torch", "amaranth"},
    "sim/rtl": {"torch"},
    "models": {"amaranth", "numba"},
    "host": set(),
}
ROOMS = [room for room in ("arch", "fpga", "sim", "host", "models") if (ROOT / room).is_dir()]


def sources(room: str) -> list[Path]:
    return sorted(path for path in (ROOT / room).rglob("*.py"))


def imported(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a module of `package` imports, wherever in it, relative imports resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from insitu import sim` names a room no less than `import insitu.sim`.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def wrong(source: str, folder: str) -> list[str]:
    """What a source in `folder` imports and may not."""
    rule = next(str(at) for at in (Path(folder), *Path(folder).parents) if str(at) in MAY)
    package = "insitu." + folder.replace("/", ".")
    found = []
    for line, name in imported(source, package):
        first, _, rest = name.partition(".")
        if first == "insitu":
            bad = rest.partition(".")[0] not in MAY[rule]
        else:
            # Room names without `insitu.` exist in a checkout only.
            bad = first in MAY_NOT[rule] or first in {*MAY, "tests", "bench", "examples"}
        if bad:
            found.append(f"line {line}: {name}")
    return found


def test_there_are_rooms() -> None:
    assert {"arch", "sim", "host", "models"} <= set(ROOMS)
    assert all(sources(room) for room in ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_arrows(room: str) -> None:
    found = {
        str(path.relative_to(ROOT)): problems
        for path in sources(room)
        if (problems := wrong(path.read_text(), str(path.parent.relative_to(ROOT))))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("arch", "import torch"),
        ("arch", "import numba.core as core"),
        ("arch", "def late():\n    from amaranth.lib import stream"),
        ("arch", "from insitu.sim import emulator"),
        ("arch", "from insitu import host"),
        ("arch", "from ..host import errors"),
        ("sim", "from insitu.fpga.core import Core"),
        ("sim", "if True:\n    import insitu.host.errors"),
        ("sim/rtl", "from insitu.host import errors"),
        ("fpga", "import insitu.sim"),
        ("fpga/units", "from insitu.models import students"),
        ("models", "from insitu.sim.emulator import Emulator"),
        ("models", "from .. import host"),
        ("host/store", "from models import idx"),
        ("host", "from tests.host import tiny"),
    ],
)
def test_wrong_arrows_are_seen(folder: str, source: str) -> None:
    assert len(wrong(source, folder)) == 1


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("arch", "import numpy as np\nfrom insitu.arch import isa"),
        ("sim", "import numba\nfrom insitu.arch.isa import Opcode"),
        ("sim/rtl", "import amaranth\nfrom insitu.fpga.core import Core\nfrom ..cycles import time"),
        ("host/store", "from .errors import StoreError\nfrom ..errors import HostError\nimport insitu.models.idx"),
    ],
)
def test_right_arrows_are_let_through(folder: str, source: str) -> None:
    assert wrong(source, folder) == []


def test_every_folder_of_code_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {str(path.parent.relative_to(ROOT)) for room in ROOMS for path in sources(room)}
    assert settings["package-dir"] == {f"insitu.{folder.replace('/', '.')}": folder for folder in folders}
    assert sorted(settings["packages"]) == sorted(settings["package-dir"])
    assert "py.typed" in settings["package-data"]["*"]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_typed_and_say_what_they_are_for(room: str) -> None:
    assert (ROOT / room / "py.typed").is_file()
    for folder in {path.parent for path in sources(room)}:
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert docstring, folder


def test_what_runs_is_this_checkout() -> None:
    import insitu.arch.program

    assert Path(sys.modules["insitu.arch.program"].__file__ or "").resolve() == ROOT / "arch" / "program.py"
    assert insitu.arch.program.MAGIC.startswith(b"INSITU")
