"""Files: whole or as they were, whatever fails."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from insitu.arch.files import UNFINISHED, is_unfinished, unfinished, write_whole

DATA = bytes(range(256)) * 9


def refuse(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("old", [None, b"what was there"])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_nothing_behind(
    call: str, old: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "whole.bin"
    if old is not None:
        path.write_bytes(old)
    if call == "fsync":
        monkeypatch.setattr(os, "fsync", refuse)
    else:
        monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, DATA)
    assert list(tmp_path.iterdir()) == ([] if old is None else [path])
    assert old is None or path.read_bytes() == old


def test_a_write_replaces_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "whole.bin"
    path.write_bytes(b"old")
    reader = path.open("rb")
    with reader:
        write_whole(path, DATA)
        # Whoever had the old file open still reads all of it.
        assert reader.read() == b"old"
    assert path.read_bytes() == DATA


def test_a_written_file_is_readable_like_any_other(tmp_path: Path) -> None:
    write_whole(tmp_path / "ours", DATA)
    (tmp_path / "plain").write_bytes(DATA)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain")}
    assert len(modes) == 1


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "whole.bin", DATA)


def test_the_processs_umask_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's files would be anybody's to write for as long as it is another one."""
    monkeypatch.setattr(os, "umask", refuse)
    write_whole(tmp_path / "whole.bin", DATA)
    assert (tmp_path / "whole.bin").read_bytes() == DATA


def test_what_a_killed_process_left_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", refuse)
        patched.setattr(Path, "unlink", lambda *_: None)
        with pytest.raises(OSError, match="No space left"):
            write_whole(tmp_path / "result.json", DATA)
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(UNFINISHED)
    for mine in (
        ".result.json.swp",
        "result.json-mine.txt",
        ".result.json",
        f".result.json{UNFINISHED}",
        "result.json",
    ):
        (tmp_path / mine).touch()
        assert not is_unfinished(mine, "result.json")
    assert list(unfinished(tmp_path, "result.json")) == [left]
    assert not list(unfinished(tmp_path, "result"))
