"""The emulator, the compiled RTL and their yardsticks, in simulated cycles a second of CPU.

    python bench/rtl.py --json                      # N = 8 and 16; compiles each core once, then it is cached
    python bench/rtl.py --json --as-it-comes        # Amaranth's own Verilog too, which takes minutes to compile

Emulator and RTL run a training step of the perceptron through the same driver; the bare array (bare_array.py)
multiplies all the time. Contenders take turns, a short slice each, in this one process; the clock is its CPU time; what
is reported is the median over the rounds of each rate and of each round's ratios, with the lowest and highest. Streams
are part of it: a step sends a batch and takes its logits back.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from bare_array import BareArray

from insitu.arch.declaration import Declaration
from insitu.arch.params import CoreParams
from insitu.arch.registers import REGISTERS
from insitu.host.compiler.compile import compile_module
from insitu.host.device import Driver, open_device
from insitu.host.device.protocol import Device
from insitu.host.device.simulated import SimulatedDevice
from insitu.models.students import mlp
from insitu.sim.rtl.build import from_verilog
from insitu.sim.rtl.compiled import CompiledEngine
from insitu.sim.rtl.engine import Until

SIZES, BATCH = (784, 100, 50, 10), 64
#: Training steps of a slice, and cycles of the bare array's.
STEPS = {"emulator": 100, "rtl": 1, "as_it_comes": 1}
BARE_CYCLES = 100_000
RATIOS = (("emulator", "rtl"), ("emulator", "as_it_comes"), ("rtl", "as_it_comes"), ("rtl", "bare_array"))

Rate = Callable[[], float]


def loaded(driver: Driver) -> tuple[Any, Any]:
    """Put the program and its weights into a device; a batch in the program's formats."""
    rng = np.random.default_rng(0)
    x = rng.random((BATCH, SIZES[0]), dtype=np.float32)
    targets = np.eye(SIZES[-1], dtype=np.float32)[rng.integers(0, SIZES[-1], BATCH)]
    compiled = compile_module(
        mlp(SIZES, seed=0), core=driver.core, declaration=Declaration(), batch=BATCH, calibration=x, targets=targets
    )
    driver.load(compiled.program)
    driver.write_weights(compiled.masters)
    return driver.quantise("sample", x), driver.quantise("target", targets)


def training_rate(driver: Driver, x: Any, targets: Any, steps: int) -> float:
    """Simulated cycles a second over some training steps."""
    before, begun = driver.counters.cycles, time.process_time()
    for _ in range(steps):
        driver.train(x, targets)
    return (driver.counters.cycles - before) / (time.process_time() - begun)


def bare_rate(engine: CompiledEngine) -> float:
    """Clock cycles a second of the bare array."""
    before, begun = engine.cycles, time.process_time()
    engine.run(Until(0), BARE_CYCLES)
    return (engine.cycles - before) / (time.process_time() - begun)


def bare_array(core: CoreParams) -> CompiledEngine:
    """The bare array at work on random numbers."""
    engine = CompiledEngine(core, core=BareArray(core))
    rng = np.random.default_rng(0)
    for memory in core.memories:
        half = 1 << (core.word_bits(memory) - 1)
        engine.set_image(memory, rng.integers(-half, half, (core.depth(memory), core.n)))
    engine.write(REGISTERS["CONTROL"].offset, 1)
    return engine


def as_it_comes(core: CoreParams) -> Device:
    """The core from the Verilog that Amaranth writes, given to Verilator unchanged."""
    from amaranth.back import verilog

    from insitu.fpga.elaborate import TOP
    from insitu.fpga.top import Top

    library = from_verilog(core, verilog.convert(Top(core), name=TOP, emit_src=False))
    return SimulatedDevice(CompiledEngine(core, library=library))


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def measure(n: int, rounds: int, *, slow: bool) -> dict[str, object]:
    """Rates and ratios at one array size, and the busy share by each driver's own counters."""
    core = CoreParams.parse(f"edge8,n={n}")
    drivers = {name: open_device(core, name) for name in ("emulator", "rtl")}
    if slow:
        drivers["as_it_comes"] = Driver(as_it_comes(core))
    turns: dict[str, Rate] = {}
    for name, driver in drivers.items():
        batch = loaded(driver)
        driver.train(*batch)
        driver.clear_counters()
        turns[name] = partial(training_rate, driver, *batch, STEPS[name])
    array = bare_array(core)
    turns["bare_array"] = partial(bare_rate, array)
    taken = [{name: turn() for name, turn in turns.items()} for _ in range(rounds)]
    busy = {name: driver.counters.busy(core) for name, driver in drivers.items()}
    for driver in drivers.values():
        driver.close()
    array.close()
    return {
        "n": n,
        "work": "-".join(map(str, SIZES)),
        "rounds": rounds,
        "cycles_per_second": {name: spread([t[name] for t in taken]) for name in turns},
        "ratios": {f"{a}/{b}": spread([t[a] / t[b] for t in taken]) for a, b in RATIOS if {a, b} <= turns.keys()},
        "busy": busy,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For people: a line for each figure."""
    lines = []
    for row in rows:
        for unit in ("cycles_per_second", "ratios"):
            for name, s in row[unit].items():
                lines.append(f"N={row['n']:<3}{name:24}{s['median']:>16,.2f}  ({s['low']:,.2f} to {s['high']:,.2f})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--as-it-comes", action="store_true", help="compile Amaranth's own Verilog too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(n, options.rounds, slow=options.as_it_comes) for n in options.n]
    print(json.dumps(rows, indent=2) if options.json else table(rows))


if __name__ == "__main__":
    main()
