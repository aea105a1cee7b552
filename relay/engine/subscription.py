"""One subscription: stored events, then live ones, with no gap and no duplicate (NIP-01).

The order of steps is what makes it exact: the subscription is filed first (live rows gather in its
buffer), then a line is drawn in the log, then the stored part is read up to that line, then EOSE,
then the buffer and all that follows from beyond the line. tests/engine/test_handover.py enumerates
every interleaving of writers, follower and these steps.
"""

import heapq
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from relay.engine.feature import Origin
from relay.nostr.filter import Filter
from relay.nostr.messages import delivered_prefix
from relay.store.api import Seq, Stored


class LiveEvent:
    """One event on its way to many subscriptions: what their messages share is made once."""

    __slots__ = ("deflated", "heads", "seq", "tail")

    def __init__(self, seq: Seq | None, json: bytes) -> None:
        self.seq = seq
        """None for an ephemeral event."""
        self.tail = json + b"]"
        """What stands in every EVENT message behind the subscription's prefix."""
        self.heads: dict[int, bytes] = {}
        """For the connections: frame headers by the length of the prefix."""
        self.deflated: bytes | None = None
        """For the connections: the tail compressed, once one of them needs it."""

    @property
    def json(self) -> bytes:
        """The event alone."""
        return self.tail[:-1]


class Reader(Protocol):
    """The connection a subscription belongs to."""

    @property
    def origin(self) -> Origin: ...

    def deliver(self, subscription: "Subscription", events: Sequence["LiveEvent"]) -> None:
        """Queue live events for sending, in their order."""

    def end_slow(self, subscription: "Subscription") -> None:
        """End a subscription whose client fell too far behind, and say so."""


class Subscription:
    """A client's open REQ."""

    __slots__ = (
        "_buffer",
        "_buffered_bytes",
        "filters",
        "is_complete",
        "line",
        "live",
        "name",
        "prefix",
        "reader",
        "searches",
    )

    def __init__(self, name: str, filters: Sequence[Filter], reader: Reader) -> None:
        self.name = name
        self.reader = reader
        self.narrow(filters)
        self.prefix = delivered_prefix(name)
        """What stands before the event in this subscription's EVENT messages."""
        self.line = Seq(0)
        """Stored events have seq ≤ line, live ones seq > line."""
        self.is_complete: bool | None = None
        """Whether all that is stored and matches was sent; None as long as nobody knows."""
        self.live = False
        self._buffer: list[LiveEvent] | None = None
        self._buffered_bytes = 0

    def narrow(self, filters: Sequence[Filter]) -> None:
        """Let it want what these filters want; it must not be filed in an index meanwhile."""
        self.filters = tuple(filters)
        self.searches = any(wanted.search is not None for wanted in filters)
        """Whether some filter searches: the others' conditions alone do not say what it wants."""

    def offer(self, events: Sequence[LiveEvent], *, buffer_bytes: int) -> None:
        """Take live events that match and may be seen, in the order of the log.

        Before EOSE they wait, in `buffer_bytes` at most.
        """
        if self.live:
            # A follower that lags behind the line offers what the stored part has sent already.
            if (seq := events[0].seq) is not None and seq <= self.line:
                events = [event for event in events if event.seq is None or event.seq > self.line]
            if events:
                self.reader.deliver(self, events)
            return
        self._buffered_bytes += sum(len(event.tail) for event in events)
        if self._buffered_bytes > buffer_bytes:
            self.reader.end_slow(self)
            return
        if self._buffer is None:
            self._buffer = []
        self._buffer.extend(events)

    def go_live(self) -> list[LiveEvent]:
        """Return what was buffered beyond the line, in the order of the log; from now on events pass."""
        self.live = True
        buffered, self._buffer = self._buffer or (), None
        return [event for event in buffered if event.seq is None or event.seq > self.line]


def merge(scans: Sequence[AsyncIterator[list[Stored]]]) -> AsyncIterator[list[Stored]]:
    """Merge scans into one: newest first, ties by lowest id, an event of several scans once.

    Pages come out as soon as they are certain; memory is one page for each scan.
    """
    return scans[0] if len(scans) == 1 else _merge(scans)


async def _merge(scans: Sequence[AsyncIterator[list[Stored]]]) -> AsyncIterator[list[Stored]]:
    heap: list[tuple[int, bytes, int, int, list[Stored]]] = []

    async def push(which: int) -> None:
        async for page in scans[which]:
            if page:
                heapq.heappush(heap, _entry(which, 0, page))
                return

    for which in range(len(scans)):
        await push(which)
    merged: list[Stored] = []
    last = b""
    while heap:
        _, id_, which, position, page = heap[0]
        if id_ != last:
            merged.append(page[position])
            last = id_
        if position + 1 < len(page):
            heapq.heapreplace(heap, _entry(which, position + 1, page))
            continue
        heapq.heappop(heap)
        if merged:
            yield merged
            merged = []
        await push(which)


def _entry(which: int, position: int, page: list[Stored]) -> tuple[int, bytes, int, int, list[Stored]]:
    row = page[position]
    return (-row.created_at, row.json[7:71], which, position, page)
