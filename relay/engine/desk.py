"""The records of tables, as features read and change them while the relay runs."""

from relay.nostr.reasons import Refusal
from relay.store.api import Store


class Desk:
    """A store's records. Features are built before the store is known to them: it is opened later."""

    def __init__(self) -> None:
        self._store: Store | None = None

    def open(self, store: Store) -> None:
        """Give the desk its store."""
        self._store = store

    @property
    def is_open(self) -> bool:
        """Whether there is a store."""
        return self._store is not None

    @property
    def store(self) -> Store:
        """The store. Raises RuntimeError where there is none: inside a table, in the writer."""
        if self._store is None:
            raise RuntimeError("there is no store here")
        return self._store

    def record(self, table: str, key: str) -> bytes | None:
        """See `Store.record`."""
        return self.store.record(table, key)

    def records(
        self, table: str, prefix: str, *, after: str = "", limit: int = 1_000
    ) -> list[tuple[str, bytes]]:
        """See `Store.records`."""
        return self.store.records(table, prefix, after=after, limit=limit)

    async def command(self, table: str, payload: bytes) -> bytes | Refusal:
        """See `Store.command`."""
        return await self.store.command(table, payload)


NOBODYS_DESK = Desk()
"""For features that only judge: it is never opened."""
