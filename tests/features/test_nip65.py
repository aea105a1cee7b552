"""NIP-65: relay lists are accepted from anybody."""

from tests.events import ALICE, BOB, NOW, event
from tests.net.house import Client, House


async def test_a_stranger_may_publish_anybodys_relay_list(client: Client) -> None:
    await client.authenticate(BOB, NOW)

    assert await client.publish(event(ALICE, 10_002, tags=[["r", "wss://relay.example.com"]])) == (True, "")


async def test_the_latest_relay_list_of_an_author_is_shown(house: House, client: Client) -> None:
    await client.publish(event(ALICE, 10_002, "new", created_at=NOW + 1))
    await client.publish(event(ALICE, 10_002, "old"))

    assert await client.find({"kinds": [10_002], "authors": [ALICE.public]}) == ["new"]
