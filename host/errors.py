"""Errors of the host: what a user can mend. The command line shows them as one line."""

from __future__ import annotations


class HostError(Exception):
    """Base of the host's errors. The message is one line, quotes the bad value and says what is allowed."""


class CompileError(HostError):
    """A network, a declaration or a core that do not go together."""


class DeviceError(HostError):
    """A device did not do what it was asked."""


class TwoPasses(DeviceError):
    """Exact exponents, where a device would have to find them."""

    def __init__(self) -> None:
        super().__init__("exact exponents take two passes, which the emulator alone makes: declare static or delayed")


class DeviceTimeout(DeviceError, TimeoutError):
    """A wait ended before what it waited for."""


class DeviceMismatch(DeviceError):
    """The device is not the one a program was made for."""


class MemoryFault(DeviceError):
    """A device's memory does not hold what was written to it."""


class ProgramFault(DeviceError):
    """A program stopped with an error in STATUS."""


class CheckpointError(HostError):
    """A checkpoint is damaged or belongs to another program."""


class StudyError(HostError):
    """A study's file, storage or report that cannot be."""


class StudyNotBegun(StudyError):
    """A study that nothing was run of yet."""
