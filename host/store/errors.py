"""What the feedback store raises; every message is one line."""


class StoreError(RuntimeError):
    """The database refused: unreachable, read-only, locked, full, closed. Nothing of the failed call was kept."""


class StoreFormatError(StoreError):
    """The file or database is damaged, or belongs to somebody else; it was left as it was."""


class StoreMismatchError(StoreError):
    """The store was made with other settings (shape, classes, encodings, seed) than those it is opened with."""


class UnknownSampleError(StoreError):
    """A sample is asked for that was never stored or has been evicted."""


class FeedbackError(ValueError):
    """An argument is of a wrong shape, dtype or range; the message quotes it and says what is allowed."""
