"""Finding what the homeserver did not push.

Synapse notes that it is done with an event before the transaction that carries it is stored: when it
stops in between, the event is never pushed. So the bridge also reads the linked rooms, from where it
last read them (an appservice's users may not use `/sync`). Nearly all that it finds is known by then,
and dropped by its id.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import orjson
from mautrix.api import Path, PathBuilder

from bridge.network import Inbox, Rejected
from bridge.networks.matrix.appservice import to_arrival

log = logging.getLogger(__name__)

PAGE_EVENTS = 100
MAX_PAGES_BACK = 100
"""Bounds the first reading of a room, which begins moments after it was linked."""

_TYPES = (
    "m.room.message",
    "m.room.redaction",
    "m.room.member",
    "m.room.history_visibility",
    "m.room.encryption",
)
_FILTER = orjson.dumps({"types": _TYPES}).decode()

Ask = Callable[[PathBuilder, Mapping[str, str]], Awaitable[dict[str, object]]]
"""Makes a GET request as the bot. Raises Unreachable or Rejected."""
Event = dict[str, object]


async def recover(ask: Ask, inbox: Inbox, room: str, since_ms: int) -> None:
    """Store what happened in a room since its bookmark, oldest first, and move the bookmark on.

    The first time reads back to `since_ms` (unix milliseconds). Raises Unreachable.
    """
    path = Path.v3.rooms[room].messages
    try:
        bookmark = inbox.bookmark(room)
        if bookmark is None:
            bookmark = await _read_back(ask, inbox, room, since_ms)
        while True:
            query = {"dir": "f", "from": bookmark, "limit": str(PAGE_EVENTS), "filter": _FILTER}
            page = await ask(path, query)
            events, end = _events(page), page.get("end")
            bookmark = end if isinstance(end, str) else bookmark
            _store(inbox, room, events, bookmark)
            # No end: there is nothing behind this page. An end without events: Synapse's last page.
            if not events or end is None:
                return
    except Rejected as error:
        log.debug("cannot read room=%s: %s", room, error)


async def _read_back(ask: Ask, inbox: Inbox, room: str, since_ms: int) -> str:
    """Store what happened since a time; return the bookmark at which the reading began."""
    newest_first: list[Event] = []
    query = {"dir": "b", "limit": str(PAGE_EVENTS), "filter": _FILTER}
    page = await ask(Path.v3.rooms[room].messages, query)
    start = str(page["start"])
    for _ in range(MAX_PAGES_BACK):
        events = [event for event in _events(page) if _time_ms(event) >= since_ms]
        newest_first += events
        end = page.get("end")
        # A single old date proves nothing: bridged messages carry the dates of their originals.
        if not events or not isinstance(end, str):
            break
        page = await ask(Path.v3.rooms[room].messages, {**query, "from": end})
    _store(inbox, room, newest_first[::-1], start)
    return start


def _store(inbox: Inbox, room: str, events: Sequence[Event], bookmark: str) -> None:
    new = inbox.receive([to_arrival(event) for event in events], bookmarks={room: bookmark})
    if new:
        log.info("read events that had not been pushed room=%s events=%d", room, new)


def _events(page: Mapping[str, object]) -> list[Event]:
    chunk = page.get("chunk")
    return [event for event in chunk if isinstance(event, dict)] if isinstance(chunk, list) else []


def _time_ms(event: Event) -> int:
    at = event.get("origin_server_ts")
    return at if isinstance(at, int) else 0
