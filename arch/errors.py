"""The one exception this room raises."""

from __future__ import annotations


class ArchError(ValueError):
    """A description that no core can have: the message quotes the bad value and says what is allowed."""


def require(condition: bool, message: str) -> None:
    """Raise `ArchError(message)` unless `condition` holds."""
    if not condition:
        raise ArchError(message)
