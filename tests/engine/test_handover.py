"""Stored, then live: every interleaving of writer, follower and reader, and none loses or doubles."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from relay.engine.feature import Origin
from relay.engine.relay import Relay
from relay.engine.subscription import LiveEvent, Subscription
from relay.nostr.filter import Filter
from relay.store.memory import MemoryStore
from tests.events import ALICE, NOW, note, write

COMMITS = [note(ALICE, text, created_at=NOW + n) for n, text in enumerate(("first", "second", "third"))]


class DeafStore(MemoryStore):
    """A store without bells: the follower learns of commits only when the test lets it read the log."""

    def listen(self, on_bell: object) -> None:
        pass


@dataclass(eq=False)
class Client:
    """A reader that notes what it gets, in order."""

    origin: Origin = field(default_factory=lambda: Origin(address="192.0.2.1", url="ws://relay.test/"))
    got: list[bytes] = field(default_factory=list)
    ended: bool = False

    def deliver(self, subscription: Subscription, events: Sequence[LiveEvent]) -> None:
        self.got.extend(event.json for event in events)

    def end_slow(self, subscription: Subscription) -> None:
        self.ended = True


def schedules() -> Iterator[tuple[str, ...]]:
    """Every order of 3 commits, 2 runs of the follower and the reader's 3 steps, which stay in order."""
    yield from sorted(set(permutations("CCCFFRRR")))


class Run:
    """One schedule, step by step, on the real relay."""

    def __init__(self) -> None:
        self.store = DeafStore()
        self.relay = Relay(self.store, (), max_limit=500, buffer_bytes=1 << 20, now=lambda: NOW + 60)
        self.client = Client()
        self.subscription = Subscription("all", [Filter()], self.client)
        self.left = list(COMMITS)
        self.steps = iter((self._open, self._draw_the_line, self._read_and_go_live))

    async def commit(self) -> None:
        await self.store.write([write(self.left.pop(0))])

    async def follow(self) -> None:
        await self.relay.tail.catch_up()

    async def read(self) -> None:
        await next(self.steps)()

    async def _open(self) -> None:
        self.relay.open(self.subscription)

    async def _draw_the_line(self) -> None:
        await self.relay.draw_line(self.subscription)

    async def _read_and_go_live(self) -> None:
        async for page in self.relay.stored(self.subscription):
            self.client.got.extend(row.json for row in page)
        self.client.got.extend(event.json for event in self.subscription.go_live())


async def run(schedule: Sequence[str]) -> list[str]:
    """Play one schedule, let the follower finish, and return what the client got."""
    played = Run()
    for step in schedule:
        await {"C": played.commit, "F": played.follow, "R": played.read}[step]()
    await played.follow()
    contents = {write(event).json: event.content for event in COMMITS}
    return [contents[json] for json in played.client.got]


def test_there_are_560_interleavings() -> None:
    assert len(list(schedules())) == 560


async def test_no_interleaving_loses_or_doubles_an_event() -> None:
    wrong = {}
    for schedule in schedules():
        got = await run(schedule)
        if sorted(got) != ["first", "second", "third"]:
            wrong["".join(schedule)] = got

    assert wrong == {}


async def test_the_check_would_notice_a_gap_and_a_double() -> None:
    """Drawing the line before filing the subscription loses events: the enumeration must see it."""
    lost = 0
    for schedule in schedules():
        played = Run()
        played.steps = iter((played._draw_the_line, played._open, played._read_and_go_live))
        for step in schedule:
            await {"C": played.commit, "F": played.follow, "R": played.read}[step]()
        await played.follow()
        lost += len(played.client.got) < len(COMMITS)

    assert lost > 0


async def test_events_stored_while_a_subscription_reads_arrive_once_and_after_eose() -> None:
    """The same with the follower running by itself, bells ringing, and writers racing the reader."""
    store = MemoryStore()
    relay = Relay(store, (), max_limit=5000, buffer_bytes=1 << 20, now=lambda: NOW + 10_000)
    ready = asyncio.Event()
    running = asyncio.create_task(relay.run(ready))
    await ready.wait()
    events = [note(ALICE, f"{n}", created_at=NOW + n) for n in range(600)]

    async def store_all() -> None:
        for start in range(0, len(events), 7):
            await store.write([write(event) for event in events[start : start + 7]])
            await asyncio.sleep(0)

    async def subscribe(name: str) -> tuple[Client, list[bytes]]:
        client = Client()
        subscription = Subscription(name, [Filter(limit=5000)], client)
        relay.open(subscription)
        await relay.draw_line(subscription)
        stored = [row.json async for page in relay.stored(subscription) for row in page]
        client.got.extend(event.json for event in subscription.go_live())
        return client, stored

    writing = asyncio.create_task(store_all())
    readers = []
    for number in range(20):
        readers.append(await subscribe(f"s{number}"))
        await asyncio.sleep(0)
    await writing
    await relay.tail.catch_up()
    running.cancel()

    everything = sorted(write(event).json for event in events)
    assert [sorted(stored + client.got) for client, stored in readers] == [everything] * 20


async def test_a_client_that_buffers_too_much_before_eose_is_ended() -> None:
    store = MemoryStore()
    relay = Relay(store, (), max_limit=500, buffer_bytes=1000, now=lambda: NOW + 60)
    await relay.tail.start()
    client = Client()
    relay.open(Subscription("slow", [Filter()], client))

    await store.write([write(note(ALICE, "x" * 300)), write(note(ALICE, "y" * 900))])

    assert (client.got, client.ended) == ([], True)
