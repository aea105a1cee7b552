"""NIP-77: a client learns which events it lacks, and which ones the relay does, frame by frame."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import pytest

from relay.config import LimitsConfig, RelayConfig, TimeoutsConfig
from relay.nostr import filter as filters
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.negentropy import Client as Negentropy
from relay.nostr.negentropy import Vector
from relay.store.api import Outcome, Seq, StoreError, Veil
from relay.store.memory import MemoryStore
from tests.events import ALICE, BOB, CAROL, NOW, Clock, event, note, notes, write
from tests.net.house import Client, Filter, House

OPENING = Negentropy(Vector.of([])).initiate().hex()
"""What a client says that has nothing."""


@dataclass
class Found:
    """What a client has learned."""

    have: set[str]
    need: set[str]


async def reconcile(client: Client, events: Iterable[Event] = (), wanted: Filter | None = None) -> Found:
    """Compare these events with the relay's, to the end."""
    negentropy = Negentropy(Vector.of((one.created_at, bytes.fromhex(one.id)) for one in events))
    found = Found(set(), set())
    client.send("NEG-OPEN", "sync", wanted or {}, negentropy.initiate().hex())
    while True:
        answer = await client.receive()
        assert answer[:2] == ["NEG-MSG", "sync"], answer
        frame, differences = negentropy.reconcile(bytes.fromhex(answer[2]))
        found.have.update(id_.hex() for id_ in differences.have)
        found.need.update(id_.hex() for id_ in differences.need)
        if frame is None:
            client.send("NEG-CLOSE", "sync")
            return found
        client.send("NEG-MSG", "sync", frame.hex())


async def answer_to(client: Client, *message: object) -> list[Any]:
    client.send(*message)
    return await client.receive()


def ids(*events: Event) -> set[str]:
    return {one.id for one in events}


def house_with(**limits: int) -> House:
    return House(Clock(), RelayConfig(limits=LimitsConfig(**limits)))


async def store(house: House, *events: Event) -> None:
    assert set(await house.store.write([write(one) for one in events])) <= {Outcome.STORED}


# Both ways.


async def test_each_side_learns_what_the_other_one_has(house: House, client: Client) -> None:
    both, mine, others = notes(ALICE, 300, step=1), notes(BOB, 40), notes(CAROL, 5)
    await store(house, *both, *others)

    found = await reconcile(client, [*both, *mine])

    assert found.have == ids(*mine)
    assert found.need == ids(*others)


async def test_equal_sets_differ_in_nothing(house: House, client: Client) -> None:
    both = notes(ALICE, 100)
    await store(house, *both)

    assert await reconcile(client, both) == Found(set(), set())


async def test_only_what_the_filter_asks_for_is_compared(house: House, client: Client) -> None:
    hers, his = notes(ALICE, 3, step=1), notes(BOB, 3, step=1)
    await store(house, *hers, *his)

    assert (await reconcile(client, wanted={"authors": [ALICE.public]})).need == ids(*hers)
    assert (await reconcile(client, wanted={"since": NOW + 1, "until": NOW + 1})).need == ids(hers[1], his[1])
    assert (await reconcile(client, wanted={"ids": []})).need == set()


async def test_a_limit_takes_the_newest(house: House, client: Client) -> None:
    history = notes(ALICE, 10, step=1)
    await store(house, *history)

    assert (await reconcile(client, wanted={"limit": 2})).need == ids(*history[-2:])
    assert (await reconcile(client, wanted={"limit": 0})).need == set()


async def test_the_limit_of_a_request_does_not_bound_what_is_compared() -> None:
    async with house_with(max_limit=5) as house:
        history = notes(ALICE, 50)
        await store(house, *history)

        assert (await reconcile(await house.connect())).need == ids(*history)


async def test_what_comes_after_the_opening_is_not_compared(house: House, client: Client) -> None:
    early = notes(ALICE, 40)
    await store(house, *early)
    opened = await answer_to(client, "NEG-OPEN", "sync", {}, OPENING)

    await client.publish(note(BOB, "late"))

    assert await answer_to(client, "NEG-MSG", "sync", OPENING) == opened


# Who may see what.


async def test_what_a_reader_may_not_see_is_not_compared(house: House, client: Client) -> None:
    secret = event(ALICE, kinds.GIFT_WRAP, "sealed", created_at=NOW, tags=[["p", BOB.public]])
    public = note(ALICE, "public")
    await store(house, secret, public)

    stranger = await reconcile(client)
    await client.authenticate(BOB, NOW)
    recipient = await reconcile(client)

    assert stranger.need == ids(public)
    assert recipient.need == ids(public, secret)


async def test_a_stranger_who_asks_for_private_kinds_only_is_told_to_authenticate(client: Client) -> None:
    answer = await answer_to(client, "NEG-OPEN", "x", {"kinds": [kinds.GIFT_WRAP]}, OPENING)

    assert answer[:2] == ["NEG-ERR", "x"]
    assert answer[2].startswith("auth-required: ")


