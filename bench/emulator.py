"""The emulator's training step beside float32 PyTorch's and QPyTorch's: same network, batch and threads, interleaved.

    python bench/emulator.py --json                              # float32 only
    make peers && python bench/emulator.py --json --peers .venv-peers/bin/python

Each contender is a process of its own that makes a few steps when told to, in turn with the others; a round gives one
ratio to each, and the median of all rounds is reported. One thread is measured in CPU time, more in wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

BATCH = 64
CLASSES = 10
#: The shape of a sample of each work, and the memories its batch needs in our core.
WORKS = {
    "mlp": ((784,), {}),
    "cnn": ((1, 28, 28), {"act_depth": 1 << 18, "err_depth": 1 << 18}),
}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def student(work: str):  # type: ignore[no-untyped-def]
    """The network that every contender trains."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    if work == "mlp":
        dense = (nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, CLASSES))
        return nn.Sequential(*dense)
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, CLASSES)),
    )


def emulator(work: str) -> Callable[[], object]:
    """One bit-exact w8a8e8g8 training step through the driver."""
    import numpy as np

    from insitu.arch.declaration import Declaration
    from insitu.arch.params import PRESETS
    from insitu.host.compiler.compile import compile_module
    from insitu.host.device import open_device

    rng = np.random.default_rng(0)
    shape, depths = WORKS[work]
    x = rng.random((BATCH, *shape), dtype=np.float32)
    targets = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, BATCH)]
    declaration = Declaration.parse("w8a8e8g8")
    core = replace(PRESETS["edge16"], **depths).with_declaration(declaration)
    compiled = compile_module(
        student(work), core=core, declaration=declaration, batch=BATCH, calibration=x, learning_rate=0.05
    )
    driver = open_device(core)
    driver.load(compiled.program)
    driver.write_weights(compiled.masters)
    samples, wanted = driver.quantise("sample", x), driver.quantise("target", targets)
    return lambda: driver.train(samples, wanted)


def float32(work: str) -> Callable[[], object]:
    """One eager float32 SGD step."""
    import torch

    net = student(work)
    return _torch_step(net, torch.optim.SGD(net.parameters(), lr=0.05), work)


def qpytorch(work: str) -> Callable[[], object]:
    """One QPyTorch step: 8-bit fixed point with stochastic rounding on weights, activations, errors, gradients."""
    import torch
    import torch.utils.cpp_extension as extension
    from torch import nn

    plain = extension.load
    # As shipped its extension is compiled without optimisation; give it its best.
    extension.load = lambda name, sources, **k: plain(
        name=name, sources=sources, extra_cflags=["-O3", "-march=native", "-fno-math-errno"], **k
    )
    from qtorch import FixedPoint
    from qtorch.optim import OptimLP
    from qtorch.quant import Quantizer, quantizer

    def between() -> nn.Module:
        return Quantizer(
            forward_number=FixedPoint(wl=8, fl=4),
            backward_number=FixedPoint(wl=8, fl=12),
            forward_rounding="stochastic",
            backward_rounding="stochastic",
        )

    layers: list[nn.Module] = [between()]
    for layer in student(work):
        layers += [layer, between()] if isinstance(layer, nn.Linear | nn.Conv2d) else [layer]
    net = nn.Sequential(*layers[:-1])
    optimiser = OptimLP(
        torch.optim.SGD(net.parameters(), lr=0.05),
        weight_quant=quantizer(forward_number=FixedPoint(wl=8, fl=7), forward_rounding="stochastic"),
        grad_quant=quantizer(forward_number=FixedPoint(wl=8, fl=10), forward_rounding="stochastic"),
    )
    return _torch_step(net, optimiser, work)


def _torch_step(net, optimiser, work) -> Callable[[], object]:  # type: ignore[no-untyped-def]
    import torch
    from torch.nn import functional

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    x, y = torch.rand(BATCH, *WORKS[work][0]), torch.randint(0, CLASSES, (BATCH,))

    def step() -> None:
        optimiser.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        optimiser.step()

    return step


def worker(contender: str, work: str) -> None:
    """Make as many steps as each line of standard input says, and print the seconds a step took."""
    step = {"emulator": emulator, "float32": float32, "qpytorch": qpytorch}[contender](work)
    clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
    for _ in range(20):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        count = int(line)
        begun = clock()
        for _ in range(count):
            step()
        print((clock() - begun) / count, flush=True)


class Contender:
    """A worker process."""

    def __init__(self, python: str, name: str, work: str, threads: int) -> None:
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        command = [python, __file__, "--worker", name, "--work", work]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._read(lambda line: line == "ready")

    def _read(self, wanted: Callable[[str], bool]) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if wanted(line.strip()):
                return line.strip()
        raise SystemExit(f"{self._process.args} ended with {self._process.wait()}")

    def seconds(self, count: int) -> float:
        """Seconds a step takes, over `count` steps."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return float(self._read(lambda line: line[:1].isdigit()))

    def close(self) -> None:
        self._process.communicate()


def measure(work: str, threads: int, rounds: int, steps: int, peers: str | None) -> dict[str, object]:
    """Ratios of the emulator's step to each peer's."""
    pythons = {"emulator": sys.executable, "float32": sys.executable, **({"qpytorch": peers} if peers else {})}
    contenders = {name: Contender(python, name, work, threads) for name, python in pythons.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            times[name].append(contender.seconds(steps if name != "qpytorch" else max(1, steps // 8)))
    for contender in contenders.values():
        contender.close()
    median = {name: statistics.median(t) for name, t in times.items()}

    def ratio(peer: str) -> float | None:
        if peer not in times:
            return None
        return statistics.median(a / b for a, b in zip(times["emulator"], times[peer], strict=True))

    return {
        "work": work,
        "threads": threads,
        "ratio_float32": ratio("float32"),
        "ratio_qpytorch": ratio("qpytorch"),
        "milliseconds": {name: 1e3 * t for name, t in median.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=WORKS, default="mlp")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--steps", type=int, default=40, help="steps a round")
    parser.add_argument("--peers", help="python of an environment that has qtorch")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.work)
        return
    rows = [measure(options.work, t, options.rounds, options.steps, options.peers) for t in options.threads]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
