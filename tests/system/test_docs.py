"""The pages' Python runs, and the commands they show exist, with the options they show."""

from __future__ import annotations

import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from typer.exceptions import TyperException

from tests.system.command import parse

ROOT = Path(__file__).parents[2]
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")})
FENCE = re.compile(r"^( *)(```+|~~~+)([^\n`]*)\n(.*?)^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
SHELL = {"sh", "bash", "shell", "console"}


def blocks(text: str) -> Iterator[tuple[str, int, str]]:
    """Language, line of the first line, and content of every fenced block."""
    for found in FENCE.finditer(text):
        language = (found[3].split() or [""])[0].strip("{}.,")
        yield language, text.count("\n", 0, found.start(4)) + 1, dedent(found[4])


def lines(language: str, block: str) -> Iterator[str]:
    """The command lines of a shell block: all of it, or in a console what follows a prompt."""
    for line in block.replace("\\\n", " ").split("\n"):
        if language != "console":
            yield line
        elif line.startswith("$ "):
            yield line[2:]


def calls(line: str, program: str) -> Iterator[list[str]]:
    """The arguments of every call of `program` in a command line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("();<>|&"):
            start = next((i for i, w in enumerate(words) if not re.fullmatch(r"\w+=.*", w)), len(words))
            if words[start:] and Path(words[start]).name == program:
                yield words[start + 1 :]
            words = []
        else:
            words.append(word)


def shown(page: Path, program: str) -> list[tuple[str, list[str]]]:
    """Where a page calls a program, and with what."""
    return [
        (f"{page.name}:{at}", arguments)
        for language, at, block in blocks(page.read_text())
        if language in SHELL
        for line in lines(language, block)
        for arguments in calls(line, program)
    ]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_there_are_pages() -> None:
    assert ROOT / "README.md" in PAGES
    assert shown(ROOT / "README.md", "insitu"), "the README shows no command"
    assert any(language == "python" for language, _at, _block in blocks((ROOT / "README.md").read_text()))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page, one after the other, in one namespace and an empty folder."""
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for language, at, block in blocks(page.read_text()):
        if language == "python":
            code = compile("\n" * (at - 1) + block, str(page), "exec")
            exec(code, module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page: Path) -> None:
    for where, arguments in shown(page, "insitu"):
        try:
            parse(arguments)
        except TyperException as error:
            pytest.fail(f"{where}: insitu {shlex.join(arguments)}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for where, arguments in shown(page, "make"):
        assert {a for a in arguments if "=" not in a and not a.startswith("-")} <= targets, where


# What the tests above rest on.


def test_blocks_are_found() -> None:
    text = "a\n```python\nx = 1\n\ny = 2\n```\nb `c`\n\n1. item\n\n   ```sh\n   ls\n   ```\n\n"
    nested = "````md\n```sh\nno\n```\n````\n"
    python, shell = ("python", 3, "x = 1\n\ny = 2\n"), ("sh", 12, "ls\n")
    assert list(blocks(text + nested)) == [python, shell, ("md", 16, "```sh\nno\n```\n")]


@pytest.mark.parametrize(
    ("language", "block", "found"),
    [
        ("sh", "insitu demo", [["demo"]]),
        ("sh", "# insitu fly\ninsitu train --epochs 2  # twice\n", [["train", "--epochs", "2"]]),
        ("sh", "insitu train \\\n    --float", [["train", "--float"]]),
        ("sh", "make env && .venv/bin/insitu data list --json | jq .data > list.json", [["data", "list", "--json"]]),
        ("sh", "INSITU_DATA=/data insitu demo; insitu --help", [["demo"], ["--help"]]),
        ("sh", "echo insitu fly", []),
        ("console", "insitu fly\n$ insitu demo\n100 %", [["demo"]]),
    ],
)
def test_calls_are_found(language: str, block: str, found: list[list[str]]) -> None:
    assert [arguments for line in lines(language, block) for arguments in calls(line, "insitu")] == found


@pytest.mark.parametrize(
    "wrong", ["fly", "demo --wings 2", "train --epochs none", "data burn", "--wings demo", "simulate extra", "data"]
)
def test_wrong_commands_are_seen(wrong: str) -> None:
    with pytest.raises(TyperException):
        parse(shlex.split(wrong))


@pytest.mark.parametrize("right", ["--help", "train --help", "--traceback simulate --core n=8", "data fetch mnist"])
def test_right_commands_are_let_through(right: str) -> None:
    assert parse(shlex.split(right)) == tuple(
        w for w in right.split()[:3] if w in {"train", "simulate", "data", "fetch"}
    )
