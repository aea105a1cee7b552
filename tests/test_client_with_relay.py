"""The Nostr client and the real relay together, over the wire."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from itertools import repeat

import pytest

from relay.client import EndOfStored, Rejected, RelayClient, Unreachable, follow
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from tests.events import author, event, note, notes
from tests.serving import TorvServe

ERIN, FRANK = author("erin of the client"), author("frank of the client")
BY_ERIN = Filter(authors=frozenset({ERIN.public}))


async def until_end_of_stored(items: AsyncIterator[Event | EndOfStored]) -> list[str]:
    """Return the contents of the stored events that come next."""
    contents = []
    while isinstance(item := await anext(items), Event):
        contents.append(item.content)
    return contents


async def test_published_events_are_fetched_counted_and_followed(relay_url: str) -> None:
    stored = notes(ERIN, 3, step=1)

    async with RelayClient(relay_url) as publisher, RelayClient(relay_url) as reader:
        for each in stored:
            assert (await publisher.publish(each)).accepted
        again = await publisher.publish(stored[0])
        items = reader.subscribe([BY_ERIN])
        before = await until_end_of_stored(items)
        await publisher.publish(note(ERIN, "live", created_at=stored[-1].created_at + 1))
        live = await anext(items)
        await items.aclose()

        assert again.reason.startswith("duplicate:")
        assert before == ["note 2", "note 1", "note 0"]
        assert isinstance(live, Event) and live.content == "live"
        assert await reader.count([BY_ERIN]) == 4
        assert [e.content for e in await reader.fetch([BY_ERIN])] == ["live", "note 2", "note 1", "note 0"]


async def test_direct_messages_are_read_once_authenticated(relay_url: str) -> None:
    message = event(FRANK, kinds.DIRECT_MESSAGE, "secret", tags=[("p", ERIN.public)])
    wanted = [Filter(kinds=frozenset({kinds.DIRECT_MESSAGE}), tags={"p": frozenset({ERIN.public})})]

    async with RelayClient(relay_url, FRANK) as frank:
        await frank.publish(message)
    async with RelayClient(relay_url) as nobody:
        with pytest.raises(Rejected, match="auth-required:"):
            await nobody.fetch(wanted)
    async with RelayClient(relay_url, ERIN) as erin:
        received = await erin.fetch(wanted)

    assert received == [message]


async def test_protected_event_is_published_once_authenticated(relay_url: str) -> None:
    protected = note(ERIN, "mine alone", created_at=1, tags=[("-",)])

    async with RelayClient(relay_url, ERIN) as erin:
        assert (await erin.publish(protected)).accepted


async def test_malformed_events_are_rejected(relay_url: str) -> None:
    forged = Event(**{**{name: getattr(note(ERIN), name) for name in Event._fields}, "content": "forged"})

    async with RelayClient(relay_url) as client:
        with pytest.raises(Rejected, match="invalid: id is not the hash of the event"):
            await client.publish(forged)


async def test_pages_bring_more_than_the_relay_sends_at_once(torv_serve: TorvServe) -> None:
    served = torv_serve("[relay.limits]\nmax_limit = 7\nevents_per_minute = 0\n")
    # More of one second than are sent at once, too: those come all the same (NIP-67).
    stored = notes(ERIN, 10) + notes(FRANK, 50, created_at=1_600_000_000, step=2)
    crowd = notes(ERIN, 20, created_at=1_500_000_000)

    async with RelayClient(served.url) as client:
        for each in stored + crowd:
            await client.publish(each)
        found = [each async for each in client.page_back(Filter(until=1_650_000_000))]

    assert [each.content for each in found[:50]] == [f"note {n}" for n in reversed(range(50))]
    assert found[50:] == sorted(crowd, key=lambda each: each.id)


async def test_follower_survives_restarts_of_the_relay(torv_serve: TorvServe) -> None:
    served = torv_serve()
    now = int(time.time())

    def at_once() -> Iterator[float]:
        return repeat(0.0)

    async with RelayClient(served.url) as client:
        await client.publish(note(ERIN, "first", created_at=now))
    async with aclosing(
        follow(lambda: RelayClient(served.url), [BY_ERIN], since=now, pauses=at_once)
    ) as items:
        first = await until_end_of_stored(items)
        for end in (served.stop, served.kill):
            await asyncio.to_thread(end)
            await asyncio.to_thread(served.restart)
            async with RelayClient(served.url) as client:
                await client.publish(note(ERIN, f"after {end.__name__}", created_at=now))
            first += await until_end_of_stored(items)

    assert first == ["first", "after stop", "after kill"]


async def test_relay_that_stops_is_unreachable(torv_serve: TorvServe) -> None:
    served = torv_serve()

    async with RelayClient(served.url) as client:
        items = client.subscribe([BY_ERIN])
        await until_end_of_stored(items)
        await asyncio.to_thread(served.stop)

        with pytest.raises(Unreachable, match="1012"):
            await anext(items)
