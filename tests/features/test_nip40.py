"""NIP-40: an event with an expiration is gone from that second on, through every door."""

import pytest

from relay.nostr.event import Event
from tests.events import ALICE, NOW, Clock, event, note, write
from tests.net.house import Client, House

EXPIRED = (False, "invalid: the event has expired")


def expiring(at: object, content: str = "soon gone", kind: int = 1, created_at: int = NOW) -> Event:
    return event(ALICE, kind, content, created_at=created_at, tags=[["expiration", str(at)]])


@pytest.mark.parametrize("at", [0, 1, NOW - 1, NOW])
async def test_an_expired_event_is_refused(client: Client, at: int) -> None:
    assert await client.publish(expiring(at)) == EXPIRED


async def test_an_event_lives_until_the_second_before_its_expiration(client: Client, clock: Clock) -> None:
    published = expiring(NOW + 2)
    assert await client.publish(published) == (True, "")

    clock.advance(1)
    assert await client.find({}) == ["soon gone"]
    assert await client.count({}) == 1

    clock.advance(1)
    assert await client.find({}) == []
    assert await client.find({"ids": [published.id]}) == []
    assert await client.count({}) == 0


async def test_an_expired_event_is_not_taken_again(house: House, client: Client, clock: Clock) -> None:
    await client.publish(expiring(NOW + 1))

    clock.advance(1)

    assert await client.publish(expiring(NOW + 1)) == EXPIRED
    assert await house.store.sweep(clock()) == 1


@pytest.mark.parametrize("at", ["", "never", "-1", "1e3", "1_000", " 1", "1.0", "٣", "9" * 20])
async def test_an_expiration_that_is_no_time_counts_as_none(client: Client, clock: Clock, at: str) -> None:
    assert await client.publish(expiring(at)) == (True, "")

    clock.advance(10**9)

    assert await client.find({}) == ["soon gone"]


async def test_a_tag_without_value_counts_as_none(client: Client) -> None:
    assert await client.publish(note(ALICE, "kept", tags=[["expiration"]])) == (True, "")

    assert await client.find({}) == ["kept"]


async def test_the_first_of_several_expirations_counts(client: Client, clock: Clock) -> None:
    tags = [["expiration", str(NOW + 5)], ["expiration", str(NOW + 50)]]
    await client.publish(note(ALICE, "soon gone", tags=tags))

    clock.advance(5)

    assert await client.find({}) == []


async def test_a_newest_version_that_expired_does_not_bring_the_older_back(
    client: Client, clock: Clock
) -> None:
    older = event(ALICE, 0, "older")
    await client.publish(older)
    await client.publish(expiring(NOW + 5, "newer", kind=0, created_at=NOW + 1))

    clock.advance(5)

    assert await client.find({}) == []


async def test_an_expiring_event_is_sent_live(house: House, client: Client) -> None:
    listener = await house.connect()
    await listener.subscribe("s", {})

    await client.publish(expiring(NOW + 1))

    assert await listener.live() == [("s", "soon gone")]


async def test_an_expired_ephemeral_event_is_dropped_and_a_fresh_one_passes(
    house: House, client: Client
) -> None:
    listener = await house.connect()
    await listener.subscribe("s", {})

    assert await client.publish(expiring(NOW, kind=20_001)) == EXPIRED
    assert await client.publish(expiring(NOW + 1, kind=20_001)) == (True, "")

    assert await listener.live() == [("s", "soon gone")]


async def test_an_event_that_expires_on_its_way_to_the_subscribers_is_not_sent(
    house: House, client: Client, clock: Clock
) -> None:
    await client.subscribe("s", {})
    clock.advance(1)

    # Admitted by another process before its time was over.
    await house.store.write([write(expiring(NOW + 1), expires_at=NOW + 1), write(note(ALICE, "stays"))])

    assert [message[2]["content"] for message in await client.heard()] == ["stays"]
