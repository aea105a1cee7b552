"""NIP-59: gift wraps are for their receivers, through every door, and theirs to delete."""

import pytest

from relay.config import LimitsConfig, RelayConfig
from relay.nostr.event import Event
from relay.nostr.keys import SecretKey
from tests.events import ALICE, BOB, CAROL, DAVE, NOW, Clock, author, event, note
from tests.net.house import Client, House

THROWAWAY = author("one-time key")
WRAP = event(THROWAWAY, 1059, "sealed", tags=[["p", BOB.public]])
UNVEILED = "auth-required: events of these kinds are shown only to the people they are meant for"


async def reader(house: House, *keys: SecretKey) -> Client:
    client = await house.connect()
    for key in keys:
        assert await client.authenticate(key, NOW) == (True, "")
    return client


async def test_anybody_may_send_a_wrap(client: Client) -> None:
    assert await client.publish(WRAP) == (True, "")


@pytest.mark.parametrize("verb", ["REQ", "COUNT"])
@pytest.mark.parametrize(
    "wanted",
    [
        {"kinds": [1059]},
        {"kinds": [21_059]},
        {"kinds": [4, 1059, 21_059]},
        {"kinds": [1059], "#p": [BOB.public]},
        {"kinds": [1059], "ids": [WRAP.id]},
        {"kinds": [1059], "limit": 0},
    ],
)
async def test_a_stranger_who_asks_for_wraps_alone_is_asked_to_authenticate(
    client: Client, verb: str, wanted: dict[str, object]
) -> None:
    await client.publish(WRAP)

    assert await client.refusal(verb, wanted) == UNVEILED


async def test_a_stranger_finds_nothing_by_any_other_way(client: Client) -> None:
    await client.publish(WRAP)
    await client.publish(note(ALICE, "public", tags=[["p", BOB.public]]))

    for wanted in (
        {},
        {"ids": [WRAP.id]},
        {"authors": [THROWAWAY.public]},
        {"#p": [BOB.public]},
        {"kinds": [1, 1059]},
        {"since": NOW, "until": NOW},
    ):
        assert set(await client.find(wanted)) <= {"public"}
    assert await client.count({}) == 1
    assert await client.count({"ids": [WRAP.id]}) == 0
    assert await client.count({"#p": [BOB.public]}) == 1
    assert await client.count({"kinds": [1, 1059]}, {"ids": [WRAP.id]}) == 1


async def test_the_receiver_sees_it_stored_live_and_counted(house: House, client: Client) -> None:
    bob = await reader(house, BOB)
    await bob.subscribe("live", {"kinds": [1059]})

    await client.publish(WRAP)

    assert await bob.live() == [("live", "sealed")]
    assert await bob.find({"kinds": [1059]}) == ["sealed"]
    assert await bob.find({"ids": [WRAP.id]}) == ["sealed"]
    assert await bob.count({"kinds": [1059]}) == 1


@pytest.mark.parametrize("other", [CAROL, THROWAWAY])
async def test_nobody_else_sees_it_not_even_its_author(
    house: House, client: Client, other: SecretKey
) -> None:
    stranger = await reader(house, other)
    await stranger.subscribe("live", {})
    await stranger.subscribe("wraps", {"kinds": [1059]})

    await client.publish(WRAP)

    assert await stranger.heard() == []
    assert await stranger.find({"kinds": [1059]}) == []
    assert await stranger.find({"ids": [WRAP.id]}) == []
    assert await stranger.count({"kinds": [1059]}) == 0


async def test_every_proved_key_sees_its_own_wraps(house: House, client: Client) -> None:
    await client.publish(WRAP)
    await client.publish(event(THROWAWAY, 1059, "for carol", tags=[["p", CAROL.public]], created_at=NOW + 1))
    await client.publish(event(THROWAWAY, 1059, "for alice", tags=[["p", ALICE.public]]))

    both = await reader(house, BOB, CAROL)

    assert await both.find({"kinds": [1059]}) == ["for carol", "sealed"]


async def test_a_second_key_widens_a_live_subscription(house: House, client: Client) -> None:
    bob = await reader(house, CAROL)
    await bob.subscribe("s", {"kinds": [1059]})
    await bob.authenticate(BOB, NOW)

    await client.publish(WRAP)

    assert await bob.live() == [("s", "sealed")]


async def test_a_limit_counts_visible_wraps(house: House, client: Client) -> None:
    await client.publish(WRAP)
    for n in range(1, 4):
        await client.publish(event(THROWAWAY, 1059, str(n), tags=[["p", CAROL.public]], created_at=NOW + n))

    bob = await reader(house, BOB)

    assert await bob.find({"kinds": [1059], "limit": 1}) == ["sealed"]


async def test_a_wrap_that_names_nobody_is_seen_by_nobody(house: House, client: Client) -> None:
    for n, tags in enumerate(([], [["p"]], [["p", ""]], [["p", BOB.public.upper()]], [["P", BOB.public]])):
        await client.publish(event(THROWAWAY, 1059, str(n), tags=tags))

    bob = await reader(house, BOB)

    assert await bob.find({}) == []


async def test_ephemeral_wraps_reach_their_receiver_only_and_are_not_kept(
    house: House, client: Client
) -> None:
    bob, stranger = await reader(house, BOB), await reader(house)
    await bob.subscribe("s", {})
    await stranger.subscribe("s", {})

    assert await client.publish(event(THROWAWAY, 21_059, "typing", tags=[["p", BOB.public]])) == (True, "")

    assert await bob.live() == [("s", "typing")]
    assert await stranger.heard() == []
    assert await bob.find({}) == []


