"""NIP-45: COUNT gives one exact number for all filters together, and who wrote it all to merge."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from relay.config import AuthConfig, RelayConfig
from relay.engine import authors, crowds
from relay.engine import relay as relay_module
from relay.engine.authors import READ_AT_MOST
from relay.nostr.event import Event
from relay.nostr.hyperloglog import Registers, estimate, merge
from relay.nostr.keys import SecretKey
from relay.store.api import StoreError
from tests.events import ALICE, BOB, CAROL, NOW, Clock, author, event, note, notes
from tests.net.house import Client, Filter, House


@pytest.fixture
async def house(clock: Clock) -> AsyncIterator[House]:
    async with House(clock) as opened:
        yield opened


async def test_registers_are_sent_unless_the_operator_does_not_want_them(clock: Clock) -> None:
    async with House(clock, RelayConfig(hyperloglog=False)) as plain:
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
    """Where their registers are not kept."""
    monkeypatch.setattr(authors, "MAX_EVENTS", 3)
    shares: Filter = {"kinds": [16], "#e": [TARGET]}
    for number in range(4):
        assert await hll(client, shares) is not None
        await client.publish(event(author(f"{number}"), 16, tags=[["e", TARGET]]))

    assert await hll(client, shares) is None
    assert await client.count(shares) == 4


async def test_common_queries_have_registers_ready_once_they_were_asked(
    house: House, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    fans = [author(f"fan {number}") for number in range(READ_AT_MOST + 1)]
    for key in fans:
        await client.publish(like(key))
    monkeypatch.setattr(authors, "MAX_EVENTS", READ_AT_MOST)

    assert await hll(client, LIKES) is None
    await built(house)

    assert await hll(client, LIKES) == registers_of(*fans)
    await client.publish(like(ALICE))
    assert await hll(client, LIKES) == registers_of(ALICE, *fans)


async def test_few_are_counted_as_they_are_and_many_as_they_were(house: House, client: Client) -> None:
    fans = [author(f"fan {number}") for number in range(READ_AT_MOST + 1)]
    likes = [like(key) for key in (*fans, ALICE)]
    for one in likes:
        await client.publish(one)
    assert await hll(client, LIKES) == registers_of(*fans, ALICE)
    await built(house)

    await client.publish(event(fans[0], 5, tags=[["e", likes[0].id]]))
    assert await hll(client, LIKES) == registers_of(*fans, ALICE)
    await client.publish(event(fans[1], 5, tags=[["e", likes[1].id]]))
    assert await hll(client, LIKES) == registers_of(*fans[2:], ALICE)


@pytest.mark.parametrize("is_first", [False, True])
async def test_what_is_said_in_a_private_group_is_in_nobody_elses_registers(
    house: House, client: Client, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    monkeypatch.setattr(relay_module, "READ_AT_MOST", 0)
    await client.publish(event(ALICE, 9007, tags=[["h", "pizza"]]))
    await client.publish(event(ALICE, 9002, tags=[["h", "pizza"], ["private"]]))
    await client.publish(like(BOB))
    secret = event(ALICE, 7, "+", tags=[["e", TARGET], ["h", "pizza"]])
    if is_first:
        await client.publish(secret)
    assert await hll(client, LIKES) == registers_of(BOB)
    await built(house)
    await client.publish(secret)

    assert await hll(client, LIKES) == registers_of(BOB)
    alice = await house.connect()
    await alice.authenticate(ALICE, NOW)
    assert await hll(alice, LIKES) == registers_of(ALICE, BOB)


async def test_kinds_that_take_a_key_are_not_counted_for_strangers(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "READ_AT_MOST", 0)
    async with House(clock, RelayConfig(auth=AuthConfig(read_kinds=(1_111,)))) as house:
        client = await house.connect()
        comment = event(ALICE, 1_111, tags=[["q", TARGET]])
        for one in (comment, event(BOB, 1, tags=[["q", TARGET]])):
            await client.publish(one)

        for _ in range(2):
            assert await hll(client, {"kinds": [1, 1_111], "#q": [TARGET]}) == registers_of(BOB)
        assert house.store.records(crowds.TABLE, "") == []


async def test_a_crowd_that_cannot_be_read_harms_nobody(
    house: House, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "READ_AT_MOST", 0)
    await client.publish(like(ALICE))
    with monkeypatch.context() as broken:
        broken.setattr(house.store, "command", refuse_to_work)
        assert await hll(client, LIKES) == registers_of(ALICE)
        await built(house)

    assert await hll(client, LIKES) == registers_of(ALICE)
    await built(house)
    assert house.store.record(crowds.TABLE, f"7 e {TARGET}") == b"\1" + bytes.fromhex(registers_of(ALICE))


async def refuse_to_work(table: str, payload: bytes) -> bytes:
    raise StoreError("the disk is full")


async def built(house: House) -> None:
    """Let the relay finish what a question has begun."""
    counted = house.relay._crowds
    assert counted is not None
    while True:
        await asyncio.sleep(0)
        if not counted._is_building:
            return


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
    async with House(Clock()) as other_house:
        other = await other_house.connect()
        for key in keys[20:]:
            await other.publish(like(key))
        mine, theirs = await hll(client, LIKES), await hll(other, LIKES)

    assert mine is not None
    assert theirs is not None
    both = merge(bytes.fromhex(mine), bytes.fromhex(theirs))
    assert both.hex() == registers_of(*keys)
    assert 54 <= estimate(both) <= 66
