"""The longer matrix: random cores, random cases, emulator against compiled RTL after every instruction.

python -m tests.sim.sweep --seed 1 --cores 8 --sizes 4,8,16 prints what it ran; exit code 1 where something differs.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from functools import partial

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

from insitu.arch.declaration import WIDTHS, Role
from insitu.arch.params import CoreParams
from insitu.sim.rtl.compiled import CompiledEngine
from tests.reference.drawing import UNITS
from tests.reference.strategies import Case, convolution_sequences, moves, pass_instructions, train_sequences
from tests.reference.vector_strategies import depthwise_sequences, vector_instructions, vector_sequences
from tests.sim.test_rtl_core import check

#: (cases, how many a core, whether the streams stall, the unit that they take)
PLAN: tuple[tuple[Callable[..., SearchStrategy[Case]], int, bool, str], ...] = (
    (partial(pass_instructions, exact=False), 400, False, ""),
    (partial(train_sequences, exact=False), 60, False, ""),
    (partial(train_sequences, exact=False), 20, True, ""),
    (partial(convolution_sequences, exact=False), 60, False, "windows"),
    (partial(convolution_sequences, exact=False), 20, True, "windows"),
    (moves, 60, False, ""),
    (partial(vector_instructions, exact=False), 400, False, "vector"),
    (partial(vector_sequences, exact=False), 80, False, "vector"),
    (partial(vector_sequences, exact=False), 20, True, "vector"),
    (partial(depthwise_sequences, exact=False), 60, False, "vector"),
)


def random_core(generator: random.Random, sizes: list[int]) -> CoreParams:
    """Any widths, memories of a few hundred words, with or without its units."""
    widths = {f"{role}_bits": generator.randint(*WIDTHS[role]) for role in Role}
    widths["master_bits"] = max(widths["master_bits"], widths["weight_bits"])
    widths["momentum_bits"] *= generator.randint(0, 1)
    depths = {f"{memory}_depth": generator.randint(24, 320) for memory in ("act", "err", "wgt", "tab")}
    windows, vector = generator.choice(UNITS)
    return CoreParams(n=generator.choice(sizes), program_depth=64, windows=windows, vector=vector, **widths, **depths)


def sweep(engine: CompiledEngine, base: int) -> int:
    """All cases of the plan on one core; how many were run."""
    return sum(
        explore(engine, base, strategy, examples, stalls)
        for strategy, examples, stalls, unit in PLAN
        if not unit or getattr(engine.core, unit)
    )


def explore(
    engine: CompiledEngine, base: int, strategy: Callable[..., SearchStrategy[Case]], examples: int, stalls: bool
) -> int:
    count = 0

    @seed(base)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy(engine.core))
    def run(case: Case) -> None:
        nonlocal count
        check(engine, case, stalls=stalls)
        count += 1

    run()
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cores", type=int, default=8)
    parser.add_argument("--sizes", default="4,8,8,16")
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    failed = 0
    for index in range(arguments.cores):
        core = random_core(generator, [int(size) for size in arguments.sizes.split(",")])
        engine = CompiledEngine(core)
        try:
            outcome = f"{sweep(engine, arguments.seed * 1000 + index)} cases equal"
        except AssertionError as error:
            failed += 1
            outcome = f"DIFFERS: {error}"
        engine.close()
        sys.stdout.write(f"seed {arguments.seed}, core {index}: {core}: {outcome}\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
