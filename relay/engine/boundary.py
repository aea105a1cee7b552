"""Stored answers that end between two seconds, and know whether anything is left (NIP-67).

Who pages back goes on at the oldest second that came. Where an answer ends inside of it, events that
share it would be lost or sent twice; so the whole second is sent, though it goes beyond the limit.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from relay.nostr.filter import Filter
from relay.store.api import Seq, Stored

MAX_BEYOND = 5_000
"""Events sent beyond a limit to finish its last second. Of a second with more, some stay unreachable by
paging; but nobody who asks for the latest note gets what a flood of one second has left behind."""

Scan = Callable[[Filter], AsyncIterator[list[Stored]]]
"""`Store.scan` for one reader, up to one line."""


async def whole_seconds(
    scan: Scan, wanted: Filter, on_end: Callable[[bool], None]
) -> AsyncIterator[list[Stored]]:
    """Yield what `scan` finds, newest first, `wanted.limit` rows and the rest of the last one's second.

    Without a limit these are all. At the end `on_end` is told whether that was everything that matches.
    """
    if wanted.limit is None:
        async for page in scan(wanted):
            yield page
        on_end(True)
        return
    left = limit = wanted.limit
    last: Stored | None = None
    beyond: Stored | None = None
    # One row more than asked for shows whether there are more; it costs next to nothing.
    async for page in scan(wanted.limited(limit + 1)):
        if len(page) > left:
            beyond = page[left]
            page = page[:left]
        if page:
            last = page[-1]
            left -= len(page)
        yield page
    if last is None or beyond is None:
        on_end(True)
        return
    second = last.created_at
    if beyond.created_at < second:
        on_end(False)
        return
    most = limit + MAX_BEYOND
    found = 0
    async for page in scan(replace(wanted, since=second, until=second, limit=most)):
        found += len(page)
        # A second is sent by lowest id: what has come of it already is what stands before the last one.
        yield [row for row in page if row.id > last.id]
    on_end(found < most and not await _any(scan, replace(wanted, until=second - 1, limit=1)))


def whole_seconds_at_once(
    at_once: Callable[[Filter], tuple[Seq, list[Stored]] | None], wanted: Filter
) -> tuple[Seq, list[Stored], bool] | None:
    """Return the head, what `whole_seconds` yields up to it, and what it tells at the end.

    None where a slice of the store does not tell that; `at_once` is `Store.at_once` for one reader.
    """
    if wanted.limit is None:
        return None
    found = at_once(wanted.limited(wanted.limit + 1))
    if found is None:
        return None
    head, rows = found
    if len(rows) <= wanted.limit:
        return head, rows, True
    beyond = rows.pop()
    return None if beyond.created_at == rows[-1].created_at else (head, rows, False)


async def _any(scan: Scan, wanted: Filter) -> bool:
    found = False
    if not wanted.is_empty:
        async for page in scan(wanted):
            found = found or bool(page)
    return found
