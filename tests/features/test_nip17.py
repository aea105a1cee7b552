"""NIP-17: private messages come wrapped, or not at all."""

import pytest

from tests.events import ALICE, BOB, NOW, author, event
from tests.net.house import Client, House


@pytest.mark.parametrize("kind", [13, 14, 15])
async def test_a_bare_seal_or_message_is_refused(client: Client, kind: int) -> None:
    await client.authenticate(ALICE, NOW)

    assert await client.publish(event(ALICE, kind, "secret", tags=[["p", BOB.public]])) == (
        False,
        f"blocked: kind {kind} is private; send it in a gift wrap (kind 1059)",
    )
    assert await client.find({}) == []


async def test_a_bare_message_reaches_no_live_subscriber(house: House, client: Client) -> None:
    bob = await house.connect()
    await bob.authenticate(BOB, NOW)
    await bob.subscribe("s", {"kinds": [13, 14, 15]})

    await client.publish(event(ALICE, 14, "secret", tags=[["p", BOB.public]]))

    assert await bob.heard() == []


async def test_a_message_and_the_senders_copy_reach_each_their_reader(house: House, client: Client) -> None:
    for number, receiver in enumerate((ALICE, BOB)):
        wrap = event(author(f"key {number}"), 1059, f"for {number}", tags=[["p", receiver.public]])
        assert await client.publish(wrap) == (True, "")

    alice, bob = await house.connect(), await house.connect()
    await alice.authenticate(ALICE, NOW)
    await bob.authenticate(BOB, NOW)

    assert await alice.find({"kinds": [1059]}) == ["for 0"]
    assert await bob.find({"kinds": [1059]}) == ["for 1"]


@pytest.mark.parametrize("kind", [7, 10_050])
async def test_reactions_and_lists_of_inbox_relays_are_public_as_before(client: Client, kind: int) -> None:
    assert await client.publish(event(ALICE, kind, tags=[["relay", "wss://relay.test"]])) == (True, "")
