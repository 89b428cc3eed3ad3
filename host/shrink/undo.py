"""Checkpoints from before each shrinking, and the way back to the last of them."""

from __future__ import annotations

import re
from pathlib import Path

from insitu.host.errors import HostError
from insitu.host.online.checkpoint import Checkpoint
from insitu.host.online.request import CHECKPOINT, PROGRAM, RESULT
from insitu.host.online.runner import locked


def backups(folder: Path) -> list[Path]:
    """The checkpoints that shrinkings kept, the oldest first."""
    stem, suffix = CHECKPOINT.split(".")
    found = {int(m[1]): p for p in folder.glob(f"{stem}-*.{suffix}") if (m := re.fullmatch(rf"{stem}-(\d+)", p.stem))}
    return [found[number] for number in sorted(found)]


def next_backup(folder: Path) -> Path:
    """Where the next one goes."""
    stem, suffix = CHECKPOINT.split(".")
    kept = backups(folder)
    return folder / f"{stem}-{int(kept[-1].stem.rpartition('-')[2]) + 1 if kept else 1}.{suffix}"


def install(folder: Path, checkpoint: Checkpoint) -> None:
    """Make a checkpoint, which has its program, the one that a run goes on from."""
    assert checkpoint.program is not None
    # A result is of the student before; without one the next run writes down how things stand.
    (folder / RESULT).unlink(missing_ok=True)
    checkpoint.save(folder / CHECKPOINT)
    checkpoint.program.save(folder / PROGRAM)


def undo(folder: Path) -> Checkpoint:
    """Go back to what was before the last shrinking: the student, and where the stream stood. Raises HostError where
    nothing was shrunk."""
    kept = backups(folder) if folder.is_dir() else []
    if not kept:
        raise HostError(f"{folder} has no checkpoint from before a shrinking: there is nothing to undo")
    with locked(folder):
        before = Checkpoint.own(kept[-1])
        install(folder, before)
        kept[-1].unlink()
    return before
