"""Generated files: complete, the same bytes every time, and accepted by the tools they are for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from insitu.arch.params import CoreParams
from insitu.arch.registers import REGISTERS
from insitu.fpga import documents
from insitu.fpga.generate import generate
from insitu.sim.rtl.build import verilator

CORE = CoreParams(n=4, master_bits=8, act_depth=32, err_depth=32, wgt_depth=32, program_depth=16)
SCRIPT = """
import sys
from insitu.arch.params import CoreParams
from insitu.fpga.generate import generate
generate(CoreParams(n=4, master_bits=8, act_depth=32, err_depth=32, wgt_depth=32, program_depth=16), sys.argv[1])
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hdl")
    generate(CORE, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_same_bytes_in_every_process(made: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "77"}  # what made the first had one at random
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "again")], env=environment, check=True)
    assert contents(tmp_path / "again") == contents(made)


def test_conventional_ports(made: Path) -> None:
    text = (made / "insitu.v").read_text()
    ports = set(re.findall(r"\w+", re.search(r"^module insitu\((.*?)\);", text, re.S | re.M)[1]))  # type: ignore[index]
    assert {"aclk", "aresetn", "s_axi_awaddr", "s_axi_bresp", "s_axi_rdata", "s_axis_tdata", "m_axis_tlast"} <= ports
    assert all(name.startswith(("s_axi_", "s_axis_", "m_axis_")) for name in ports - {"aclk", "aresetn"})


def test_verilator_takes_it(made: Path) -> None:
    command, environment = verilator()
    done = subprocess.run(
        [*command, "--lint-only", "-Wno-fatal", "-Wno-lint", "--top-module", "insitu", str(made / "insitu.v")],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_json_says_what_the_core_is(made: Path) -> None:
    data = json.loads((made / "core.json").read_text())
    assert CoreParams.from_json(data["parameters"]) == CORE
    assert int(data["hash"], 16) == CORE.hash
    assert {name: r["offset"] for name, r in data["registers"].items()} == {n: r.offset for n, r in REGISTERS.items()}


def test_header_has_every_register(made: Path, tmp_path: Path) -> None:
    checks = [f'_Static_assert(INSITU_{name} == {r.offset}, "");' for name, r in REGISTERS.items()]
    for name, r in REGISTERS.items():
        for field, f in r.fields.items():
            mask = f"INSITU_{name}_{field.upper()}_MASK"
            checks.append(f'_Static_assert({mask} == {f.put(-1)}u && {mask[:-5]}_SHIFT == {f.lsb}, "");')
    source = tmp_path / "check.c"
    source.write_text("\n".join(['#include "insitu.h"', '#include "insitu.h"', *checks, ""]))
    subprocess.run(["gcc", "-Wall", "-Werror", "-fsyntax-only", f"-I{made}", str(source)], check=True)


def test_page_lists_every_register() -> None:
    page = documents.register_page(CORE)
    for name, register in REGISTERS.items():
        assert f" {name}" in page
        assert register.doc in page
