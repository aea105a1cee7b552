"""NIP-67: EOSE says whether that was everything, and pages end between seconds."""

import pytest

from relay.config import LimitsConfig, RelayConfig
from tests.events import ALICE, BOB, NOW, Clock, event, note, notes
from tests.net.house import Client, Filter, House


async def ends(client: Client, *filters: Filter) -> tuple[int, list[object]]:
    """Return how many stored events came, and what EOSE says."""
    answers = await client.request("REQ", "s", *filters)
    return len(answers) - 1, answers[-1]


@pytest.mark.parametrize(
    ("wanted", "count", "hints"),
    [
        ({}, 10, [["finish"]]),
        ({"limit": 10}, 10, [["finish"]]),
        ({"limit": 11}, 10, [["finish"]]),
        ({"limit": 9}, 9, [["more"]]),
        ({"limit": 1}, 1, [["more"]]),
        ({"limit": 1, "since": NOW + 9}, 1, [["finish"]]),
        ({"limit": 1, "until": NOW}, 1, [["finish"]]),
        ({"authors": [BOB.public]}, 0, [["finish"]]),
        ({"ids": []}, 0, [["finish"]]),
        ({"since": NOW + 1, "until": NOW}, 0, [["finish"]]),
        ({"limit": 0}, 0, []),
    ],
)
async def test_eose_says_whether_that_was_all(
    client: Client, wanted: Filter, count: int, hints: list[object]
) -> None:
    for published in notes(ALICE, 10, step=1):
        await client.publish(published)

    assert await ends(client, wanted) == (count, ["EOSE", "s", *hints])


@pytest.mark.parametrize(
    ("filters", "hints"),
    [
        ([{"limit": 3}, {"ids": []}], [["finish"]]),
        ([{"limit": 2}, {"ids": []}], [["more"]]),
        ([{"limit": 2}, {}], [["more"]]),
        ([{"limit": 3}, {"limit": 0}], []),
        ([{"limit": 0}, {"ids": [], "limit": 0}], []),
    ],
)
async def test_all_filters_have_to_be_at_their_end(
    client: Client, filters: list[Filter], hints: list[object]
) -> None:
    for published in notes(ALICE, 3, step=1):
        await client.publish(published)

    _, eose = await ends(client, *filters)

    assert eose == ["EOSE", "s", *hints]


async def test_the_relays_own_cap_is_told_apart_from_the_end(clock: Clock) -> None:
    config = RelayConfig(limits=LimitsConfig(max_limit=4))
    async with House(clock, config) as house:
        client = await house.connect()
        for published in notes(ALICE, 5, step=1):
            await client.publish(published)

        assert await ends(client, {"limit": 500}) == (4, ["EOSE", "s", ["more"]])
        assert await ends(client, {"until": NOW}) == (1, ["EOSE", "s", ["finish"]])


async def test_all_events_of_the_boundary_second_are_sent(client: Client) -> None:
    for published in (*notes(ALICE, 5), note(ALICE, "older", created_at=NOW - 1)):
        await client.publish(published)

    assert await ends(client, {"limit": 2}) == (5, ["EOSE", "s", ["more"]])
    assert await ends(client, {"limit": 2, "since": NOW}) == (5, ["EOSE", "s", ["finish"]])


async def test_what_the_reader_may_not_see_is_neither_sent_nor_hinted_at(client: Client) -> None:
    await client.publish(note(ALICE, "public", created_at=NOW + 1))
    for created_at in (NOW, NOW + 1):
        await client.publish(event(ALICE, 1059, tags=[["p", BOB.public]], created_at=created_at))

    assert await ends(client, {"limit": 1}) == (1, ["EOSE", "s", ["finish"]])


async def test_live_events_follow_the_hint_as_ever(client: Client) -> None:
    await client.publish(note(ALICE, "old"))
    await ends(client, {"limit": 1})

    for published in notes(ALICE, 2, created_at=NOW):
        await client.publish(published)

    assert await client.live() == [("s", "note 0"), ("s", "note 1")]
