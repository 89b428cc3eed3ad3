"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

#: How the name of a file ends that is being written, or that a killed process was writing.
UNFINISHED = ".insitu-part"


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, flushed to the disk, then renamed over it. Raises
    OSError where that fails; nothing is left behind then."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less what the umask keeps, as any file
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def unfinished(folder: Path, name: str) -> Iterator[Path]:
    """What writing the file of a name left in its folder when it was killed."""
    return (path for path in folder.glob(f".*{UNFINISHED}") if is_unfinished(path.name, name))


def is_unfinished(found: str, name: str) -> bool:
    """Whether a file was to become the one of a name."""
    return re.fullmatch(f"[.]{re.escape(name)}[.][0-9a-f]{{8}}{re.escape(UNFINISHED)}", found) is not None
