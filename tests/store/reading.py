"""Reading a store in tests: whole answers instead of pages, and an ear for its bells."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.reasons import Refusal
from relay.store.api import MAX_SEQ, Bell, Outcome, Seq, Store, Stored, Veil, Write
from tests.events import NOW

EVERYTHING = Filter()
ALWAYS = Seq(MAX_SEQ)
"""An `upto` that leaves nothing out."""


async def scan(
    store: Store, wanted: Filter = EVERYTHING, *, upto: Seq = ALWAYS, now: int = NOW, veil: Veil | None = None
) -> list[Stored]:
    """Return all pages of a scan in one list."""
    return [row async for page in store.scan(wanted, upto=upto, now=now, veil=veil) for row in page]


async def found(
    store: Store, wanted: Filter = EVERYTHING, *, upto: Seq = ALWAYS, now: int = NOW, veil: Veil | None = None
) -> list[str]:
    """Return the contents of the events that a scan yields."""
    return [row.event().content for row in await scan(store, wanted, upto=upto, now=now, veil=veil)]


async def count(
    store: Store, *wanted: Filter, upto: Seq = ALWAYS, now: int = NOW, veil: Veil | None = None
) -> int:
    return await store.count(wanted, upto=upto, now=now, veil=veil)


async def listed(
    store: Store, wanted: Filter = EVERYTHING, *, upto: Seq = ALWAYS, now: int = NOW, veil: Veil | None = None
) -> list[tuple[int, str]]:
    """Return (created_at, id) of all that a store lists: newest first, ties by id."""
    pages = [page async for page in store.items(wanted, upto=upto, now=now, veil=veil) if page]
    assert all(min(newer)[0] >= max(older)[0] for newer, older in pairwise(pages))
    return sorted(
        ((time, id_.hex()) for page in pages for time, id_ in page), key=lambda item: (-item[0], item[1])
    )


async def log(store: Store, *, after: Seq | int = 0, upto: Seq | None = None, now: int = NOW) -> list[Stored]:
    """Return all pages of the log, up to the head unless said otherwise, in one list."""
    upto = await store.head() if upto is None else upto
    return [row async for page in store.log(after=Seq(after), upto=upto, now=now) for row in page]


async def logged(store: Store, *, after: Seq | int = 0, upto: Seq | None = None, now: int = NOW) -> list[str]:
    """Return the contents of the events in the log."""
    return [row.event().content for row in await log(store, after=after, upto=upto, now=now)]


async def dump(store: Store, *, upto: Seq = ALWAYS, now: int = NOW) -> list[bytes]:
    """Return all pages of the dump in one list."""
    return [json async for page in store.dump(upto=upto, now=now) for json in page]


def contents(events: Sequence[Event]) -> list[str]:
    return [event.content for event in events]


def by_id(events: Sequence[Event]) -> list[Event]:
    """Return the events by ascending id: the order of those that share a second."""
    return sorted(events, key=lambda event: event.id)


def named(outcome: Outcome | Refusal) -> str:
    """Return an outcome's name, or the prefix of a refusal."""
    return outcome.name if isinstance(outcome, Outcome) else outcome.prefix.value


class Ear:
    """Hears a store's bells and ephemeral events, and waits for what has not come yet."""

    def __init__(self, store: Store) -> None:
        self.bells: list[Bell] = []
        self.ephemeral: list[bytes] = []
        self._heard = asyncio.Event()
        store.listen(self._on_bell)
        store.listen_ephemeral(self._on_events)

    def _on_bell(self, bell: Bell) -> None:
        self.bells.append(bell)
        self._heard.set()

    def _on_events(self, rows: Sequence[bytes]) -> None:
        self.ephemeral.extend(rows)
        self._heard.set()

    async def head(self, upto: Seq | int) -> list[Bell]:
        """Wait until the bells have reached this seq; return all that were heard."""
        while not self.bells or self.bells[-1].upto < upto:
            await self._more()
        return self.bells

    async def events(self, count: int) -> list[bytes]:
        """Wait until so many ephemeral events were heard; return them all."""
        while len(self.ephemeral) < count:
            await self._more()
        return self.ephemeral

    async def _more(self) -> None:
        self._heard.clear()
        async with asyncio.timeout(20):
            await self._heard.wait()


async def keep(store: Store, *writes: Write) -> list[str]:
    """Write one batch; return the names of the outcomes."""
    return [named(outcome) for outcome in await store.write(writes)]
