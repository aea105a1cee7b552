"""What has arrived for one subscription and was not yet taken: bounded in bytes."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from relay.client.failures import RelayFailure
from relay.nostr.event import Event
from relay.nostr.filter import Filter

# Holding this much, an inbox asks that the connection be read no further …
_FULL_BYTES = 2**20
# … and holding this much, that the subscription be ended.
_OVERFULL_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class EndOfStored:
    """Stands between a subscription's stored events and its live ones."""

    is_complete: bool = False
    """Whether the relay said that it had no more that match (NIP-67); most relays do not say."""


@dataclass(slots=True)
class Inbox:
    """The items of one subscription, oldest arrival first, and how it ended."""

    filters: Sequence[Filter]
    held_bytes: int = 0
    failure: RelayFailure | None = None
    """Why nothing more comes; to be raised behind the items."""
    has_all_stored: bool = False
    _items: deque[tuple[Event | EndOfStored, int]] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read until something was taken."""
        return self.held_bytes >= _FULL_BYTES

    @property
    def is_overfull(self) -> bool:
        """Whether the subscription must be given up."""
        return self.held_bytes >= _OVERFULL_BYTES

    def put(self, event: Event, size: int) -> None:
        """Add an event that came in a message of `size` bytes."""
        self._items.append((event, size))
        self.held_bytes += size
        self._changed.set()

    def put_end_of_stored(self, *, is_complete: bool) -> None:
        """Mark that live events follow. A second time does nothing."""
        if not self.has_all_stored:
            self.has_all_stored = True
            self._items.append((EndOfStored(is_complete), 0))
            self._changed.set()

    def end(self, failure: RelayFailure) -> None:
        """Take no more items. The first failure counts."""
        if self.failure is None:
            self.failure = failure
            self._changed.set()

    def take(self) -> Event | EndOfStored | None:
        """Return the next item; None when there is none now. Raises the failure behind the last."""
        if self._items:
            item, size = self._items.popleft()
            self.held_bytes -= size
            return item
        if self.failure is not None:
            raise self.failure
        self._changed.clear()
        return None

    async def wait(self) -> None:
        """Wait until there is something to take, or the end."""
        await self._changed.wait()
