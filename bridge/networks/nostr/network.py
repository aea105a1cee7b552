"""Nostr as a network of the bridge: one relay that is followed and published to.

Reads what the watched accounts post: all of it since the cursor, oldest first, then live. Publishing
is idempotent by itself: an event that is sent again is the same event.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import aclosing

from bridge.identities import ghost_key, service_key
from bridge.model import Capabilities, Identity, Link, Op, Profile, Ref, Room
from bridge.network import Arrival, Inbox, Rejected, Rendered, Task, Unreachable
from bridge.networks.nostr import convert
from bridge.plan import Accept, Act, PutPicture, PutPost, PutProfile, PutReaction, Tell, Withdraw
from relay import client as nostr
from relay.nostr import kinds
from relay.nostr.event import Event, decode, encode
from relay.nostr.filter import Filter

log = logging.getLogger(__name__)

KINDS = frozenset({kinds.PROFILE, kinds.NOTE, kinds.DELETION, kinds.REACTION})

OVERLAP_SECONDS = 1800
"""How far behind the cursor reading begins: clocks differ by up to 900 s either way."""

MAX_HELD_EVENTS = 10_000
"""Events held while paging back. More of them are read in several rounds, the oldest first."""

CONNECT_SECONDS = 15.0
"""How long a delivery waits for a connection that is being made."""


class NostrNetwork:
    """The relay at one URL."""

    name = convert.NETWORK
    # Kind 1 has no limit of its own; relays' limits begin at 64 KiB a message.
    can = Capabilities(max_text_bytes=60_000)

    def __init__(self, url: str, seed: bytes, now: Callable[[], float]) -> None:
        self._url = url
        self._seed = seed
        self._now = now
        self._client: nostr.RelayClient | None = None
        self._connected = asyncio.Event()
        self._watched: frozenset[str] = frozenset()
        self._rewatch = asyncio.Event()

    def watch(self, links: Sequence[Link]) -> None:
        watched = frozenset(link.follows.id for link in links if link.follows.network == self.name)
        if watched != self._watched:
            self._watched = watched
            self._rewatch.set()

    async def run(self, inbox: Inbox) -> None:
        def make() -> nostr.RelayClient:
            return nostr.RelayClient(self._url, service_key(self._seed))

        async with aclosing(nostr.reconnect(make)) as clients:
            async for client in clients:
                self._client = client
                self._connected.set()
                try:
                    while True:
                        await self._follow(client, inbox)
                except nostr.Unreachable as error:
                    log.warning("lost the relay, connecting again: %s", error)
                except nostr.Rejected as error:
                    log.warning("the relay ended the subscription, asking again: %s", error)
                finally:
                    self._client = None
                    self._connected.clear()

    async def _follow(self, client: nostr.RelayClient, inbox: Inbox) -> None:
        """Read what the watched accounts wrote and write, until others are to be watched."""
        self._rewatch.clear()
        # Our own account is always among them: an open subscription notices a lost connection.
        watched = self._watched | {service_key(self._seed).public}
        reading = asyncio.create_task(self._read(client, inbox, watched))
        changed = asyncio.create_task(self._rewatch.wait())
        try:
            await asyncio.wait({reading, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            changed.cancel()
            await asyncio.wait({reading, changed})
        if not reading.cancelled():
            reading.result()

    async def _read(self, client: nostr.RelayClient, inbox: Inbox, watched: frozenset[str]) -> None:
        # The subscription is for what comes from now on, the pages are for all that came before it.
        wanted = Filter(authors=watched, kinds=KINDS, limit=1)
        is_live = False
        async with aclosing(client.subscribe([wanted])) as items:
            async for item in items:
                if isinstance(item, nostr.EndOfStored):
                    await self._catch_up(client, inbox, watched)
                    is_live = True
                elif is_live:
                    reached = min(item.created_at, int(self._now()))
                    inbox.receive([Arrival(item.id, encode(item))], dict.fromkeys(watched, reached))

    async def _catch_up(self, client: nostr.RelayClient, inbox: Inbox, watched: frozenset[str]) -> None:
        """Store everything since the cursors, oldest first, however much it is."""
        while True:
            now = int(self._now())
            since = min(_or_now(inbox.cursor(pubkey), now) for pubkey in watched) - OVERLAP_SECONDS
            # Pages come newest first. When too many are held the newest fall out, to be read again.
            held: deque[Event] = deque(maxlen=MAX_HELD_EVENTS)
            total = 0
            wanted = Filter(authors=watched, kinds=KINDS, since=max(since, 0))
            async with aclosing(client.page_back(wanted)) as pages:
                async for event in pages:
                    held.append(event)
                    total += 1
            complete = total <= MAX_HELD_EVENTS
            # At least a second further each round, however many events share one.
            reached = now if complete else max(held[0].created_at, since + 1) + OVERLAP_SECONDS
            oldest_first = sorted(held, key=lambda event: (event.created_at, event.id))
            arrivals = [Arrival(event.id, encode(event)) for event in oldest_first]
            inbox.receive(arrivals, dict.fromkeys(watched, reached))
            if complete:
                return

    def parse(self, raw: bytes) -> Op | None:
        return convert.to_op(decode(raw))

    def render(self, act: Act) -> Rendered:
        match act:
            case PutPost():
                event = convert.to_note(self._seed, act)
            case PutReaction():
                event = convert.to_reaction(self._seed, act)
            case PutProfile():
                event = convert.to_profile_event(self._seed, act)
            case Withdraw():
                event = convert.to_deletion(self._seed, act)
            case PutPicture() | Tell() | Accept():
                raise TypeError(f"Nostr has no {type(act).__name__}")
        return Rendered(encode(event), event.id)

    def ghost(self, identity: Identity) -> str:
        return ghost_key(self._seed, identity).public

    async def deliver(self, task: Task) -> str | None:
        event = decode(task.payload)
        client = await self._connection()
        try:
            await client.publish(event)
        except nostr.Unreachable as error:
            raise Unreachable(str(error)) from error
        except nostr.Rejected as error:
            if error.is_temporary:
                raise Unreachable(str(error)) from error
            raise Rejected(str(error)) from error
        return event.id

    async def profile(self, person: Ref) -> Profile | None:
        client = await self._connection()
        wanted = Filter(authors=frozenset({person.id}), kinds=frozenset({kinds.PROFILE}), limit=1)
        try:
            found = await client.fetch([wanted])
        except (nostr.Unreachable, nostr.Rejected) as error:
            raise Unreachable(str(error)) from error
        return convert.to_profile(found[0]) if found else None

    async def room(self, room: Ref, asked_by: Ref) -> Room | None:
        return None

    async def _connection(self) -> nostr.RelayClient:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._connected.wait()
        except TimeoutError:
            raise Unreachable(f"{self._url}: not connected") from None
        if self._client is None:
            raise Unreachable(f"{self._url}: the connection was lost")
        return self._client


def _or_now(cursor: int | None, now: int) -> int:
    return now if cursor is None else cursor
