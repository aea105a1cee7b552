"""Reading asynchronously: the questions of `Store` answered by `SqliteReader`s in threads.

`SqliteStore` and the stores of worker processes share it.
"""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from relay.nostr.event import EventId
from relay.nostr.filter import Filter
from relay.store.api import Seq, Stored, Veil


class Reading:
    """`known`, `scan`, `count`, `head` and `log` of the `Store` contract, for one database."""

    def __init__(self, path: Path, threads: int = 2) -> None:
        """The database must exist (its writer makes it). Raises StoreTooNew, StoreError."""
        raise NotImplementedError

    @property
    def key(self) -> bytes:
        """The database's hash key, for `Hashes`."""
        raise NotImplementedError

    async def known(self, ids: Sequence[EventId]) -> set[EventId]:
        """See `Store.known`."""
        raise NotImplementedError

    def scan(
        self, wanted: Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[Stored]]:
        """See `Store.scan`."""
        raise NotImplementedError

    async def count(self, wanted: Sequence[Filter], *, upto: Seq, now: int, veil: Veil | None = None) -> int:
        """See `Store.count`."""
        raise NotImplementedError

    async def head(self) -> Seq:
        """See `Store.head`."""
        raise NotImplementedError

    def log(self, *, after: Seq, upto: Seq, now: int) -> AsyncIterator[list[Stored]]:
        """See `Store.log`."""
        raise NotImplementedError

    async def close(self) -> None:
        """Wait for the threads and close their connections."""
        raise NotImplementedError
