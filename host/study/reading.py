"""Tables of a study's file, taken key by key: a wrong value is quoted with its key and what is allowed."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from insitu.host.errors import StudyError


def toml(path: Path) -> dict[str, Any]:
    """What a file says. Raises StudyError where it is not there or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StudyError(f"{path}: no such file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not TOML: {error}") from error


class Reader:
    """A table of TOML. Each call takes one key; `finish` refuses what nobody took.

    where: the table's name, "" for the file's own. All methods raise StudyError.
    """

    def __init__(self, data: Any, where: str = "") -> None:
        if not isinstance(data, Mapping):
            raise StudyError(f"{where} is {data!r}: a table is wanted")
        self._data, self._where = dict(data), where
        self._asked: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def name(self, key: str) -> str:
        """The key as it is quoted."""
        return f"{self._where}.{key}" if self._where else key

    def take(self, key: str, default: Any) -> Any:
        """The value as it is, or the default."""
        self._asked.append(key)
        return self._data.pop(key, default)

    def text(self, key: str, default: str, allowed: Sequence[str] | None = None) -> str:
        """A string, one of those allowed."""
        value = self.take(key, default)
        if not isinstance(value, str) or (allowed is not None and value not in allowed):
            raise StudyError(f"{self.name(key)} is {value!r}: allowed are {', '.join(allowed or ['strings'])}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise StudyError(f"{self.name(key)} is {value!r}: allowed are true and false")
        return value

    def integer(self, key: str, default: int, low: int, high: int | None = None) -> int:
        """A whole number in [low, high]."""
        value = self.take(key, default)
        if type(value) is not int or value < low or (high is not None and value > high):
            span = f"{low} to {high}" if high is not None else f"{low} and above"
            raise StudyError(f"{self.name(key)} is {value!r}: allowed are whole numbers, {span}")
        return value

    def number(self, key: str, default: float, allowed: str, good: Callable[[float], bool]) -> float:
        """A finite number for which `good` holds; `allowed` says so in words."""
        value = self.take(key, default)
        if type(value) not in (int, float) or not math.isfinite(value) or not good(value):
            raise StudyError(f"{self.name(key)} is {value!r}: allowed are {allowed}")
        return float(value)

    def texts(self, key: str, default: Sequence[str], allowed: Sequence[str] | None = None) -> tuple[str, ...]:
        """A list of different strings."""
        value = self.take(key, list(default))
        whole = isinstance(value, list) and all(isinstance(v, str) for v in value) and len(set(value)) == len(value)
        if not whole or (allowed is not None and not set(value) <= set(allowed)):
            what = f", of {', '.join(allowed)}" if allowed else ""
            raise StudyError(f"{self.name(key)} is {value!r}: a list of different strings is wanted{what}")
        return tuple(value)

    def integers(self, key: str, default: Sequence[int], low: int, high: int) -> tuple[int, ...]:
        """A list, not empty, of different whole numbers in [low, high]."""
        value = self.take(key, list(default))
        whole = isinstance(value, list) and value and all(type(v) is int and low <= v <= high for v in value)
        if not whole or len(set(value)) != len(value):
            raise StudyError(f"{self.name(key)} is {value!r}: a list of different whole numbers, {low} to {high}")
        return tuple(value)

    def table(self, key: str) -> Reader:
        """A table within; an empty one where there is none."""
        return Reader(self.take(key, {}), self.name(key))

    def rest(self) -> dict[str, Any]:
        """All keys not taken, taken now."""
        left, self._data = self._data, {}
        return left

    def finish(self) -> None:
        """Raise StudyError where a key is left."""
        if self._data:
            key = next(iter(self._data))
            raise StudyError(f"{self.name(key)}: no such key; there are {', '.join(dict.fromkeys(self._asked))}")
