"""Finding what the homeserver did not push.

Synapse notes that it is done with an event before the transaction that carries it is stored: when it
stops in between, the event is never pushed. So the bridge also reads the linked rooms, from where it
last read them (an appservice's users may not use `/sync`). Nearly all that it finds is known by then,
and dropped by its id.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping

import orjson
from mautrix.api import Path, PathBuilder

from bridge.network import Inbox, Rejected
from bridge.networks.matrix.appservice import to_arrival

log = logging.getLogger(__name__)

PAGE_EVENTS = 100

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


async def recover(ask: Ask, inbox: Inbox, room: str) -> None:
    """Store what happened in a room since its bookmark, oldest first, and move the bookmark on.

    The first time there is nothing to recover, and the bookmark is only set. Raises Unreachable.
    """
    path = Path.v3.rooms[room].messages
    try:
        bookmark = inbox.bookmark(room)
        if bookmark is None:
            newest = await ask(path, {"dir": "b", "limit": "1"})
            inbox.receive([], bookmarks={room: str(newest["start"])})
            return
        while True:
            query = {"dir": "f", "from": bookmark, "limit": str(PAGE_EVENTS), "filter": _FILTER}
            page = await ask(path, query)
            chunk = page.get("chunk")
            arrivals = [to_arrival(event) for event in chunk] if isinstance(chunk, list) else []
            end = page.get("end")
            bookmark = end if isinstance(end, str) else bookmark
            new = inbox.receive(arrivals, bookmarks={room: bookmark})
            if new:
                log.info("read events that had not been pushed room=%s events=%d", room, new)
            # No end: there is nothing behind this page. An end without events: Synapse's last page.
            if not arrivals or end is None:
                return
    except Rejected as error:
        log.debug("cannot read room=%s: %s", room, error)