async def test_an_ephemeral_wrap_whose_receiver_does_not_listen_is_muted(
    house: House, client: Client
) -> None:
    stranger = await reader(house, CAROL)
    await stranger.subscribe("s", {})

    assert await client.publish(event(THROWAWAY, 21_059, tags=[["p", BOB.public]])) == (
        False,
        "mute: no one was listening for this event",
    )


async def test_a_receiver_may_delete_a_wrap_for_good(house: House, client: Client) -> None:
    await client.publish(WRAP)
    bob = await reader(house, BOB)

    await bob.publish(event(BOB, 5, tags=[["e", WRAP.id]]))

    assert await bob.find({"kinds": [1059]}) == []
    assert await client.publish(WRAP) == (False, "blocked: this event was deleted")


async def test_a_receiver_may_delete_a_wrap_before_it_arrives(client: Client) -> None:
    await client.publish(event(BOB, 5, tags=[["e", WRAP.id]]))

    assert await client.publish(WRAP) == (False, "blocked: this event was deleted")


async def test_its_author_may_delete_a_wrap_and_others_may_not(house: House, client: Client) -> None:
    await client.publish(WRAP)
    bob = await reader(house, BOB)

    await client.publish(event(CAROL, 5, tags=[["e", WRAP.id]]))
    assert await bob.find({"kinds": [1059]}) == ["sealed"]

    await client.publish(event(THROWAWAY, 5, tags=[["e", WRAP.id]]))
    assert await bob.find({"kinds": [1059]}) == []


async def test_being_named_in_a_note_gives_no_right_to_delete_it(client: Client) -> None:
    mention = note(ALICE, "hello bob", tags=[["p", BOB.public]])
    await client.publish(mention)

    await client.publish(event(BOB, 5, tags=[["e", mention.id]]))

    assert await client.find({"kinds": [1]}) == ["hello bob"]


async def test_wraps_dated_two_days_back_are_accepted(client: Client) -> None:
    wrap = event(THROWAWAY, 1059, tags=[["p", BOB.public]], created_at=NOW - 2 * 86_400)

    assert await client.publish(wrap) == (True, "")


async def test_an_expired_wrap_is_gone_for_its_receiver_too(
    house: House, client: Client, clock: Clock
) -> None:
    tags = [["p", BOB.public], ["expiration", str(NOW + 5)]]
    await client.publish(event(THROWAWAY, 1059, tags=tags))
    bob = await reader(house, BOB)

    clock.advance(5)

    assert await bob.count({"kinds": [1059]}) == 0


FEW = RelayConfig(limits=LimitsConfig(wraps_per_minute=2), trust_bridge_keys=(DAVE.public,))
MOST = "rate-limited: at most 2 gift wraps a minute from one "


def wraps(count: int, kind: int = 1059) -> list[Event]:
    """Return wraps for Bob, each by a key of its own."""
    return [event(author(f"one-time {n}"), kind, tags=[["p", BOB.public]]) for n in range(count)]


@pytest.mark.parametrize("kind", [1059, 21_059])
async def test_one_key_sends_so_many_wraps_a_minute_from_all_its_connections(clock: Clock, kind: int) -> None:
    first, second, third = wraps(3, kind)
    async with House(clock, FEW, alone=False) as house:
        here, there = await house.connect("192.0.2.1"), await house.connect("198.51.100.1")
        await here.authenticate(ALICE, NOW)
        await there.authenticate(ALICE, NOW)

        assert await here.publish(first) == (True, "")
        assert await there.publish(second) == (True, "")
        assert await here.publish(third) == (False, MOST + "key")
        assert await there.publish(third) == (False, MOST + "key")


async def test_keys_behind_one_address_do_not_count_for_each_other(clock: Clock) -> None:
    first, second, third = wraps(3)
    async with House(clock, FEW) as house:
        for key, wrap in ((ALICE, first), (ALICE, second), (CAROL, third)):
            client = await house.connect()
            await client.authenticate(key, NOW)
            assert await client.publish(wrap) == (True, "")


async def test_proving_one_more_key_allows_no_more_wraps(clock: Clock) -> None:
    first, second, third = wraps(3)
    async with House(clock, FEW) as house:
        client = await house.connect()
        await client.authenticate(ALICE, NOW)
        await client.publish(first)
        await client.publish(second)

        await client.authenticate(CAROL, NOW)

        assert await client.publish(third) == (False, MOST + "key")


async def test_who_proved_no_key_counts_by_address(clock: Clock) -> None:
    first, second, third = wraps(3)
    async with House(clock, FEW) as house:
        for wrap in (first, second):
            assert await (await house.connect()).publish(wrap) == (True, "")

        assert await (await house.connect()).publish(third) == (False, MOST + "address")
        assert await (await house.connect("198.51.100.1")).publish(third) == (True, "")
        assert await (await house.connect()).publish(note(ALICE)) == (True, "")


async def test_the_bridges_wraps_are_not_counted(clock: Clock) -> None:
    async with House(clock, FEW) as house:
        client = await house.connect()
        await client.authenticate(DAVE, NOW)

        for wrap in wraps(3):
            assert await client.publish(wrap) == (True, "")
