"""NIP-45: COUNT gives one exact number for all filters together."""

from tests.events import ALICE, BOB, NOW, note, notes
from tests.net.house import Client, House


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
