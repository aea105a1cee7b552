"""The SQLite store within one process: the contract over one writer thread and a few readers."""

from pathlib import Path

from relay.store.sqlite.writer import Tuning


class SqliteStore:
    """A `Store` in one SQLite file, written by this process only."""

    @classmethod
    async def open(cls, path: Path, *, tuning: Tuning = Tuning(), threads: int = 2) -> "SqliteStore":  # noqa: B008
        """Open or create the database. Raises StoreTooNew, StoreError."""
        raise NotImplementedError
