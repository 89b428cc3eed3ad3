"""Errors of the RTL engines: one line each."""

from __future__ import annotations


class EngineError(Exception):
    """Base of them."""


class BuildError(EngineError):
    """The core could not be compiled: a tool is missing, or one of them refused its input."""


class BusError(EngineError):
    """An AXI access was refused or not answered."""
