"""Following accounts on a relay, and publishing to it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from bridge.model import Identity, Link, Post, Profile, Ref
from bridge.network import Arrival, Rejected, Task, Unreachable
from bridge.networks.nostr import network as module
from bridge.networks.nostr.network import NostrNetwork
from bridge.plan import PutPost
from bridge.text import rich
from relay.nostr.event import Event, encode, sign
from relay.nostr.keys import SecretKey
from tests.small_relay import SmallRelay

SEED = bytes(range(32))
BOB = SecretKey(bytes(31) + b"\x01")
CAROL = SecretKey(bytes(31) + b"\x02")
NOW = 1_700_000_000
ALICE = Identity(Ref("matrix", "@alice:x"), Profile("Alice", None), NOW)


class MemoryInbox:
    """An inbox that remembers in memory, and says when something arrives."""

    def __init__(self, cursors: Mapping[str, int]) -> None:
        self.ids: list[str] = []
        self.cursors = dict(cursors)
        self._waiting = asyncio.Event()

    def receive(
        self,
        arrivals: Sequence[Arrival],
        cursors: Mapping[str, int] | None = None,
        bookmarks: Mapping[str, str] | None = None,
    ) -> int:
        new = [arrival.id for arrival in arrivals if arrival.id not in self.ids]
        self.ids += new
        for scope, value in (cursors or {}).items():
            self.cursors[scope] = max(value, self.cursors.get(scope, 0))
        self._waiting.set()
        return len(new)

    def cursor(self, scope: str) -> int | None:
        return self.cursors.get(scope)

    def bookmark(self, scope: str) -> str | None:
        return None

    async def until(self, count: int) -> list[str]:
        """Wait for so many arrivals and return their ids in order."""
        async with asyncio.timeout(10):
            while len(self.ids) < count:
                self._waiting.clear()
                await self._waiting.wait()
        return self.ids


def note(secret: SecretKey, at: int, text: str = "") -> Event:
    return sign(secret, created_at=at, kind=1, content=text or f"at {at}")


def links(*secrets: SecretKey) -> list[Link]:
    room = Ref("matrix", "!r:x")
    return [Link(room, Ref("nostr", secret.public), 0, ALICE.person) for secret in secrets]


@asynccontextmanager
async def following(
    relay: SmallRelay, inbox: MemoryInbox, *secrets: SecretKey
) -> AsyncIterator[NostrNetwork]:
    """Run a network that watches some accounts."""
    network = NostrNetwork(relay.url, SEED, lambda: float(NOW))
    network.watch(links(*secrets))
    running = asyncio.create_task(network.run(inbox))
    try:
        yield network
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_backlog_behind_the_relays_cap_arrives_whole_and_oldest_first() -> None:
    backlog = [note(BOB, NOW - 1000 + second) for second in range(50)]
    inbox = MemoryInbox({BOB.public: NOW - 1000})
    async with SmallRelay(backlog, cap=7) as relay, following(relay, inbox, BOB):
        assert await inbox.until(50) == [event.id for event in backlog]
        assert inbox.cursors[BOB.public] == NOW


async def test_a_backlog_larger_than_memory_is_read_in_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HELD_EVENTS", 5)
    backlog = [note(BOB, NOW - 100_000 + 5000 * step) for step in range(20)]
    inbox = MemoryInbox({BOB.public: NOW - 100_000})
    async with SmallRelay(backlog, cap=3) as relay, following(relay, inbox, BOB):
        assert await inbox.until(20) == [event.id for event in backlog]


async def test_many_events_of_one_second_do_not_stop_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HELD_EVENTS", 5)
    flood = [note(BOB, NOW - 50, f"{number}") for number in range(9)]
    inbox = MemoryInbox({BOB.public: NOW - 100})
    last = note(BOB, NOW - 10)
    async with SmallRelay([*flood, last], cap=100) as relay, following(relay, inbox, BOB):
        async with asyncio.timeout(10):
            while last.id not in inbox.ids:
                await inbox.until(len(inbox.ids) + 1)


async def test_notes_from_before_the_cursor_and_of_others_stay_where_they_are() -> None:
    old, new, foreign = note(BOB, NOW - 5000), note(BOB, NOW - 10), note(CAROL, NOW - 10)
    inbox = MemoryInbox({BOB.public: NOW - 100})
    async with SmallRelay([old, new, foreign]) as relay, following(relay, inbox, BOB):
        live = note(BOB, NOW + 1)
        await inbox.until(1)
        await relay.add(live)
        assert await inbox.until(2) == [new.id, live.id]
        # A date in the future does not make us skip what is dated now.
        assert inbox.cursors[BOB.public] == NOW


async def test_an_account_that_is_linked_later_is_followed_too() -> None:
    inbox = MemoryInbox({BOB.public: NOW - 100, CAROL.public: NOW - 100})
    waiting = note(CAROL, NOW - 10)
    async with SmallRelay([waiting]) as relay, following(relay, inbox, BOB) as network:
        network.watch(links(BOB, CAROL))
        assert await inbox.until(1) == [waiting.id]


async def test_what_was_written_while_the_relay_was_away_arrives_when_it_is_back() -> None:
    inbox = MemoryInbox({BOB.public: NOW - 100})
    async with SmallRelay([note(BOB, NOW - 10)]) as relay, following(relay, inbox, BOB):
        await inbox.until(1)
        await relay.stop()
        missed = note(BOB, NOW - 5)
        relay.events.append(missed)
        await relay.start()
        assert (await inbox.until(2))[1] == missed.id


def task(network: NostrNetwork) -> Task:
    message = Post(Ref("matrix", "$1"), ALICE.person, Ref("matrix", "!r:x"), NOW * 1000, rich("hello"))
    rendered = network.render(PutPost(message, ALICE, None))
    return Task("post $1", rendered.payload, rendered.native_id)


async def test_a_delivery_publishes_the_stored_event() -> None:
    async with SmallRelay() as relay, following(relay, MemoryInbox({})) as network:
        wanted = task(network)
        assert await network.deliver(wanted) == wanted.native_id
        assert [encode(event) for event in relay.events] == [wanted.payload]


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        ("rate-limited: slow down", Unreachable),
        ("error: disk full", Unreachable),
        ("blocked: no bridges", Rejected),
        ("invalid: too long", Rejected),
    ],
)
async def test_refusals_that_may_pass_are_told_from_those_that_do_not(
    refusal: str, error: type[Exception]
) -> None:
    relay = SmallRelay(challenge="c")
    relay.refusal = refusal
    relay.auth_answer = (False, "restricted: not you")
    async with relay, following(relay, MemoryInbox({})) as network:
        with pytest.raises(error):
            await network.deliver(task(network))


async def test_a_profile_is_looked_up() -> None:
    profile = sign(BOB, created_at=NOW, kind=0, content='{"name":"Bob"}')
    async with SmallRelay([profile]) as relay, following(relay, MemoryInbox({})) as network:
        assert await network.profile(Ref("nostr", BOB.public)) == Profile("Bob", None)
        assert await network.profile(Ref("nostr", CAROL.public)) is None


async def test_without_a_connection_nothing_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.01)
    network = NostrNetwork("ws://127.0.0.1:1", SEED, lambda: float(NOW))

    with pytest.raises(Unreachable, match="not connected"):
        await network.deliver(task(network))
