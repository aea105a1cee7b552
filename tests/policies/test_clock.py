"""The window of created_at."""

import pytest

from relay.config import RelayConfig
from relay.engine.feature import Context
from relay.policies import clock as policy
from tests.events import ALICE, NOW, Clock, event, note
from tests.net.house import RELAY_KEY, Client, House, values

FUTURE = (False, "invalid: created_at is more than 900 seconds in the future")
TOO_OLD = (False, "invalid: created_at is more than 3600 seconds ago")
WITH_AGE = RelayConfig.model_validate(
    {"limits": {"max_age_seconds": 3600}, "trust_bridge_keys": [ALICE.public]}
)


async def test_an_event_from_900_seconds_ahead_is_taken(client: Client) -> None:
    assert await client.publish(note(ALICE, created_at=NOW + 900)) == (True, "")


@pytest.mark.parametrize("created_at", [NOW + 901, 2**32 - 1])
async def test_an_event_from_further_ahead_is_refused(client: Client, created_at: int) -> None:
    assert await client.publish(note(ALICE, created_at=created_at)) == FUTURE


async def test_the_window_moves_with_the_clock(client: Client, clock: Clock) -> None:
    published = note(ALICE, created_at=NOW + 901)
    await client.publish(published)

    clock.advance(1)

    assert await client.publish(published) == (True, "")


@pytest.mark.parametrize("created_at", [0, 1, NOW - 10**9])
async def test_any_age_is_welcome_unless_the_operator_says_otherwise(client: Client, created_at: int) -> None:
    assert await client.publish(note(ALICE, created_at=created_at)) == (True, "")


async def test_an_operator_may_limit_the_age(clock: Clock) -> None:
    async with House(clock, WITH_AGE) as house:
        client = await house.connect()

        assert await client.publish(note(ALICE, created_at=NOW - 3600)) == (True, "")
        assert await client.publish(note(ALICE, created_at=NOW - 3601)) == TOO_OLD


async def test_the_bridge_may_be_late_but_not_early(clock: Clock) -> None:
    async with House(clock, WITH_AGE) as house:
        bridge = await house.connect()
        await bridge.authenticate(ALICE, NOW)

        assert await bridge.publish(note(ALICE, created_at=NOW - 3601)) == (True, "")
        assert await bridge.publish(note(ALICE, created_at=NOW + 901)) == FUTURE


async def test_the_window_is_checked_before_the_id(client: Client) -> None:
    """What costs nothing comes first: a flood from the future is not even hashed."""
    future = note(ALICE, created_at=NOW + 901)
    client.send("EVENT", {**values(future), "id": "0" * 64})
    client.send("EVENT", values(note(ALICE, "after it")))

    first, second = await client.receive(), await client.receive()

    assert first == ["OK", "0" * 64, *FUTURE]
    assert second[2] is True


def test_a_limit_on_the_age_is_shown_where_there_is_one() -> None:
    context = Context(key=RELAY_KEY)

    assert policy.feature(RelayConfig(), context).limitation == {"created_at_upper_limit": 900}
    assert policy.feature(WITH_AGE, context).limitation == {
        "created_at_upper_limit": 900,
        "created_at_lower_limit": 3600,
    }


async def test_a_kind_may_have_its_own_window(clock: Clock) -> None:
    window = {"max_age_seconds": ["1=60"], "max_seconds_in_future": ["1=5", "20000-29999=0"]}
    config = RelayConfig.model_validate({"policies": {"window": window}})
    async with House(clock, config) as house:
        client = await house.connect()

        assert await client.publish(note(ALICE, created_at=NOW - 60)) == (True, "")
        assert await client.publish(note(ALICE, created_at=NOW - 61)) == (
            False,
            "invalid: created_at of kind 1 is more than 60 seconds ago",
        )
        assert await client.publish(note(ALICE, created_at=NOW + 6)) == (
            False,
            "invalid: created_at of kind 1 is more than 5 seconds in the future",
        )
        assert (await client.publish(event(ALICE, 20_001, created_at=NOW + 1)))[0] is False
        assert await client.publish(event(ALICE, 7, tags=[["e", "0" * 64]], created_at=NOW - 999)) == (
            True,
            "",
        )
