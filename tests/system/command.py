"""The command line as a test sees it: one call, its exit code, and what went where."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from insitu.host.cli import main
from insitu.host.cli.app import app

#: What a call needs besides its name and its own options.
Insitu = Callable[..., "Outcome"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a call came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on standard output of a call that went well."""
        assert self.code == 0, self.err
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


def call(capture: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """Run `insitu arguments...` in this process."""
    capture.readouterr()
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert isinstance(left.value.code, int)
    out, err = capture.readouterr()
    return Outcome(code=left.value.code, out=out, err=err)


def plain(text: str) -> str:
    """Text without colours and frames, runs of white space as one blank: what a reader of a help page reads."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[─-╿]", " ", text).split())


def commands() -> list[tuple[str, ...]]:
    """Every command there is, as the words that name it."""

    def below(command: Any, words: tuple[str, ...]) -> list[tuple[str, ...]]:
        if not hasattr(command, "commands"):
            return [words]
        return [found for name, child in command.commands.items() for found in below(child, (*words, name))]

    return below(typer.main.get_command(app), ())


def parse(arguments: Sequence[str]) -> tuple[str, ...]:
    """The command that `insitu arguments...` names, its options parsed and nothing run. Raises what Typer raises of a
    command, an option or a value that is none."""
    command: Any = typer.main.get_command(app)
    words: list[str] = []
    context, rest = None, list(arguments)
    while hasattr(command, "commands"):
        if words == [] and rest in (["--help"], []):
            return ()
        context = command.make_context(words[-1] if words else "insitu", rest, parent=context)
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        words.append(name)
    if rest != ["--help"]:
        command.make_context(words[-1], rest, parent=context)
    return tuple(words)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes; None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
