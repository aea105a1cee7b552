"""Carries everything from inbox to outbox and on: the only part that knows the order of the steps.

`Arrival → inbox (raw) → acknowledge → enrich → plan (pure) → outbox, links and the inbox mark in one
transaction → deliver (idempotent)`. Killed between any two steps, it goes on where it stopped.
"""

import asyncio
import logging
import random
import sqlite3
from collections.abc import Callable, Mapping, Sequence

from bridge.commands import LinkRoom, OptOut, parse_order
from bridge.ledger import Ledger, Ready, Received, Waiting
from bridge.model import (
    Capabilities,
    Command,
    Delete,
    Link,
    Op,
    Place,
    Post,
    ProfileChange,
    React,
    Ref,
    RoomClosed,
)
from bridge.network import Arrival, Network, Rejected, Task, Unreachable, Unreadable
from bridge.plan import NOSTR, Change, Facts, Known, LinkEnded, LinkMade, plan
from bridge.text import Mention, Pointer, walk

log = logging.getLogger(__name__)

INBOX_PAGE = 100
MAX_MENTIONS = 100
"""People of one post who are looked up; the others stay text."""
MAX_LANES_AT_ONCE = 16
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
DELIVERY_SECONDS = 120.0
"""However slow a network is, a lane is not held up longer by one attempt."""
MAX_FAULTS = 10
"""Attempts at a delivery that fails through a fault of our own."""
PRUNE_SECONDS = 3600.0


