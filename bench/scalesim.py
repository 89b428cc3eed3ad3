"""The cycles of our products beside those of SCALE-Sim for the same output-stationary array.

    make peers && python bench/scalesim.py --json --peers .venv-peers/bin/python
    python bench/scalesim.py --work cnn --batch 1 --peers .venv-peers/bin/python

Every product of a training step: ours as the compiler schedules it, in the cycles of arch/timing.py, which the RTL
takes to the last; SCALE-Sim's as the matrix product that it is, M x N sums of K terms, bias included, a convolution
unfolded; it reports the number of its last cycle, counted from 0. Both works take about a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from insitu.arch.isa import Instruction

BATCH = {"mlp": 64, "cnn": 16}
PASSES = ("FORWARD", "BACKWARD", "UPDATE")
#: What a row adds up to in a table's last line.
SUMMED = ("ours", "issue", "wait", "fixed", "scalesim", "scalesim_terms", "scalesim_fill", "scalesim_stalls")

#: Compute alone: the bandwidth that it asks for is what it gets, and the memories are large.
CONFIG = """
[general]
run_name = run
[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False
[architecture_presets]
ArrayHeight = {n}
ArrayWidth = {n}
IfmapSramSzkB = 65536
FilterSramSzkB = 65536
OfmapSramSzkB = 65536
IfmapOffset = 0
FilterOffset = 100000000
OfmapOffset = 200000000
Dataflow = os
ReadRequestBuffer = 64
WriteRequestBuffer = 64
[layout]
IfmapCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterCustomLayout = False
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2
[sparsity]
SparsitySupport = false
"""

Shape = tuple[int, int, int]


def dimensions(instruction: Instruction) -> Shape:
    """M, N, K of an instruction's product. The errors of a map are sums over every tap of every pixel; of a dense layer
    over a map, whose pixels meet a tap each, there is one product for all pixels."""
    i, w = instruction, instruction.window
    match i.opcode.name:
        case "FORWARD":
            return i.rows * w.out_pixels, i.cols, w.taps * (i.depth - i.bias) + i.bias
        case "BACKWARD" if w.out_pixels == 1:
            return i.rows, w.map_pixels * i.cols, i.depth
        case "BACKWARD":
            return i.rows * w.map_pixels, i.cols, w.taps * i.depth
    return i.rows, w.taps * (i.cols - i.bias) + i.bias, w.out_pixels * i.depth


def products(work: str, batch: int, n: int) -> list[dict[str, Any]]:
    """The products of a training step in their order, with our cycles."""
    from dataclasses import replace

    import numpy as np
    from emulator import CLASSES, WORKS, student

    from insitu.arch.declaration import Declaration
    from insitu.arch.params import CoreParams
    from insitu.arch.timing import cost
    from insitu.host.compiler.compile import compile_module

    rng = np.random.default_rng(0)
    shape, depths = WORKS[work]
    x = rng.random((batch, *shape), dtype=np.float32)
    targets = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, batch)]
    declaration = Declaration.parse("w8a8e8g8")
    core = replace(CoreParams.parse(f"edge16,n={n}"), **depths).with_declaration(declaration)
    compiled = compile_module(
        student(work), core=core, declaration=declaration, batch=batch, calibration=x, targets=targets
    )
    rows = []
    for instruction in compiled.program.entry("train"):
        if instruction.opcode.name not in PASSES:
            continue
        spent = cost(instruction, n)
        rows.append(
            {
                "pass": instruction.opcode.name,
                **dict(zip("MNK", dimensions(instruction), strict=True)),
                "ours": spent.cycles,
                "issue": spent.issue,
                "wait": spent.wait,
                "fixed": spent.overhead,
            }
        )
    return rows


def worker() -> None:
    """Read [n, shapes] from standard input, print [total, stall cycles] of each."""
    from scalesim.scale_sim import scalesim

    n, shapes = json.load(sys.stdin)
    layers = "".join(f"p{i}," + ",".join(map(str, shape)) + ",\n" for i, shape in enumerate(shapes))
    files = {"core.cfg": CONFIG.format(n=n), "products.csv": "Layer,M,N,K,\n" + layers, "layout.csv": "Layer,\n"}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        for name, text in files.items():
            Path(folder, name).write_text(text)
        config, topology, layout = (str(Path(folder, name)) for name in files)
        scalesim(True, False, config, topology, layout, True).run_scale(folder)
        report = Path(folder, "run", "COMPUTE_REPORT.csv").read_text()
    rows = csv.DictReader(report.splitlines(), skipinitialspace=True)
    print(json.dumps([[int(float(row[key])) for key in ("Total Cycles", "Stall Cycles")] for row in rows]))


def simulated(python: str, n: int, shapes: Sequence[Shape]) -> dict[Shape, tuple[int, int]]:
    """SCALE-Sim's cycles and the stalls in them for each shape, from a process of its own."""
    wanted = list(dict.fromkeys(shapes))
    # -P: the folder of this file would hide the package of the same name.
    done = subprocess.run(
        [python, "-P", __file__, "--worker"], input=json.dumps([n, wanted]), capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"SCALE-Sim did not run in {python}:\n{done.stderr[-2000:]}")
    return {shape: (total, stalls) for shape, (total, stalls) in zip(wanted, json.loads(done.stdout), strict=True)}


def measure(work: str, batch: int, n: int, python: str) -> dict[str, Any]:
    """Every product of a training step at an array size, with their sums."""
    rows = products(work, batch, n)
    found = simulated(python, n, [(row["M"], row["N"], row["K"]) for row in rows])
    for row in rows:
        shape = row["M"], row["N"], row["K"]
        total, stalls = found[shape]
        terms = math.ceil(shape[0] / n) * math.ceil(shape[1] / n) * shape[2]
        row.update(scalesim=total, scalesim_terms=terms, scalesim_fill=total - terms - stalls, scalesim_stalls=stalls)
        row["ratio"] = row["ours"] / total
    sums = {}
    for name in (*PASSES, "all"):
        of = [row for row in rows if name in (row["pass"], "all")]
        sums[name] = {key: sum(row[key] for row in of) for key in SUMMED}
        sums[name]["ratio"] = sums[name]["ours"] / sums[name]["scalesim"]
    return {"work": work, "batch": batch, "n": n, "products": rows, "sums": sums}


def table(result: dict[str, Any]) -> str:
    """For people: a line for each product and each sum."""
    keys = ("issue", "wait", "fixed", "ours", "scalesim_terms", "scalesim_fill", "scalesim")
    heads = ("terms", "wait", "fixed", "ours", "terms", "fill", "SCALE-Sim", "ratio")
    lines = [f"{result['work']}, batch {result['batch']}, N={result['n']}"]
    lines.append(f"{'pass':9}" + "".join(f"{d:>7}" for d in "MNK") + "".join(f"{h:>10}" for h in heads))
    sums = [{"pass": name, "M": "", "N": "", "K": "", **row} for name, row in result["sums"].items()]
    for row in (*result["products"], *sums):
        dims = "".join(f"{row[d]:>7}" for d in "MNK")
        lines.append(f"{row['pass']:9}{dims}" + "".join(f"{row[key]:>10,}" for key in keys) + f"{row['ratio']:>10.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=BATCH, default=list(BATCH))
    parser.add_argument("--batch", type=int, help="samples a step (mlp 64, cnn 16)")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--peers", help="python of an environment that has scalesim")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker()
        return
    if not options.peers:
        parser.error("--peers is needed: make peers, then --peers .venv-peers/bin/python")
    results = [measure(work, options.batch or BATCH[work], options.n, options.peers) for work in options.work]
    print(json.dumps(results, indent=2) if options.json else "\n\n".join(map(table, results)))


if __name__ == "__main__":
    main()
