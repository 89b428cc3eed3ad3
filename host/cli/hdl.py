"""`insitu hdl`: the core's files for other flows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from insitu.host.cli.common import Core, Json, console, emit


def hdl(
    core: Core = "edge8",
    out: Annotated[Path, typer.Option(help="Folder to write to; made where it is not there.")] = Path("build"),
    json: Json = False,
) -> None:
    """Write a core as Verilog, with its registers (JSON, C, Markdown), a FuseSoC file and Vivado scripts.

    Example: `insitu hdl --core edge8 --out build/`
    """
    from insitu.arch.params import CoreParams
    from insitu.fpga.generate import generate

    params = CoreParams.parse(core)
    screen = console(json)
    with screen.status("generating"):
        paths = generate(params, out)
    if json:
        emit({"core": params.to_json(), "hash": f"{params.hash:016x}", "files": [str(path) for path in paths]})
        return
    for path in paths:
        screen.print(f"{path}  {path.stat().st_size:,} bytes", highlight=False, soft_wrap=True)
