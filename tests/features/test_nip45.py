"""NIP-45: COUNT gives one exact number for all filters together, and who wrote it all to merge."""

from collections.abc import AsyncIterator

import pytest

from relay.config import RelayConfig
from relay.engine import authors
from relay.nostr.event import Event
from relay.nostr.hyperloglog import Registers, estimate, merge
from relay.nostr.keys import SecretKey
from tests.events import ALICE, BOB, CAROL, NOW, Clock, author, event, note, notes
from tests.net.house import Client, Filter, House


@pytest.fixture
async def house(clock: Clock) -> AsyncIterator[House]:
    async with House(clock, RelayConfig(hyperloglog=True)) as opened:
        yield opened


async def test_registers_are_not_sent_unless_the_operator_wants_them(clock: Clock) -> None:
    async with House(clock) as plain:
        client = await plain.connect()
        await client.publish(like(ALICE))

        assert await client.count(LIKES) == 1
        assert await hll(client, LIKES) is None


async def test_an_event_that_meets_two_filters_counts_once(client: Client) -> None:
    for published in (*notes(ALICE, 3), note(BOB, "bob", tags=[["t", "x"]])):
        await client.publish(published)

    assert await client.count({"authors": [ALICE.public]}) == 3
    assert await client.count({"kinds": [1]}, {"#t": ["x"]}, {"authors": [BOB.public]}) == 4
    assert await client.count({"#t": ["y"]}) == 0


async def test_a_limit_does_not_bound_the_count(client: Client) -> None:
    for published in notes(ALICE, 3):
        await client.publish(published)

    assert await client.count({"limit": 1}) == 3
    assert await client.count({"limit": 0}) == 3


async def test_filters_that_can_match_nothing_count_nothing(client: Client) -> None:
    await client.publish(note(ALICE))

    assert await client.count({"ids": []}, {"since": NOW + 1, "until": NOW}) == 0
    assert await client.count({"ids": []}, {}) == 1


async def test_a_count_without_filters_is_closed(client: Client) -> None:
    assert await client.refusal("COUNT") == "invalid: COUNT takes at least one filter"


async def test_a_count_leaves_no_subscription_behind(house: House, client: Client) -> None:
    await client.count({})

    await client.publish(note(ALICE))

    assert await client.heard() == []
    assert len(house.relay.index) == 0


async def test_a_refused_count_ends_the_subscription_that_its_answer_names(
    house: House, client: Client
) -> None:
    await client.subscribe("both", {"kinds": [1]})

    (answer,) = await client.request("COUNT", "both", {"kinds": [4]})

    assert answer[:2] == ["CLOSED", "both"]
    assert len(house.relay.index) == 0


async def test_a_count_may_share_its_name_with_a_subscription(client: Client) -> None:
    assert await client.subscribe("both", {}) == []
    assert await client.request("COUNT", "both", {}) == [["COUNT", "both", {"count": 0}]]

    await client.publish(note(ALICE, "live"))

    assert await client.live() == [("both", "live")]


async def test_a_count_does_not_disturb_a_subscription_of_any_name(client: Client) -> None:
    client.send("REQ", "COUNT x", {})
    client.send("COUNT", "x", {})

    answers = [await client.receive(), await client.receive()]

    assert sorted(answers) == [["COUNT", "x", {"count": 0}], ["EOSE", "COUNT x", ["finish"]]]


TARGET = "00000000000000000000000000000000a0000000000000000000000000000000"
OFFSET = 18
LIKES = {"kinds": [7], "#e": [TARGET]}


def like(key: SecretKey, content: str = "+", target: str = TARGET) -> Event:
    return event(key, 7, content, tags=[["e", target]])


async def hll(client: Client, *filters: Filter) -> str | None:
    """Return the registers that come with a count, in hex."""
    (answer,) = await client.request("COUNT", "count", *filters)
    assert answer[0] == "COUNT", answer
    registers = answer[2].get("hll")
    assert registers is None or type(registers) is str
    return registers


def registers_of(*keys: SecretKey) -> str:
    registers = Registers(OFFSET)
    for key in keys:
        registers.add(key.public)
    return bytes(registers).hex()


async def test_a_common_query_gets_the_registers_of_its_authors(client: Client) -> None:
    for published in (like(ALICE), like(ALICE, "again"), like(BOB), like(CAROL, target=64 * "1")):
        await client.publish(published)

    assert await client.count(LIKES) == 3
    assert await hll(client, LIKES) == registers_of(ALICE, BOB)
    assert await hll(client, {**LIKES, "limit": 1}) == registers_of(ALICE, BOB)


async def test_nobody_at_all_is_counted_by_empty_registers(client: Client) -> None:
    assert await hll(client, LIKES) == 512 * "0"


@pytest.mark.parametrize(
    "filters",
    [
        [{}],
        [{"kinds": [7]}],
        [{"#e": [TARGET]}],
        [{**LIKES, "since": 0}],
        [{**LIKES, "authors": [ALICE.public]}],
        [{"kinds": [7], "#e": [TARGET, 64 * "1"]}],
        [LIKES, LIKES],
    ],
)
async def test_other_queries_get_a_number_only(client: Client, filters: list[Filter]) -> None:
    assert await hll(client, *filters) is None


async def test_too_many_events_get_a_number_only(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authors, "MAX_EVENTS", 3)
    for number in range(4):
        assert await hll(client, LIKES) is not None
        await client.publish(like(author(f"{number}")))

    assert await hll(client, LIKES) is None
    assert await client.count(LIKES) == 4


async def test_what_the_reader_may_not_see_is_not_in_the_registers(house: House, client: Client) -> None:
    await client.publish(event(ALICE, 4, tags=[["p", BOB.public], ["e", TARGET]]))
    await client.publish(event(ALICE, 4, tags=[["p", CAROL.public], ["e", TARGET]]))
    bob = await house.connect()
    await bob.authenticate(BOB, NOW)

    assert await hll(bob, {"kinds": [4], "#e": [TARGET]}) == registers_of(ALICE)


async def test_counts_of_two_relays_merge_to_the_number_of_different_authors(client: Client) -> None:
    keys = [author(f"fan {number}") for number in range(60)]
    for key in keys[:40]:
        await client.publish(like(key))
    async with House(Clock(), RelayConfig(hyperloglog=True)) as other_house:
        other = await other_house.connect()
        for key in keys[20:]:
            await other.publish(like(key))
        mine, theirs = await hll(client, LIKES), await hll(other, LIKES)

    assert mine is not None
    assert theirs is not None
    both = merge(bytes.fromhex(mine), bytes.fromhex(theirs))
    assert both.hex() == registers_of(*keys)
    assert 54 <= estimate(both) <= 66
