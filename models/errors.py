"""What this room raises. Every text is one line, quotes the bad value and says what is allowed."""


class ModelsError(Exception):
    """Base of every error raised on purpose by `insitu.models`."""


class InvalidInputError(ModelsError, ValueError):
    """An argument has a value, shape or dtype that is not allowed."""


class MissingDataError(ModelsError, FileNotFoundError):
    """A file or folder that should hold data is not there."""


class FormatError(ModelsError, ValueError):
    """A file is there and is not what it should be: wrong magic, wrong size, truncated."""


class FetchError(ModelsError, RuntimeError):
    """A download failed or brought other bytes than the ones known by their hash."""


class StudentError(ModelsError, ValueError):
    """A student's specification cannot be turned into a module that fits the data."""


class DivergedError(ModelsError, ArithmeticError):
    """Training produced a loss that is not finite."""


def one_line(error: BaseException, limit: int = 200) -> str:
    """`Type: text` of an exception on one line of at most `limit` characters, to quote inside our own errors."""
    text = " ".join(str(error).split())
    head = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return head if len(head) <= limit else head[: limit - 3] + "..."
