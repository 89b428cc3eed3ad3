"""A core's top as RTLIL text: what simulation, synthesis and export all begin with."""

from __future__ import annotations

import re
from typing import Any
from unittest import mock

from insitu.arch.params import CoreParams

#: Name of the top module.
TOP = "insitu"
#: A memory's contents, all zero.
_ZEROS = re.compile(
    r"  cell \$meminit_v2 (?:(?!\n  end\n).)*?connect \\DATA \d+'0+\n(?:(?!\n  end\n).)*?\n  end\n", re.S
)


def rtlil(params: CoreParams, core: Any = None, *, traced: bool = False, platform: Any = None) -> str:
    """RTLIL of the top (fpga/top.py) of a core; the same core gives the same text. `core` stands in for the real one.
    traced: with the signals of fpga/trace.py. platform: what it is synthesised for, see fpga/memory.py.

    Memories whose initial contents are zero are left without: it is what they hold anyway, and megabytes of text.
    """
    from amaranth.back import rtlil as backend

    from insitu.fpga.top import Top

    top = Top(params, core, traced=traced)
    with mock.patch.object(backend.ModuleEmitter, "emit_memory", _without_zeros(backend.ModuleEmitter.emit_memory)):
        text: str = backend.convert(top, name=TOP, platform=platform, emit_src=False)
    return _ZEROS.sub("", text)


def _without_zeros(emit: Any) -> Any:
    """Amaranth's emitter of initial contents, which takes most of the time of elaboration, called only where needed."""

    def emit_memory(self: Any, index: Any, cell: Any) -> None:
        if any(cell.init):
            emit(self, index, cell)

    return emit_memory
