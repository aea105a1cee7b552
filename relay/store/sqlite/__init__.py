"""The SQLite store: tiers of postings, one writer, many readers (docs/decisions/0001)."""

from relay.store.sqlite.copying import CopyStopped
from relay.store.sqlite.postings import Hashes, Prepared, prepare, removes_owned
from relay.store.sqlite.reading import Reading
from relay.store.sqlite.store import SqliteStore
from relay.store.sqlite.writer import REMOVED_AT_ONCE, Committed, SqliteWriter, Tuning

__all__ = [
    "REMOVED_AT_ONCE",
    "Committed",
    "CopyStopped",
    "Hashes",
    "Prepared",
    "Reading",
    "SqliteStore",
    "SqliteWriter",
    "Tuning",
    "prepare",
    "removes_owned",
]
