"""The emulator beside the compiled RTL: the same program through the same driver, in simulated cycles a second.

    python bench/rtl.py --json            # N = 8 and 16; compiles each core once, then it is cached

Both run a training step of the perceptron; each round times one after the other, and the median ratio is reported. The
clock is this process's CPU time. Streams are part of it: a step sends a batch and takes its logits back.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np

from insitu.arch.declaration import Declaration
from insitu.arch.params import CoreParams
from insitu.host.compiler.compile import compile_module
from insitu.host.device import Driver, open_device
from insitu.models.students import mlp

SIZES, BATCH = (784, 100, 50, 10), 64


def opened(core: CoreParams, backend: str) -> tuple[Driver, Any, Any]:
    """A device with the program and its weights, and a batch in the program's formats."""
    rng = np.random.default_rng(0)
    x = rng.random((BATCH, SIZES[0]), dtype=np.float32)
    targets = np.eye(SIZES[-1], dtype=np.float32)[rng.integers(0, SIZES[-1], BATCH)]
    compiled = compile_module(
        mlp(SIZES, seed=0), core=core, declaration=Declaration(), batch=BATCH, calibration=x, targets=targets
    )
    driver = open_device(core, backend)
    driver.load(compiled.program)
    driver.write_weights(compiled.masters)
    return driver, driver.quantise("sample", x), driver.quantise("target", targets)


def rate(driver: Driver, x: Any, targets: Any, steps: int) -> float:
    """Simulated cycles a second over some training steps."""
    before, begun = driver.counters.cycles, time.process_time()
    for _ in range(steps):
        driver.train(x, targets)
    return (driver.counters.cycles - before) / (time.process_time() - begun)


def measure(n: int, rounds: int) -> dict[str, object]:
    """Rates of both, the ratio, and the busy share by each one's own counters."""
    core = CoreParams.parse(f"edge8,n={n}")
    contenders = {name: opened(core, name) for name in ("emulator", "rtl")}
    for driver, x, targets in contenders.values():
        driver.train(x, targets)
        driver.clear_counters()
    rates: dict[str, list[float]] = {"emulator": [], "rtl": []}
    for _ in range(rounds):
        rates["emulator"].append(rate(*contenders["emulator"], steps=100))
        rates["rtl"].append(rate(*contenders["rtl"], steps=1))
    busy = {name: driver.counters.busy(core) for name, (driver, _, _) in contenders.items()}
    for driver, _, _ in contenders.values():
        driver.close()
    return {
        "n": n,
        "work": "-".join(map(str, SIZES)),
        "rtl_cycles_per_second": statistics.median(rates["rtl"]),
        "emulator_cycles_per_second": statistics.median(rates["emulator"]),
        "ratio": statistics.median(a / b for a, b in zip(rates["emulator"], rates["rtl"], strict=True)),
        "busy": busy,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(n, options.rounds) for n in options.n]
    print(json.dumps(rows, indent=2) if options.json else "\n".join(map(str, rows)))


if __name__ == "__main__":
    main()