async def test_what_was_deleted_or_has_expired_is_not_compared(house: House, client: Client) -> None:
    kept, gone = note(ALICE, "kept"), note(ALICE, "gone")
    brief = note(ALICE, "brief", tags=[["expiration", str(NOW + 10)]])
    for one in (kept, gone, brief):
        await client.publish(one)
    deletion = event(ALICE, kinds.DELETION, created_at=NOW, tags=[["e", gone.id]])
    await client.publish(deletion)

    before = await reconcile(client)
    house.clock.advance(10)
    after = await reconcile(client)

    assert before.need == ids(kept, brief, deletion)
    assert after.need == ids(kept, deletion)


# Sessions.


async def test_names_are_apart_from_those_of_subscriptions(house: House, client: Client) -> None:
    await client.subscribe("one", {})
    await answer_to(client, "NEG-OPEN", "one", {}, OPENING)

    client.send("CLOSE", "one")
    assert (await answer_to(client, "NEG-MSG", "one", OPENING))[0] == "NEG-MSG"
    await client.subscribe("one", {})
    client.send("NEG-CLOSE", "one")
    await client.publish(note(ALICE, "live"))

    assert await client.live() == [("one", "live")]


async def test_a_name_that_is_used_again_stands_for_the_new_session(house: House, client: Client) -> None:
    hers, his = notes(ALICE, 3), notes(BOB, 3)
    await store(house, *hers, *his)
    await answer_to(client, "NEG-OPEN", "sync", {"authors": [ALICE.public]}, OPENING)

    assert (await reconcile(client, hers, {"authors": [BOB.public]})) == Found(ids(*hers), ids(*his))


@pytest.mark.parametrize("closes", [False, True])
async def test_a_message_to_no_session_is_closed(client: Client, closes: bool) -> None:
    if closes:
        await answer_to(client, "NEG-OPEN", "x", {}, OPENING)
        client.send("NEG-CLOSE", "x")

    answer = await answer_to(client, "NEG-MSG", "x", OPENING)

    assert answer == ["NEG-ERR", "x", "closed: no reconciliation of this name is open"]


async def test_closing_what_is_not_open_is_no_mistake(client: Client) -> None:
    client.send("NEG-CLOSE", "x")

    assert await client.heard() == []


async def test_sessions_at_a_time_are_bounded() -> None:
    async with house_with(max_negentropy_sessions=2) as house:
        client = await house.connect()
        for name in ("a", "b", "b"):
            assert (await answer_to(client, "NEG-OPEN", name, {}, OPENING))[0] == "NEG-MSG"

        assert await answer_to(client, "NEG-OPEN", "c", {}, OPENING) == [
            "NEG-ERR",
            "c",
            "rate-limited: at most 2 reconciliations at a time",
        ]
        client.send("NEG-CLOSE", "a")
        assert (await answer_to(client, "NEG-OPEN", "c", {}, OPENING))[0] == "NEG-MSG"


async def test_too_many_events_are_blocked_and_the_limit_is_named() -> None:
    async with house_with(max_negentropy_events=10) as house:
        client = await house.connect()
        await store(house, *notes(ALICE, 10))
        assert (await answer_to(client, "NEG-OPEN", "x", {}, OPENING))[0] == "NEG-MSG"
        await store(house, note(BOB))

        assert await answer_to(client, "NEG-OPEN", "x", {}, OPENING) == [
            "NEG-ERR",
            "x",
            "blocked: this query matches more than 10 events",
            10,
        ]
        assert (await answer_to(client, "NEG-OPEN", "x", {"limit": 10}, OPENING))[0] == "NEG-MSG"


async def test_what_all_sessions_hold_is_bounded_and_given_back() -> None:
    async with house_with(max_negentropy_events=10) as house:
        await store(house, *notes(ALICE, 10))
        first, second, third = [await house.connect() for _ in range(3)]
        for client in (first, second):
            assert (await answer_to(client, "NEG-OPEN", "x", {}, OPENING))[0] == "NEG-MSG"

        refused = await answer_to(third, "NEG-OPEN", "x", {}, OPENING)
        await first.leave()
        opened = await answer_to(third, "NEG-OPEN", "x", {}, OPENING)

        assert refused == ["NEG-ERR", "x", "error: too many reconciliations at a time; try again later"]
        assert opened[0] == "NEG-MSG"


