"""How large an event may be."""

from collections.abc import AsyncIterator

import pytest

from relay.config import RelayConfig
from tests.events import ALICE, Clock, event, note
from tests.net.house import Client, House

CONFIG = RelayConfig.model_validate({"limits": {"max_event_tags": 3, "max_content_chars": 5}})


@pytest.fixture
async def client(clock: Clock) -> AsyncIterator[Client]:
    async with House(clock, CONFIG) as house:
        yield await house.connect()


async def test_an_event_at_both_limits_is_taken(client: Client) -> None:
    assert await client.publish(note(ALICE, "12345", tags=[["t", "x"]] * 3)) == (True, "")


async def test_more_tags_are_refused(client: Client) -> None:
    assert await client.publish(note(ALICE, tags=[[]] * 4)) == (False, "invalid: 4 tags, this relay takes 3")


async def test_longer_content_is_refused(client: Client) -> None:
    assert await client.publish(note(ALICE, "123456")) == (
        False,
        "invalid: content has 6 characters, this relay takes 5",
    )


async def test_content_is_counted_in_characters_not_bytes(client: Client) -> None:
    assert await client.publish(note(ALICE, "🦆" * 5)) == (True, "")
    assert (await client.publish(note(ALICE, "🦆" * 6)))[0] is False


@pytest.mark.parametrize("kind", [0, 20_001, 30_023])
async def test_the_limits_hold_for_every_kind(client: Client, kind: int) -> None:
    assert (await client.publish(event(ALICE, kind, "123456")))[0] is False


async def test_the_defaults_take_5000_tags(house: House) -> None:
    client = await house.connect()
    people = [["p", f"{n:064x}"] for n in range(2_000)]

    assert await client.publish(event(ALICE, 3, tags=people)) == (True, "")
    assert (await client.publish(note(ALICE, tags=[["t"]] * 5_001)))[1].startswith("invalid: 5001 tags")


async def test_a_kind_may_have_its_own_size(clock: Clock) -> None:
    shape = {
        "max_content_chars": ["30023=9", "*=5"],
        "max_tags": ["1=2"],
        "max_mentions": ["1=1"],
    }
    config = RelayConfig.model_validate({"policies": {"shape": shape}})
    article = event(ALICE, 30_023, "123456789", tags=[["d", "x"]])
    async with House(clock, config) as house:
        client = await house.connect()

        assert await client.publish(article) == (True, "")
        assert await client.publish(note(ALICE, "123456")) == (
            False,
            "invalid: content has 6 characters, this relay takes 5 of kind 1",
        )
        assert await client.publish(note(ALICE, tags=[["t", "x"]] * 3)) == (
            False,
            "invalid: 3 tags, this relay takes 2 of kind 1",
        )
        assert await client.publish(note(ALICE, tags=[["p", "a"], ["p", "b"]])) == (
            False,
            "invalid: 2 people are named, this relay takes 1 of kind 1",
        )
        assert await client.publish(note(ALICE, tags=[["p", "a"], ["p", "a"]])) == (True, "")
