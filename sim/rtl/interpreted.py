"""The interpreted engine: the core on Amaranth's simulator, some hundred cycles a second."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.arch.place import operand_name
from insitu.arch.registers import REGISTERS
from insitu.sim.rtl.engine import ACCESS_LIMIT, RESET_CYCLES, STATUS, Beats, Until, no_answer, refused
from insitu.sim.rtl.errors import EngineError
from insitu.sim.rtl.waves import WaveFile

#: Cycles between two reads of STATUS.
_POLL = 16
#: More beats than a stopped core shows.
_DISPLAYED = 8
_SLVERR = 2

Work = Callable[[Any], Coroutine[Any, Any, Any]]


class InterpretedEngine:
    """An `Engine` on Amaranth's simulator. waves: a VCD or FST file; a GTKWave session `.gtkw` appears beside it."""

    def __init__(self, params: CoreParams, *, waves: str | Path | None = None, core: Any = None) -> None:
        from amaranth.hdl import ClockDomain, Module
        from amaranth.sim import Simulator

        from insitu.fpga.top import Shell
        from insitu.fpga.trace import Trace

        self.core = params
        self._ports: Any = Shell(params, core)
        self._cycles = 0
        self._in: deque[int] = deque()
        self._out: deque[tuple[int, bool]] = deque()
        self._room = 0
        self._moved = 0
        self._dtype = np.dtype(f"int{params.lane_bits}")
        self._generator = np.random.default_rng(0)
        self._waits = {"send": 0.0, "receive": 0.0, "bus": 0.0}
        self._work: Work | None = None
        self._result: Any = None
        self._failed: BaseException | None = None

        top = Module()
        top.domains.sync = domain = ClockDomain()
        self._reset: Any = domain.rst
        top.submodules.shell = self._ports
        self._names: dict[int, str] = {}
        if waves is not None and core is None:
            top.submodules.trace = Trace(self._ports.core, lambda at: operand_name(at, self._names))
        self._simulator = Simulator(top)
        self._simulator.add_clock(1e-8)
        self._file: WaveFile | None = None
        self._waves: Any = None
        if waves is not None:
            self._file = WaveFile(waves)
            self._waves = self._simulator.write_vcd(str(self._file.vcd), str(Path(waves).with_suffix(".gtkw")))
            self._waves.__enter__()
        # Last: a coroutine made for a simulation that a refused wave file prevents would never be awaited.
        self._simulator.add_testbench(self._bench)
        self.reset()

    def close(self) -> None:
        waves, self._waves = self._waves, None
        if waves is not None and self._file is not None:
            waves.__exit__(None, None, None)
            self._file.finish()

    def name_operands(self, names: Mapping[int, str]) -> None:
        self._names |= names

    @property
    def cycles(self) -> int:
        return self._cycles

    @property
    def moved(self) -> int:
        return self._moved

    @property
    def sending(self) -> int:
        return len(self._in)

    @property
    def room(self) -> int:
        return self._room

    @property
    def received(self) -> int:
        return len(self._out)

    def reset(self, cycles: int = RESET_CYCLES) -> None:
        async def work(ctx: Any) -> None:
            self._in.clear()
            self._out.clear()
            self._room = 0
            for name in ("s_axis_tvalid", "m_axis_tready", "s_axi_awvalid", "s_axi_wvalid", "s_axi_bready"):
                ctx.set(getattr(self._ports, name), 0)
            ctx.set(self._ports.s_axi_arvalid, 0)
            ctx.set(self._ports.s_axi_rready, 0)
            ctx.set(self._ports.s_axis_tkeep, -1)
            ctx.set(self._reset, 1)
            for _ in range(cycles):
                await ctx.tick()
            ctx.set(self._reset, 0)

        self._do(work)

    def read(self, offset: int) -> int:
        async def work(ctx: Any) -> int:
            return await self._read(ctx, offset)

        return self._do(work)

    def write(self, offset: int, value: int, strobe: int = 0xF) -> None:
        async def work(ctx: Any) -> None:
            ports = self._ports
            left = {"aw": {"awaddr": offset}, "w": {"wdata": value, "wstrb": strobe}}
            end = self._cycles + ACCESS_LIMIT
            while True:
                for channel, values in left.items():
                    if not ctx.get(getattr(ports, f"s_axi_{channel}valid")) and not self._wait("bus"):
                        for name, number in values.items():
                            ctx.set(getattr(ports, f"s_axi_{name}"), number)
                        ctx.set(getattr(ports, f"s_axi_{channel}valid"), 1)
                ctx.set(ports.s_axi_bready, int(bool(ctx.get(ports.s_axi_bready)) or not self._wait("bus")))
                answered = ctx.get(ports.s_axi_bvalid) and ctx.get(ports.s_axi_bready)
                response = ctx.get(ports.s_axi_bresp)
                taken = [
                    channel
                    for channel in left
                    if ctx.get(getattr(ports, f"s_axi_{channel}valid"))
                    and ctx.get(getattr(ports, f"s_axi_{channel}ready"))
                ]
                await self._tick(ctx)
                for channel in taken:
                    del left[channel]
                    ctx.set(getattr(ports, f"s_axi_{channel}valid"), 0)
                if answered:
                    break
                if self._cycles >= end:
                    raise no_answer("write", offset)
            ctx.set(ports.s_axi_bready, 0)
            if response >= _SLVERR:
                raise refused("write", offset)

        self._do(work)

    def push(self, beats: npt.NDArray[np.integer[Any]]) -> None:
        data = np.ascontiguousarray(beats, dtype=self._dtype)
        self._in.extend(int.from_bytes(beat.tobytes(), "little") for beat in data)

    def accept(self, count: int) -> None:
        self._room += count

    def pull(self, count: int) -> Beats:
        count = min(count, len(self._out))
        size = self.core.stream_bits // 8
        data = b"".join(self._out.popleft()[0].to_bytes(size, "little") for _ in range(count))
        return np.frombuffer(data, dtype=self._dtype).reshape(count, self.core.n).copy()

    def drop(self) -> None:
        async def work(ctx: Any) -> None:
            self._in.clear()
            ctx.set(self._ports.s_axis_tvalid, 0)
            self._room = _DISPLAYED
            for _ in range(2 * _DISPLAYED):
                await self._tick(ctx)
            self._room = 0
            ctx.set(self._ports.m_axis_tready, 0)
            self._out.clear()

        self._do(work)

    def run(self, until: Until, limit: int) -> bool:
        async def work(ctx: Any) -> bool:
            end = self._cycles + limit
            while True:
                while (Until.SENT in until and self._in) or (Until.RECEIVED in until and self._room) or not until:
                    if self._cycles >= end:
                        return False
                    await self._tick(ctx)
                if Until.IDLE not in until:
                    return True
                if not REGISTERS["STATUS"].fields["busy"].of(await self._read(ctx, STATUS)):
                    return True
                for _ in range(_POLL):
                    if self._cycles >= end:
                        return False
                    await self._tick(ctx)

        return self._do(work)

    def stall(self, seed: int, *, send: float = 0.0, receive: float = 0.0, bus: float = 0.0) -> None:
        self._generator = np.random.default_rng(seed)
        self._waits = {"send": send, "receive": receive, "bus": bus}

    def image(self, memory: Memory) -> npt.NDArray[np.int64]:
        banks = self._banks(memory)
        depth, bits = self.core.depth(memory), self.core.word_bits(memory)

        async def work(ctx: Any) -> npt.NDArray[np.int64]:
            raw = np.array([[int(ctx.get(bank.data[k])) for bank in banks] for k in range(depth)], dtype=np.int64)
            half = 1 << (bits - 1)
            return ((raw + half) % (1 << bits)) - half

        return self._do(work)

    def set_image(self, memory: Memory, values: npt.NDArray[np.integer[Any]]) -> None:
        banks, bits = self._banks(memory), self.core.word_bits(memory)
        expected = (self.core.depth(memory), self.core.n)
        if values.shape != expected:
            raise ValueError(f"an image of shape {values.shape}: expected {expected}")

        async def work(ctx: Any) -> None:
            for address, row in enumerate(values.tolist()):
                for bank, value in zip(banks, row, strict=True):
                    ctx.set(bank.data[address], value % (1 << bits))

        self._do(work)

    def _banks(self, memory: Memory) -> list[Any]:
        return self._ports.core.datapath.memories[memory].banks

    # In the simulator.

    def _do(self, work: Work) -> Any:
        """Have the bench do something, and simulate until it is done."""
        self._work, self._failed = work, None
        while self._work is not None:
            self._simulator.advance()
        if self._failed is not None:
            raise self._failed
        return self._result

    async def _bench(self, ctx: Any) -> None:
        while True:
            if self._work is None:
                # Nothing to do: let the simulator return to its caller, half a clock away.
                await ctx.delay(1e-12)
                continue
            try:
                self._result = await self._work(ctx)
            except EngineError as error:
                self._failed = error
            self._work = None

    def _wait(self, what: str) -> bool:
        probability = self._waits[what]
        return probability > 0 and self._generator.random() < probability

    async def _read(self, ctx: Any, offset: int) -> int:
        ports = self._ports
        end = self._cycles + ACCESS_LIMIT
        asking = True
        while True:
            if asking and not ctx.get(ports.s_axi_arvalid) and not self._wait("bus"):
                ctx.set(ports.s_axi_araddr, offset)
                ctx.set(ports.s_axi_arvalid, 1)
            ctx.set(ports.s_axi_rready, int(bool(ctx.get(ports.s_axi_rready)) or not self._wait("bus")))
            asked = ctx.get(ports.s_axi_arvalid) and ctx.get(ports.s_axi_arready)
            answered = ctx.get(ports.s_axi_rvalid) and ctx.get(ports.s_axi_rready)
            value, response = ctx.get(ports.s_axi_rdata), ctx.get(ports.s_axi_rresp)
            await self._tick(ctx)
            if asked:
                asking = False
                ctx.set(ports.s_axi_arvalid, 0)
            if answered:
                break
            if self._cycles >= end:
                raise no_answer("read", offset)
        ctx.set(ports.s_axi_rready, 0)
        if response >= _SLVERR:
            raise refused("read", offset)
        return int(value)

    async def _tick(self, ctx: Any) -> None:
        """One cycle, with whatever the streams have to move."""
        ports = self._ports
        offering = bool(ctx.get(ports.s_axis_tvalid))
        if not offering and self._in and not self._wait("send"):
            ctx.set(ports.s_axis_tdata, self._in[0])
            ctx.set(ports.s_axis_tvalid, 1)
            offering = True
        ready = self._room > 0 and not self._wait("receive")
        ctx.set(ports.m_axis_tready, int(ready))
        sent = offering and ctx.get(ports.s_axis_tready)
        if ready and ctx.get(ports.m_axis_tvalid):
            self._out.append((int(ctx.get(ports.m_axis_tdata)), bool(ctx.get(ports.m_axis_tlast))))
            self._room -= 1
            self._moved += 1
        await ctx.tick()
        self._cycles += 1
        if sent:
            self._in.popleft()
            self._moved += 1
            ctx.set(ports.s_axis_tvalid, 0)