class Router:
    """Joins a ledger and its networks."""

    def __init__(self, ledger: Ledger, networks: Sequence[Network], now: Callable[[], float]) -> None:
        self._ledger = ledger
        self._networks = {network.name: network for network in networks}
        self._can: Mapping[str, Capabilities] = {network.name: network.can for network in networks}
        self._now = now
        self._arrived = {network.name: asyncio.Event() for network in networks}
        self._due = asyncio.Event()
        self._busy: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Carry messages until cancelled. Raises an ExceptionGroup if a network or the ledger fails."""
        self._watch()
        async with asyncio.TaskGroup() as group:
            for network in self._networks.values():
                inbox = _Inbox(self._ledger, network.name, self._now, self._arrived[network.name])
                group.create_task(network.run(inbox))
                group.create_task(self._digest_all(network))
            group.create_task(self._deliver_all())
            group.create_task(self._prune())

    def _watch(self) -> None:
        links = self._ledger.links()
        for network in self._networks.values():
            network.watch(links)

    async def _prune(self) -> None:
        while True:
            self._ledger.prune(self._now())
            await asyncio.sleep(PRUNE_SECONDS)

    # From the inbox to the outbox, in the order of arrival.

    async def _digest_all(self, network: Network) -> None:
        arrived = self._arrived[network.name]
        while True:
            arrived.clear()
            received = self._ledger.received(network.name, INBOX_PAGE)
            if not received:
                await arrived.wait()
            for one in received:
                await self._digest(network, one)
                # A commit does not yield to the loop by itself.
                await asyncio.sleep(0)

    async def _digest(self, network: Network, received: Received) -> None:
        attempts = 0
        while True:
            try:
                return await self._digest_once(network, received)
            except Unreachable as error:
                pause = _pause(attempts)
                level = logging.DEBUG if attempts else logging.WARNING
                log.log(level, "waiting with what came from %s: %s", network.name, error)
                attempts += 1
                await asyncio.sleep(pause)
            except Unreadable as error:
                log.warning("set aside an arrival network=%s id=%.20s: %s", network.name, received.id, error)
                return self._ledger.set_aside(received, str(error))
            except sqlite3.Error:
                # The ledger itself: nothing can be kept any more, so nothing may go on.
                raise
            except Exception as error:
                # A fault of ours: it must not block all that stands behind it.
                log.exception("set aside an arrival network=%s id=%.20s", network.name, received.id)
                return self._ledger.set_aside(received, repr(error))

    async def _digest_once(self, network: Network, received: Received) -> None:
        op = network.parse(received.raw)
        if op is None:
            return self._ledger.settle(received, (), (), {})
        decided = plan(op, await self._enrich(op), self._can)
        ready = [Ready(each, self._networks[each.network].render(each.act)) for each in decided.deliveries]
        self._ledger.settle(received, decided.changes, ready, self._ghosts(decided.changes))
        if any(isinstance(change, LinkMade | LinkEnded) for change in decided.changes):
            self._watch()
        if ready:
            self._due.set()

    def _ghosts(self, changes: Sequence[Change]) -> dict[Ref, Ref]:
        """Name the ghost of every person that becomes known, so that it is recognised as ours."""
        ghosts = {}
        for change in changes:
            if isinstance(change, Known):
                identity = change.identity
                (other,) = (n for n in self._networks.values() if n.name != identity.person.network)
                ghosts[identity.person] = Ref(other.name, other.ghost(identity))
        return ghosts

    async def _enrich(self, op: Op) -> Facts:
        """Gather what `plan` needs to know: from the ledger, and where that is silent from a network."""
        ledger = self._ledger
        match op:
            case Post(ref=ref, author=author, room=room) | React(ref=ref, author=author, room=room):
                known = ledger.identity(author)
                link = ledger.link(room) if room else None
                followers = ledger.followers(author) if room is None else ()
                room_now = await self._networks[room.network].room(room, author) if room and link else None
                looked_up = None
                if (link or followers) and (known is None or not known.shown):
                    looked_up = await self._networks[author.network].profile(author)
                return Facts(
                    link=link,
                    followers=followers,
                    author=known,
                    looked_up=looked_up,
                    opted_out=ledger.has_opted_out(author),
                    is_ours=ledger.is_ghost(author) or ledger.is_copy(ref),
                    withdrawn=ledger.is_withdrawn(ref, author),
                    copies=ledger.copies(ref),
                    room=room_now,
                    thread=ledger.thread(op.reply_to) if isinstance(op, Post) and op.reply_to else None,
                    places=self._places(op, (link,) if link else followers),
                    people=self._people(op) if isinstance(op, Post) and (link or followers) else {},
                )
            case ProfileChange(author, room):
                return Facts(
                    link=ledger.link(room) if room else None,
                    followers=ledger.followers(author),
                    author=ledger.identity(author),
                    opted_out=ledger.has_opted_out(author),
                    is_ours=ledger.is_ghost(author),
                )
            case Delete(targets, by, room):
                copies = tuple(copy for target in targets for copy in ledger.copies(target))
                foreign = any(copy.author != by for copy in copies)
                if room is None:
                    # Only rooms have moderators.
                    copies = tuple(copy for copy in copies if copy.author == by)
                return Facts(
                    link=ledger.link(room) if room else None,
                    followers=ledger.followers(by),
                    author=ledger.identity(copies[0].author) if copies else None,
                    copies=copies,
                    room=await self._networks[room.network].room(room, by) if room and foreign else None,
                )
            case Command():
                return await self._enrich_command(op)
            case RoomClosed(_, room):
                return Facts(link=ledger.link(room))
        return Facts()

    def _places(self, op: Post | React, links: Sequence[Link]) -> dict[tuple[Ref, str], Place]:
        """Find the posts that something refers to, wherever these links carry it."""
        if isinstance(op, React):
            referred = [op.target]
        else:
            pointed = [node.to for node in walk(op.body) if isinstance(node, Pointer)]
            referred = [*([op.reply_to] if op.reply_to else ()), *pointed[:MAX_MENTIONS]]
        places = {}
        for link in links:
            network, there = (NOSTR, "") if op.room is not None else (link.room.network, link.room.id)
            for ref in referred:
                if place := self._ledger.place(ref, network, there):
                    places[ref, there] = place
        return places

    def _people(self, post: Post) -> dict[Ref, Mention]:
        """Name everybody whom a post mentions as the other network does, as far as they are known."""
        people: dict[Ref, Mention] = {}
        for node in walk(post.body):
            if not isinstance(node, Mention) or node.who in people or len(people) == MAX_MENTIONS:
                continue
            if ours := self._ledger.identity_of_ghost(node.who):
                # A ghost stands for somebody of the network that the post goes to.
                people[node.who] = Mention(ours.person, ours.profile.name or node.name)
            elif (known := self._ledger.identity(node.who)) and known.shown:
                (other,) = (n for n in self._networks.values() if n.name != node.who.network)
                ghost = Ref(other.name, other.ghost(known))
                people[node.who] = Mention(ghost, known.profile.name or node.name)
        return people

    async def _enrich_command(self, command: Command) -> Facts:
        ledger, network = self._ledger, self._networks[command.room.network]
        link = ledger.link(command.room)
        match parse_order(command.text):
            case LinkRoom(pubkey):
                account = Ref(NOSTR, pubkey)
                return Facts(
                    link=link,
                    author=ledger.identity(account),
                    looked_up=await self._networks[NOSTR].profile(account),
                    is_ours=ledger.is_ghost(account),
                    room=await network.room(command.room, command.by),
                )
            case OptOut():
                return Facts(
                    author=ledger.identity(command.by),
                    copies=ledger.copies_by(command.by),
                )
        return Facts(link=link, room=await network.room(command.room, command.by))

    # From the outbox to the networks: lanes at the same time, each in its order.

    async def _deliver_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                self._due.clear()
                now = self._now()
                idle = [head for head in self._ledger.heads() if head[:2] not in self._busy]
                due = [(network, lane) for network, lane, not_before in idle if not_before <= now]
                for lane in due[: MAX_LANES_AT_ONCE - len(self._busy)]:
                    self._busy.add(lane)
                    group.create_task(self._deliver_lane(*lane))
                later = [not_before - now for _, _, not_before in idle if not_before > now]
                try:
                    async with asyncio.timeout(min(later, default=None)):
                        await self._due.wait()
                except TimeoutError:
                    continue

    async def _deliver_lane(self, network: str, lane: str) -> None:
        try:
            while (entry := self._ledger.head(network, lane)) and entry.not_before <= self._now():
                await self._deliver(entry)
        finally:
            self._busy.discard((network, lane))
            # Whatever waits for a free place may have it now.
            self._due.set()

    async def _deliver(self, entry: Waiting) -> None:
        try:
            async with asyncio.timeout(DELIVERY_SECONDS):
                task = Task(entry.key, entry.payload, entry.native_id, entry.known)
                native_id = await self._networks[entry.network].deliver(task)
        except Rejected as error:
            self._bury(entry, str(error))
        except (Unreachable, TimeoutError) as error:
            self._postpone(entry, str(error) or type(error).__name__, entry.max_attempts)
        except sqlite3.Error:
            raise
        except Exception as error:
            log.exception("a delivery failed network=%s key=%.40s", entry.network, entry.key)
            self._postpone(entry, repr(error), MAX_FAULTS)
        else:
            self._ledger.delivered(entry, native_id)

    def _postpone(self, entry: Waiting, reason: str, max_attempts: int | None) -> None:
        if max_attempts is not None and entry.attempts + 1 >= max_attempts:
            return self._bury(entry, reason)
        level = logging.DEBUG if entry.attempts else logging.WARNING
        log.log(level, "trying again later network=%s key=%.40s: %s", entry.network, entry.key, reason)
        self._ledger.postpone(entry, self._now() + _pause(entry.attempts))

    def _bury(self, entry: Waiting, reason: str) -> None:
        log.warning("gave up network=%s key=%.40s: %s", entry.network, entry.key, reason)
        self._ledger.bury(entry, reason)


class _Inbox:
    """The ledger's inbox as one network sees it; wakes the router when something is in it."""

    def __init__(
        self, ledger: Ledger, network: str, now: Callable[[], float], arrived: asyncio.Event
    ) -> None:
        self._ledger = ledger
        self._network = network
        self._now = now
        self._arrived = arrived

    def receive(
        self,
        arrivals: Sequence[Arrival],
        cursors: Mapping[str, int] | None = None,
        bookmarks: Mapping[str, str] | None = None,
    ) -> int:
        new = self._ledger.receive(self._network, arrivals, self._now(), cursors or {}, bookmarks or {})
        if new:
            self._arrived.set()
        return new

    def cursor(self, scope: str) -> int | None:
        return self._ledger.cursor(self._network, scope)

    def bookmark(self, scope: str) -> str | None:
        return self._ledger.bookmark(self._network, scope)


def _pause(attempts: int) -> float:
    """Return the pause in seconds after so many attempts before: doubling, shortened by chance."""
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(attempts, 10))
    return longest * (1 - random.random() / 2)
