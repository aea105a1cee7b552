"""The one writer of a database: synchronous, one connection, one transaction per `commit`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from relay.store.api import Outcome, Seq, Stored
from relay.store.sqlite.postings import Prepared


@dataclass(frozen=True, slots=True)
class Tuning:
    """Sizes of the tiers; tests make them tiny, so that merges run within a few events."""

    tail_rows: int = 65_536
    """Postings in the smallest tier before it begins to move into the middle one."""
    middle_rows: int = 655_360
    """Postings in the middle tier before it begins to move into the big one."""
    hot_rows: int = 16
    """A hash with so many postings in one batch goes straight into the big tier."""
    dead_postings: int = 65_536
    """Postings of removed events before they are purged (at least; a sixteenth of the big tier)."""
    slice_rows: int = 8_192
    """Rows one commit moves or purges at most."""


class Committed(NamedTuple):
    """What one transaction did."""

    outcomes: list[Outcome]
    """One per prepared write, in order."""
    rows: tuple[Stored, ...]
    """The live rows it left, in order of seq."""
    after: Seq
    """The head before it."""
    upto: Seq
    """The head after it; equal to `after` when nothing new was stored."""


class SqliteWriter:
    """Commits prepared writes. All methods from one thread, except `checkpoint` (any other thread)."""

    def __init__(self, path: Path, tuning: Tuning = Tuning()) -> None:  # noqa: B008  # frozen
        """Open or create the database and migrate it. Raises StoreTooNew, StoreError."""
        raise NotImplementedError

    @property
    def key(self) -> bytes:
        """The database's hash key, for `Hashes`."""
        raise NotImplementedError

    @property
    def head(self) -> Seq:
        """The seq of the newest commit."""
        raise NotImplementedError

    def commit(self, batch: Sequence[Prepared]) -> Committed:
        """Write the batch in one durable transaction. Raises StoreError: then nothing of it is there."""
        raise NotImplementedError

    def sweep(self, now: int) -> int:
        """Remove a slice of the expired events; how many. 0 when none is left."""
        raise NotImplementedError

    def tidy(self) -> bool:
        """Move one slice of the tiers, for when the writer is idle; whether more is due."""
        raise NotImplementedError

    def checkpoint_due(self) -> bool:
        """Whether the write-ahead log has grown enough for `checkpoint`."""
        raise NotImplementedError

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the database, beside running commits (own connection)."""
        raise NotImplementedError

    def close(self) -> None:
        """Checkpoint all and close."""
        raise NotImplementedError
