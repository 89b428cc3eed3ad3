"""What `append` has returned for is there after SIGKILL, at whatever moment it comes."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from insitu.host.store import FeedbackStore

SHAPE, CLASSES, BATCH, ROUNDS = (28, 28), 10, 16, 20

# Appends without end, and writes a batch's keys as one line only when `append` has returned.
CHILD = """
import os, sys
import numpy as np
from insitu.host.store import FeedbackBatch, FeedbackStore

rng = np.random.default_rng(int(sys.argv[2]))
budget = None if sys.argv[3] == "none" else int(sys.argv[3])
x = rng.integers(0, 256, (16, 28, 28), dtype=np.uint8)
teacher, logits = rng.dirichlet(np.ones(10), 16), np.zeros((16, 10), np.int8)
with FeedbackStore.open(sys.argv[1], shape=(28, 28), classes=10, byte_budget=budget, eviction="oldest") as store:
    while True:
        batch = FeedbackBatch.of(x, teacher, logits)
        ids = store.append(batch)
        os.write(1, b"".join(b"%s:%d " % (k.tobytes().hex().encode(), i) for k, i in zip(batch.keys, ids)) + b"\\n")
"""


def killed_child(path: Path, seed: int, lines: int, budget: int | None) -> dict[bytes, int]:
    """Run the child, kill it once it has written `lines` lines; all it acknowledged, key to id."""
    command = [sys.executable, "-c", CHILD, str(path), str(seed), "none" if budget is None else str(budget)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdout is not None
        written = b""
        while written.count(b"\n") < lines:
            some = child.stdout.read(65536)
            assert some, "the child ended by itself"
            written += some
        child.kill()
        # It may have acknowledged more before the signal reached it; those count as well.
        written += child.stdout.read()
        assert child.wait() == -signal.SIGKILL
    whole = written[: written.rindex(b"\n")].split()
    return {bytes.fromhex(pair.split(b":")[0].decode()): int(pair.split(b":")[1]) for pair in whole}


@pytest.mark.parametrize("budget", [None, 40 * 814])
def test_acknowledged_samples_survive_sigkill(tmp_path: Path, budget: int | None) -> None:
    path = tmp_path / "store.sqlite"
    moments = random.Random(7)
    acknowledged: dict[bytes, int] = {}
    settings: dict[str, Any] = {"shape": SHAPE, "classes": CLASSES, "byte_budget": budget, "eviction": "oldest"}
    for seed in range(ROUNDS if budget is None else 4):
        acknowledged |= killed_child(path, seed, moments.randint(1, 12), budget)
        with FeedbackStore.open(path, **settings) as store:
            store.check()
            kept = {
                key.tobytes(): one
                for page in store.iterate(512)
                for key, one in zip(page.keys, page.ids.tolist(), strict=True)
            }
            usage = store.usage()
        if budget is None:
            # A batch may have been committed and not yet been acknowledged; never the other way round.
            assert acknowledged.items() <= kept.items()
            assert len(kept) % BATCH == 0
            assert len(kept) <= len(acknowledged) + BATCH * (seed + 1)
        else:
            newest = {key for key, one in acknowledged.items() if one > usage.acknowledged - 40}
            assert newest <= kept.keys()
            assert usage.samples == min(40, usage.acknowledged)
    plain = sqlite3.connect(path)
    assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    plain.close()
