"""The feedback store: teacher-labelled samples in SQLite or PostgreSQL, kept once acknowledged, drawn class-balanced.

`store` is the front, `batch` what goes in and out, `codec` the bytes of a sample, `index` what is where, `eviction` who
goes first, `writes` what a write does, `schema`, `rows`, `transactions` and `database` the SQL below."""

from .batch import FeedbackBatch, new_keys
from .database import store_name
from .errors import FeedbackError, StoreError, StoreFormatError, StoreMismatchError, UnknownSampleError
from .eviction import Eviction
from .index import HELD_OUT_SHARE, Split
from .store import FeedbackStore, Usage
from .writes import RETRY_WINDOW

__all__ = [
    "HELD_OUT_SHARE",
    "RETRY_WINDOW",
    "Eviction",
    "FeedbackBatch",
    "FeedbackError",
    "FeedbackStore",
    "Split",
    "StoreError",
    "StoreFormatError",
    "StoreMismatchError",
    "UnknownSampleError",
    "Usage",
    "new_keys",
    "store_name",
]
