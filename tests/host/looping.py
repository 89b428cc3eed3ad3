"""The online-fix loop over the digits' scene, as the tests of it run it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from insitu.host.device import open_device
from insitu.host.online.checkpoint import canonical
from insitu.host.online.loop import Chunk, OnlineLoop, User
from insitu.host.online.policy import OnlinePolicy
from insitu.host.store import FeedbackStore
from tests.host import digits

CHUNK = 32


class Stopped(Exception):
    """The run was broken off on purpose."""


@contextmanager
def looping(
    folder: Path,
    *,
    keep: bool = True,
    seed: int = 1,
    run: str = "a",
    user: User | None = None,
    byte_budget: int | None = None,
    **policy: Any,
) -> Iterator[OnlineLoop]:
    """A loop on a device that holds the laboratory's student, its store in `folder`."""
    folder.mkdir(exist_ok=True)
    made, table = digits.compiled(), digits.Table()
    given: dict[str, Any] = {"samples": 640, "chunk": CHUNK, "rehearsals": 2, "audit": 0.2}
    with (
        open_device(digits.CORE) as driver,
        FeedbackStore.open(
            folder / "feedback.db",
            shape=digits.SHAPE,
            classes=digits.CLASSES,
            durability="process",
            byte_budget=byte_budget,
        ) as store,
    ):
        driver.load(made.program)
        driver.write_weights(made.masters)
        yield OnlineLoop(
            driver,
            table,
            table.teach,
            store,
            policy=OnlinePolicy(**given | policy),
            seed=seed,
            identity=canonical({"run": run, "seed": seed}),
            user=user,
            folder=folder if keep else None,
        )


def stop_after(chunks: int) -> Any:
    """A watcher that breaks the run off after so many chunks."""
    seen: list[Chunk] = []

    def watch(chunk: Chunk) -> None:
        seen.append(chunk)
        if len(seen) == chunks:
            raise Stopped

    return watch


def keys(store: FeedbackStore) -> list[bytes]:
    """Of all that is kept, in order of arrival."""
    return [key.tobytes() for page in store.iterate(512) for key in page.keys]
