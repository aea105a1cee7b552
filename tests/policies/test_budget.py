"""Budgets of questions: by rows and by work, for one question and for all of an address."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from relay.config import RelayConfig
from relay.nostr.filter import Filter
from relay.store.api import Seq, Veil
from relay.store.memory import MemoryStore
from tests.events import ALICE, BOB, NOW, Clock, note, notes, write
from tests.features.test_nip77 import OPENING
from tests.net.house import House

TOO_LONG = "restricted: this question takes more than 0.001 seconds of work; ask for less"


def config(**budget: object) -> RelayConfig:
    return RelayConfig.model_validate({"admins": [BOB.public], "policies": {"budget": budget}})


class Counting(MemoryStore):
    """A store that counts in slices, as the real one does."""

    async def count(self, wanted: Sequence[Filter], *, upto: Seq, now: int, veil: Veil | None = None) -> int:
        for _ in range(1_000):
            sum(range(1_000))
            await asyncio.sleep(0)
        return await super().count(wanted, upto=upto, now=now, veil=veil)


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    """Two thousand notes: a look at all of them takes more than a millisecond."""
    made = Counting()
    await made.write([write(one) for one in notes(ALICE, 2_000)])
    yield made


async def test_an_answer_has_only_so_many_events(clock: Clock) -> None:
    async with House(clock, config(rows_per_question=3)) as house:
        client = await house.connect()
        for number in range(5):
            await client.publish(note(ALICE, str(number), created_at=NOW + number))

        answers = await client.request("REQ", "r", {"kinds": [1]})
        assert answers[-1] == ["CLOSED", "r", "restricted: an answer has 3 events at most; ask for less"]
        assert len(await client.find({"kinds": [1], "limit": 3})) == 3
        assert await client.count({"kinds": [1]}) == 5

        await client.authenticate(BOB, NOW)
        assert len(await client.find({"kinds": [1]})) == 5


async def test_an_address_gets_only_so_many_events_in_a_minute(clock: Clock) -> None:
    async with House(clock, config(rows_per_minute=6)) as house:
        one, neighbour = await house.connect("2001:db8::1"), await house.connect("2001:db8::2")
        other = await house.connect("2001:db8:0:1::1")
        for number in range(4):
            await one.publish(note(ALICE, str(number)))

        assert len(await one.find({})) == len(await neighbour.find({})) == 4
        spent = "rate-limited: one address gets 6 a minute of events in answers"
        assert [await client.refusal("REQ", {}) for client in (one, neighbour)] == [spent, spent]
        assert await one.refusal("COUNT", {}) == spent
        assert len(await other.find({})) == 4


async def test_a_question_that_takes_too_much_work_ends_at_every_door(
    clock: Clock, store: MemoryStore
) -> None:
    async with House(clock, config(seconds_per_question=0.001), store=store) as house:
        client = await house.connect()

        assert (await client.request("REQ", "r", {"kinds": [1]}))[-1] == ["CLOSED", "r", TOO_LONG]
        assert await client.refusal("COUNT", {"kinds": [1]}) == TOO_LONG
        client.send("NEG-OPEN", "n", {}, OPENING)
        assert (await client.receive())[:3] == ["NEG-ERR", "n", TOO_LONG]
        # It is told, and goes on.
        assert await client.publish(note(ALICE, "hello")) == (True, "")


async def test_an_address_gets_only_so_much_work_in_a_minute(clock: Clock, store: MemoryStore) -> None:
    async with House(clock, config(seconds_per_minute=0.001), store=store) as house:
        client, other = await house.connect("192.0.2.1"), await house.connect("192.0.2.2")

        assert await client.count({"kinds": [1]}) == 2_000
        assert (
            await client.refusal("REQ", {"limit": 1})
            == "rate-limited: questions from one address get 0.001 seconds of work a minute"
        )
        assert len(await other.find({"limit": 1})) >= 1


async def test_without_a_budget_nothing_is_measured(clock: Clock) -> None:
    async with House(clock) as house:
        assert all(feature.toll is None for feature in house.relay.features)
