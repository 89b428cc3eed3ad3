"""Twenty collapses injected into the online fix: what the guard notices, how soon, and what it saves.

    python bench/collapse.py [--seeds 2,3,4] [--gold 8] [--sound 20]

Digits turned by 45 degrees, a student of 64-24-10 in 8 bits. Each seed's result goes into docs/collapse, where it is
shown in docs/collapse.md; what is printed is the tables there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from insitu.arch.declaration import Declaration
from insitu.arch.files import write_whole
from insitu.arch.params import CoreParams
from insitu.host.collapse.injections import TWENTY
from insitu.host.collapse.trial import Setup, alarms, study
from insitu.host.online.scene import prepare

FOLDER = Path(__file__).parents[1] / "docs/collapse"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="2,3,4", help="of student, teacher, stream and rounding")
    parser.add_argument("--gold", type=int, default=8, help="questions beside each chunk's; 0 for none")
    parser.add_argument("--sound", type=int, default=20, help="runs of each seed in which nothing is wrong")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    results = []
    for seed in map(int, chosen.seeds.split(",")):
        results.append(found(seed, chosen.gold, chosen.sound))
        kept = FOLDER / f"seed-{seed}-gold-{chosen.gold}.json"
        write_whole(kept, (json.dumps(results[-1], indent=1) + "\n").encode())
        print("\n".join(each(results[-1])), end="\n\n")
    print("\n".join(summary(results)))


def found(seed: int, gold: int, sound: int) -> dict[str, Any]:
    declaration = Declaration.parse("w8a8e8g8")
    setup = Setup(
        scene=prepare(data="digits", shift="rotate:3", model="mlp:64-24-10", seed=seed),
        core=CoreParams(n=8, act_depth=512, err_depth=256, wgt_depth=512).with_declaration(declaration),
        declaration=declaration,
        gold=gold,
        seed=seed,
    )
    said = alarms(setup, setup.compiled(), range(100 * seed, 100 * seed + sound))
    return study(setup, TWENTY) | {"sound": said}


def each(result: dict[str, Any]) -> list[str]:
    """A line a fault."""
    lines = [
        "| fault | from sample | noticed after | as | served then | served at the end | without a guard |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        delay = "-" if row["delay"] is None else row["delay"]
        then, without = f"{100 * row['at_fault']:.1f}", f"{100 * row['unguarded']:.1f}"
        end = f"{100 * row['served']:.1f}" + (f" ({100 * row['in_place']:.1f})" if row["stopped"] else "")
        lines.append(f"| {row['fault']} | {row['at']} | {delay} | {row['said']} | {then} | {end} | {without} |")
    return lines


def summary(results: list[dict[str, Any]]) -> list[str]:
    """A line a seed."""
    lines = [
        "| seed | floor, % | ended below it | noticed | median delay, samples | stopped | points saved | false alarm |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in results:
        lines.append(
            f"| {one['seed']} | {100 * one['floor']:.1f} | {one['below_floor']} | {one['noticed']} "
            f"| {one['median_delay']:g} | {one['stopped']} | {100 * one['mean_saved']:.1f} "
            f"| {sum(map(bool, one['sound']))} of {len(one['sound'])} |"
        )
    return lines


if __name__ == "__main__":
    main()
