"""The compiled engine: the core as a shared library, called in bulk over ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.sim.rtl.build import build
from insitu.sim.rtl.engine import ACCESS_LIMIT, RESET_CYCLES, Beats, Until, no_answer, refused
from insitu.sim.rtl.errors import BusError, EngineError
from insitu.sim.rtl.waves import WaveFile

_NO_ANSWER, _REFUSED = -1, -2
_CYCLES, _SENDING, _RECEIVED, _ROOM, _BEATS_IN, _BEATS_OUT = range(6)


class CompiledEngine:
    """An `Engine` at several hundred thousand cycles a second; `waves` names a VCD or FST file to write, which is slow.

    Compiles the core unless the cache has it (build.py); `core` stands in for the core that `params` describe, and
    `library` is one already compiled.
    """

    def __init__(
        self,
        params: CoreParams,
        *,
        waves: str | Path | None = None,
        core: object | None = None,
        library: Path | None = None,
    ) -> None:
        self.core = params
        self._waves = None if waves is None else WaveFile(waves)
        self._library = _load(library or build(params, waves=waves is not None, core=core))
        self._engine: int | None = self._library.insitu_new()
        self._dtype = np.dtype(f"int{params.lane_bits}")
        if self._waves is not None and not self._library.insitu_waves(self._engine, str(self._waves.vcd).encode()):
            raise EngineError(f"{waves}: cannot be written")
        self.reset()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        engine, self._engine = getattr(self, "_engine", None), None
        if engine is not None:
            self._library.insitu_delete(engine)
            if self._waves is not None:
                self._waves.finish()

    def _count(self, what: int) -> int:
        return self._library.insitu_count(self._engine, what)

    @property
    def cycles(self) -> int:
        return self._count(_CYCLES)

    @property
    def moved(self) -> int:
        return self._count(_BEATS_IN) + self._count(_BEATS_OUT)

    @property
    def sending(self) -> int:
        return self._count(_SENDING)

    @property
    def room(self) -> int:
        return self._count(_ROOM)

    @property
    def received(self) -> int:
        return self._count(_RECEIVED)

    def reset(self, cycles: int = RESET_CYCLES) -> None:
        self._library.insitu_reset(self._engine, cycles)

    def read(self, offset: int) -> int:
        value = ctypes.c_uint32()
        outcome = self._library.insitu_read(self._engine, offset, ctypes.byref(value), ACCESS_LIMIT)
        _check(outcome, "read", offset)
        return value.value

    def write(self, offset: int, value: int, strobe: int = 0xF) -> None:
        outcome = self._library.insitu_write(self._engine, offset, value, strobe, ACCESS_LIMIT)
        _check(outcome, "write", offset)

    def push(self, beats: npt.NDArray[np.integer[Any]]) -> None:
        data = np.ascontiguousarray(beats, dtype=self._dtype)
        if data.ndim != 2 or data.shape[1] != self.core.n:
            raise ValueError(f"beats of shape {data.shape}: expected [count, {self.core.n}]")
        self._library.insitu_push(self._engine, data.ctypes.data, len(data))

    def accept(self, count: int) -> None:
        self._library.insitu_accept(self._engine, count)

    def drop(self) -> None:
        self._library.insitu_drop(self._engine)

    def pull(self, count: int) -> Beats:
        return self.pull_packets(count)[0]

    def pull_packets(self, count: int) -> tuple[Beats, npt.NDArray[np.bool_]]:
        """As `pull`, with each beat's TLAST."""
        count = min(count, self.received)
        beats, last = np.empty((count, self.core.n), dtype=self._dtype), np.empty(count, dtype=np.bool_)
        self._library.insitu_pull(self._engine, beats.ctypes.data, last.ctypes.data, count)
        return beats, last

    def run(self, until: Until, limit: int) -> bool:
        outcome = self._library.insitu_run(self._engine, int(until), limit)
        if outcome < 0:
            raise BusError("STATUS cannot be read")
        return bool(outcome)

    def stall(self, seed: int, *, send: float = 0.0, receive: float = 0.0, bus: float = 0.0) -> None:
        self._library.insitu_stall(self._engine, seed & 0xFFFFFFFF, send, receive, bus)

    def name_operands(self, names: Mapping[int, str]) -> None:
        for place, name in names.items():
            self._library.insitu_name(self._engine, place, name.encode("ascii", "replace"))

    def image(self, memory: Memory) -> npt.NDArray[np.int64]:
        values = np.empty((self.core.depth(memory), self.core.n), dtype=np.int32)
        self._move(memory, values, put=False)
        return values.astype(np.int64)

    def set_image(self, memory: Memory, values: npt.NDArray[np.integer[Any]]) -> None:
        expected = (self.core.depth(memory), self.core.n)
        if values.shape != expected:
            raise ValueError(f"an image of shape {values.shape}: expected {expected}")
        self._move(memory, np.ascontiguousarray(values, dtype=np.int32), put=True)

    def _move(self, memory: Memory, values: npt.NDArray[np.int32], *, put: bool) -> None:
        depth, banks = values.shape
        found = self._library.insitu_memory(self._engine, int(memory), values.ctypes.data, banks, depth, put)
        if found != banks:
            raise EngineError(f"{memory.name}: the compiled core shows {found} of its {banks} banks")


def _check(outcome: int, action: str, offset: int) -> None:
    if outcome == _REFUSED:
        raise refused(action, offset)
    if outcome == _NO_ANSWER:
        raise no_answer(action, offset)


def _load(path: Path) -> ctypes.CDLL:
    """The library with its functions' types."""
    library = ctypes.CDLL(str(path))
    engine, u32, u64, real = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_double
    data, i32 = ctypes.c_void_p, ctypes.c_int32
    for name, result, arguments in (
        ("new", engine, []),
        ("delete", None, [engine]),
        ("reset", None, [engine, u32]),
        ("drop", None, [engine]),
        ("read", i32, [engine, u32, ctypes.POINTER(u32), u64]),
        ("write", i32, [engine, u32, u32, u32, u64]),
        ("run", i32, [engine, u32, u64]),
        ("push", None, [engine, data, u64]),
        ("accept", None, [engine, u64]),
        ("pull", u64, [engine, data, data, u64]),
        ("count", u64, [engine, u32]),
        ("stall", None, [engine, u32, real, real, real]),
        ("memory", i32, [engine, u32, data, u32, u32, i32]),
        ("name", None, [engine, u32, ctypes.c_char_p]),
        ("waves", i32, [engine, ctypes.c_char_p]),
    ):
        function = getattr(library, f"insitu_{name}")
        function.restype, function.argtypes = result, arguments
    return library
