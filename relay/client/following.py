"""Coming back to a relay: pauses, new connections, and a subscription that survives them."""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace

from relay.client.connection import RelayClient
from relay.client.failures import Rejected, RelayFailure, Unreachable
from relay.client.inbox import EndOfStored
from relay.nostr.event import Event
from relay.nostr.filter import Filter

log = logging.getLogger(__name__)

_REMEMBERED_IDS = 10_000
# A connection that lasted so long was a good one: the next pause is short again.
_STEADY_SECONDS = 60.0


def backoff(
    *, first: float = 0.5, most: float = 60.0, chance: Callable[[], float] = random.random
) -> Iterator[float]:
    """Yield pauses in seconds, without end: each doubled up to `most`, then shortened by up to half.

    The chance keeps the many clients of a relay that restarts from coming back all at once.
    """
    pause = first
    while True:
        yield pause * (1 - chance() / 2)
        pause = min(most, pause * 2)


async def reconnect(
    make: Callable[[], RelayClient], *, pauses: Callable[[], Iterator[float]] = backoff
) -> AsyncGenerator[RelayClient, None]:
    """Yield a connected client, and another one each time that the caller comes back for more.

    The caller takes the next one when a call raised Unreachable. Before each new attempt comes a
    pause out of `pauses`, which begin anew after a connection that lasted a minute. Leave early
    through `contextlib.aclosing`.
    """
    loop = asyncio.get_running_loop()
    coming = pauses()
    failures = 0
    while True:
        connected_at = None
        try:
            async with make() as client:
                connected_at = loop.time()
                if failures:
                    log.info("connected again relay=%s attempts=%d", client.url, failures)
                failures = 0
                yield client
        except Unreachable as error:
            # One line per outage at a level that is seen.
            log.log(logging.DEBUG if failures else logging.WARNING, "trying again: %s", error)
        failures += 1
        if connected_at is not None and loop.time() - connected_at >= _STEADY_SECONDS:
            coming = pauses()
        await asyncio.sleep(next(coming))


async def follow(
    make: Callable[[], RelayClient],
    filters: Sequence[Filter],
    *,
    since: int,
    overlap_seconds: int = 900,
    pauses: Callable[[], Iterator[float]] = backoff,
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[Event | EndOfStored, None]:
    """Yield every event from `since` on (unix seconds), over all interruptions, without end.

    After each connection come the stored events that are new, all of them (`page_back`), newest
    first, then `EndOfStored`, then live ones. Once that was reached, the next catch-up begins at the
    newest event that came, less `overlap_seconds`: for events that are published later than they are
    dated. Of the last 10,000 events none comes twice. Raises Rejected when the relay refuses for good.

    A relay sends in the order of arrival, so what it had stored before an event that came has come
    too, and how long the consumer took does not matter. Dates in the future count as now (`clock`).
    """
    newest = since
    seen: OrderedDict[str, None] = OrderedDict()

    def is_new(event: Event, latest: float) -> bool:
        nonlocal newest
        newest = max(newest, min(event.created_at, int(latest)))
        if event.id in seen:
            return False
        seen[event.id] = None
        if len(seen) > _REMEMBERED_IDS:
            seen.popitem(last=False)
        return True

    async with aclosing(reconnect(make, pauses=pauses)) as clients:
        async for client in clients:
            caught_up = False
            began = clock()
            wanted = [replace(each, since=max(since, each.since or since)) for each in filters]
            # The subscription is for what comes from now on, the pages for all that came before it.
            live = [replace(each, limit=1) for each in wanted]
            try:
                async with aclosing(client.subscribe(live)) as items:
                    async for item in items:
                        if isinstance(item, Event):
                            if is_new(item, clock() if caught_up else began):
                                yield item
                            continue
                        for each in wanted:
                            async with aclosing(client.page_back(each)) as stored:
                                async for event in stored:
                                    # The pages hold all that had come when they began, no more.
                                    if is_new(event, began):
                                        yield event
                        caught_up = True
                        yield item
            except RelayFailure as error:
                if isinstance(error, Rejected) and not error.is_temporary:
                    raise
                log.warning("interrupted, connecting again: %s", error)
                if caught_up:
                    since = max(since, newest - overlap_seconds)
