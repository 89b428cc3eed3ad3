"""Twenty collapses injected into the online fix: what the guard notices, how soon, and what it saves.

    python bench/collapse.py [SEED] [GOLD]

Digits turned by 45 degrees, a student of 64-24-10 in 8 bits; GOLD questions beside each batch, 8 unless given. What it
prints is in docs/collapse.md.
"""

from __future__ import annotations

import sys

import torch

from insitu.arch.declaration import Declaration
from insitu.arch.params import CoreParams
from insitu.host.collapse.injections import TWENTY
from insitu.host.collapse.trial import Setup, study
from insitu.host.online.scene import prepare


def main() -> None:
    torch.set_num_threads(1)
    seed, gold = (int(given) for given in (*sys.argv[1:], *("0", "8")[len(sys.argv) - 1 :]))
    declaration = Declaration.parse("w8a8e8g8")
    found = study(
        Setup(
            scene=prepare(data="digits", shift="rotate:3", model="mlp:64-24-10", seed=seed),
            core=CoreParams(n=8, act_depth=512, err_depth=256, wgt_depth=512).with_declaration(declaration),
            declaration=declaration,
            gold=gold,
            seed=seed,
        ),
        TWENTY,
    )
    print("| fault | from sample | noticed after | as | served then | served at the end | without a guard |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in found["rows"]:
        delay = "-" if row["delay"] is None else row["delay"]
        accuracies = (f"{100 * row[name]:.1f}" for name in ("at_fault", "served", "unguarded"))
        print(f"| {row['fault']} | {row['at']} | {delay} | {row['said']} | {' | '.join(accuracies)} |")
    print(
        f"floor {found['floor']:.1%}, below it {found['below_floor']}; noticed {found['noticed']}, median delay "
        f"{found['median_delay']}; saved {100 * found['mean_saved']:.1f} points on average"
    )


if __name__ == "__main__":
    main()
