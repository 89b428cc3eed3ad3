"""Waveform files: VCD as the simulators write it, and FST made from it, a tenth of the size."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from insitu.sim.rtl.errors import EngineError

#: Signals whose bits are ASCII: in FST they become text.
_TEXT = ("opcode_name", "operand_a_name", "operand_b_name", "operand_d_name")


class WaveFile:
    """Where waveforms go: a path that ends in .fst or in anything else, which is VCD. vcd: what a simulator writes.
    Raises EngineError where the library for FST is missing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._fst = self.path.suffix.lower() == ".fst"
        if self._fst and not has_library():
            raise EngineError(f"{path}: no pylibfst; install insitu's extra `fpga`, or write a .vcd")
        self.vcd = self.path.with_suffix(".fst.vcd") if self._fst else self.path

    def finish(self) -> None:
        """The simulator has closed its file."""
        if self._fst:
            try:
                to_fst(self.vcd, self.path)
            finally:
                self.vcd.unlink(missing_ok=True)


def has_library() -> bool:
    """Whether FST can be written."""
    return importlib.util.find_spec("pylibfst") is not None


@dataclass
class _Signal:
    """A signal of the new file. text: its bits are ASCII, or it is a string already."""

    handle: int
    width: int
    text: bool


def to_fst(vcd: Path, fst: Path) -> None:
    """Convert a file, keeping times, scopes, names and values."""
    import pylibfst

    lib, null = pylibfst.lib, pylibfst.ffi.NULL
    writer = lib.fstWriterCreate(str(fst).encode(), 1)
    if writer == null:
        raise EngineError(f"{fst}: cannot be written")
    try:
        lib.fstWriterSetPackType(writer, lib.FST_WR_PT_LZ4)
        with vcd.open() as file:
            signals = _declare(lib, null, writer, _words(file))
            _copy(lib, writer, file, signals)
    finally:
        lib.fstWriterClose(writer)


def _words(file: Iterator[str]) -> Iterator[list[str]]:
    """The declarations, each to its $end: ["$var", ...]."""
    words: list[str] = []
    for line in file:
        words += line.split()
        while "$end" in words:
            end = words.index("$end")
            yield words[:end]
            words = words[end + 1 :]


def _declare(lib: Any, null: Any, writer: Any, declarations: Iterator[list[str]]) -> dict[str, _Signal]:
    """Scopes and signals; VCD's name of each."""
    signals: dict[str, _Signal] = {}
    for kind, *words in declarations:
        if kind == "$timescale":
            lib.fstWriterSetTimescaleFromString(writer, "".join(words).encode())
        elif kind == "$scope":
            lib.fstWriterSetScope(writer, lib.FST_ST_VCD_MODULE, words[1].encode(), null)
        elif kind == "$upscope":
            lib.fstWriterSetUpscope(writer)
        elif kind == "$var":
            form, width, code, name = words[0], int(words[1]), words[2], " ".join(words[3:])
            text = form == "string" or words[3].split("[")[0] in _TEXT
            if text:
                name = words[3].split("[")[0]
            alias = signals[code].handle if code in signals else 0
            variable = lib.FST_VT_GEN_STRING if text else lib.FST_VT_VCD_WIRE
            size = 0 if text else width
            handle = lib.fstWriterCreateVar(writer, variable, lib.FST_VD_IMPLICIT, size, name.encode(), alias)
            signals.setdefault(code, _Signal(handle, width, text))
        elif kind == "$enddefinitions":
            break
    return signals


def _copy(lib: Any, writer: Any, file: Iterator[str], signals: dict[str, _Signal]) -> None:
    """Times and values."""
    for line in file:
        first = line[0]
        if first == "#":
            lib.fstWriterEmitTimeChange(writer, int(line[1:]))
        elif first in "01xzXZ":
            lib.fstWriterEmitValueChange(writer, signals[line[1:].strip()].handle, first.encode())
        elif first in "bs":
            value, code = line[1:].split() if " " in line[1:].strip() else ("", line[1:].strip())
            signal = signals[code]
            if signal.text:
                text = value.encode() if first == "s" else _ascii(value)
                lib.fstWriterEmitVariableLengthValueChange(writer, signal.handle, text, len(text))
            else:
                lib.fstWriterEmitValueChange(writer, signal.handle, value.rjust(signal.width, "0").encode())


def _ascii(bits: str) -> bytes:
    """The letters in a value of VCD's."""
    if set(bits) - {"0", "1"}:
        return b""
    return int(bits, 2).to_bytes(-(-len(bits) // 8), "big").lstrip(b"\0")