async def test_a_session_that_is_left_alone_is_closed() -> None:
    config = RelayConfig(timeouts=TimeoutsConfig(negentropy_seconds=60))
    async with House(Clock(), config) as house:
        client = await house.connect()
        await answer_to(client, "NEG-OPEN", "x", {}, OPENING)

        client.connection.look_after(monotonic() + 50)
        assert (await answer_to(client, "NEG-MSG", "x", OPENING))[0] == "NEG-MSG"
        client.connection.look_after(monotonic() + 60)

        assert await client.receive() == ["NEG-ERR", "x", "closed: nothing was said for 60 seconds"]
        assert (await answer_to(client, "NEG-MSG", "x", OPENING))[0] == "NEG-ERR"


class SlowStore(MemoryStore):
    """A store that begins to read when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.may_read = asyncio.Event()

    async def head(self) -> Seq:
        await self.may_read.wait()
        return await super().head()


@pytest.fixture
async def slow(clock: Clock) -> AsyncIterator[House]:
    store = SlowStore()
    store.may_read.set()
    async with House(clock, store=store) as house:
        store.may_read.clear()
        yield house


async def test_a_message_that_does_not_wait_for_the_answer_ends_the_session(slow: House) -> None:
    client = await slow.connect()
    client.send("NEG-OPEN", "x", {}, OPENING)

    answer = await answer_to(client, "NEG-MSG", "x", OPENING)

    assert answer == ["NEG-ERR", "x", "invalid: NEG-MSG waits for the answer to the one before"]


async def test_a_session_that_is_closed_while_it_is_made_says_nothing_more(slow: House) -> None:
    client = await slow.connect()
    client.send("NEG-OPEN", "x", {}, OPENING)
    client.send("NEG-CLOSE", "x")

    assert await client.heard() == []
    assert isinstance(slow.store, SlowStore)
    slow.store.may_read.set()

    assert await client.heard() == []


class FailingStore(MemoryStore):
    """A store that cannot be listed."""

    async def items(
        self, wanted: filters.Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[tuple[int, bytes]]]:
        yield [(NOW, b"i" * 32)]
        raise StoreError("the disk is gone; this text is for the operator")


async def test_a_store_that_cannot_be_read_ends_the_session_and_nothing_else(clock: Clock) -> None:
    async with House(clock, store=FailingStore()) as house:
        client = await house.connect()

        answer = await answer_to(client, "NEG-OPEN", "x", {}, OPENING)

        assert answer == ["NEG-ERR", "x", "error: the relay could not read its database; try again later"]
        assert await client.publish(note(ALICE)) == (True, "")


# Bad input.


@pytest.mark.parametrize("frame", ["61ff", "6101", "5f", "61000003", "6105010200010101" + "00"])
async def test_a_broken_frame_ends_the_session(house: House, client: Client, frame: str) -> None:
    await store(house, *notes(ALICE, 40))
    assert (await answer_to(client, "NEG-OPEN", "x", {}, OPENING))[0] == "NEG-MSG"

    answer = await answer_to(client, "NEG-MSG", "x", frame)

    assert answer[:2] == ["NEG-ERR", "x"]
    assert answer[2].startswith("invalid: ")
    assert (await answer_to(client, "NEG-MSG", "x", OPENING))[2].startswith("closed: ")


async def test_another_version_is_answered_by_the_one_that_is_spoken(client: Client) -> None:
    assert await answer_to(client, "NEG-OPEN", "x", {}, "62aabb") == ["NEG-MSG", "x", "61"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (("NEG-OPEN", "x", {}), "invalid: NEG-OPEN takes"),
        (("NEG-OPEN", "x", {}, "zz"), "invalid: NEG-OPEN takes"),
        (("NEG-OPEN", "x", {"kinds": 1}, OPENING), "invalid: kinds must be an array"),
        (("NEG-OPEN", "x", {"search": "word"}, OPENING), "unsupported: "),
        (("NEG-OPEN", "x", {"kinds": list(range(5_001))}, OPENING), "invalid: 5001 values"),
        (("NEG-MSG", "x", ""), "invalid: NEG-MSG takes"),
    ],
)
async def test_a_malformed_message_is_refused_and_ends_what_it_names(
    client: Client, message: tuple[object, ...], reason: str
) -> None:
    await answer_to(client, "NEG-OPEN", "x", {}, OPENING)

    answer = await answer_to(client, *message)

    assert answer[:2] == ["NEG-ERR", "x"]
    assert answer[2].startswith(reason)
    assert (await answer_to(client, "NEG-MSG", "x", OPENING))[2].startswith("closed: ")


@pytest.mark.parametrize("verb", ["NEG-OPEN", "NEG-MSG"])
async def test_messages_are_counted_as_requests(verb: str) -> None:
    async with house_with(requests_per_minute=1) as house:
        client = await house.connect()
        await answer_to(client, "NEG-OPEN", "x", {}, OPENING)

        answer = await answer_to(client, verb, "x", *[{}] * (verb == "NEG-OPEN"), OPENING)

        assert answer == ["NEG-ERR", "x", "rate-limited: at most 1 requests a minute from one address"]
