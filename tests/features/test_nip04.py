"""NIP-04: a direct message is for its author and its receivers."""

import pytest

from relay.nostr.keys import SecretKey
from tests.events import ALICE, BOB, CAROL, NOW, event, note
from tests.net.house import Client, House

MESSAGE = event(ALICE, 4, "secret", tags=[["p", BOB.public]])
UNVEILED = "auth-required: events of these kinds are shown only to the people they are meant for"


async def test_a_stranger_is_asked_to_authenticate(client: Client) -> None:
    assert await client.publish(MESSAGE) == (True, "")

    assert await client.refusal("REQ", {"kinds": [4]}) == UNVEILED
    assert await client.refusal("REQ", {"kinds": [4], "#p": [BOB.public]}) == UNVEILED
    assert await client.refusal("REQ", {"kinds": [4, 1059]}) == UNVEILED
    assert await client.refusal("REQ", {"kinds": [1]}, {"kinds": [4]}) == UNVEILED
    assert await client.refusal("COUNT", {"kinds": [4]}) == UNVEILED


async def test_a_mixed_question_is_veiled_silently(client: Client) -> None:
    await client.publish(MESSAGE)
    await client.publish(note(ALICE, "public"))

    assert await client.find({}) == ["public"]
    assert await client.find({"kinds": [1, 4]}) == ["public"]
    assert await client.find({"ids": [MESSAGE.id]}) == []
    assert await client.find({"authors": [ALICE.public]}) == ["public"]
    assert await client.find({"#p": [BOB.public]}) == []
    assert await client.count({}) == 1
    assert await client.count({"ids": [MESSAGE.id]}) == 0


@pytest.mark.parametrize("party", [ALICE, BOB])
async def test_author_and_receiver_see_it_through_every_door(
    house: House, client: Client, party: SecretKey
) -> None:
    reader = await house.connect()
    await reader.authenticate(party, NOW)
    assert await reader.subscribe("live", {"kinds": [4]}) == []

    await client.publish(MESSAGE)

    assert await reader.live() == [("live", "secret")]
    assert await reader.find({"kinds": [4]}) == ["secret"]
    assert await reader.find({"ids": [MESSAGE.id]}) == ["secret"]
    assert await reader.count({"kinds": [4]}) == 1


async def test_somebody_else_who_is_authenticated_sees_nothing(house: House, client: Client) -> None:
    await client.authenticate(CAROL, NOW)
    assert await client.subscribe("live", {"kinds": [4]}) == []

    await client.publish(MESSAGE)

    assert await client.heard() == []
    assert await client.find({"kinds": [4]}) == []
    assert await client.count({"kinds": [4]}) == 0


async def test_every_receiver_counts_and_odd_p_tags_do_not_matter(client: Client) -> None:
    await client.publish(
        event(ALICE, 4, "to both", tags=[["p"], ["p", "x"], ["p", BOB.public], ["p", CAROL.public]])
    )

    await client.authenticate(CAROL, NOW)

    assert await client.find({"kinds": [4]}) == ["to both"]


async def test_a_limit_counts_visible_messages(client: Client) -> None:
    await client.publish(event(ALICE, 4, "to bob", tags=[["p", BOB.public]]))
    for n in range(1, 4):
        await client.publish(event(ALICE, 4, f"to carol {n}", tags=[["p", CAROL.public]], created_at=NOW + n))

    await client.authenticate(BOB, NOW)

    assert await client.find({"limit": 1}) == ["to bob"]
