"""NIP-13: work is asked for where the operator wants it, and a lucky id is not enough."""

from itertools import count

import pytest

from relay.config import LimitsConfig, RelayConfig
from relay.nostr.event import Event
from relay.nostr.work import difficulty
from tests.events import ALICE, BOB, NOW, Clock, event, note
from tests.net.house import Client, House

LEAST = 6
DEMANDING = RelayConfig(limits=LimitsConfig(min_pow_difficulty=LEAST), trust_bridge_keys=(BOB.public,))


def mined(*, exactly: int, target: str | None, kind: int = 1) -> Event:
    """Return a note whose id has `exactly` so many leading zero bits; `target` is what it commits to."""
    for number in count():
        nonce = ["nonce", str(number)] if target is None else ["nonce", str(number), target]
        made = event(ALICE, kind, tags=[nonce])
        if difficulty(made.id) == exactly:
            return made
    raise AssertionError


async def test_a_relay_asks_for_no_work_unless_told_to(client: Client) -> None:
    assert await client.publish(note(ALICE)) == (True, "")


@pytest.mark.parametrize(("exactly", "target"), [(6, "6"), (7, "6"), (7, "7"), (6, "40")])
async def test_work_that_was_meant_is_accepted(clock: Clock, exactly: int, target: str) -> None:
    async with House(clock, DEMANDING) as house:
        client = await house.connect()

        assert await client.publish(mined(exactly=exactly, target=target)) == (True, "")


@pytest.mark.parametrize(
    ("exactly", "target", "reason"),
    [
        (5, "6", "pow: difficulty 5 is less than 6"),
        (0, None, "pow: difficulty 0 is less than 6"),
        (7, "5", "pow: the committed difficulty 5 is less than 6"),
        (6, None, "pow: the nonce tag must commit to a difficulty of 6 or more"),
        (6, "six", "pow: the nonce tag must commit to a difficulty of 6 or more"),
    ],
)
async def test_too_little_work_and_luck_are_refused(
    clock: Clock, exactly: int, target: str | None, reason: str
) -> None:
    async with House(clock, DEMANDING) as house:
        client = await house.connect()

        assert await client.publish(mined(exactly=exactly, target=target)) == (False, reason)
        assert await client.find({}) == []


async def test_an_id_that_only_claims_work_is_refused(clock: Clock) -> None:
    forged = mined(exactly=0, target="6")._replace(id=mined(exactly=6, target="6").id)
    async with House(clock, DEMANDING) as house:
        client = await house.connect()

        assert await client.publish(forged) == (False, "invalid: id is not the hash of the event")


async def test_a_gift_wrap_has_to_be_worked_for_too(clock: Clock) -> None:
    async with House(clock, DEMANDING) as house:
        client = await house.connect()

        accepted, reason = await client.publish(event(ALICE, 1059, tags=[["p", BOB.public]]))

    assert not accepted
    assert reason.startswith("pow: ")


async def test_proving_a_key_and_vanishing_cost_no_work(clock: Clock) -> None:
    async with House(clock, DEMANDING) as house:
        client = await house.connect()

        assert await client.authenticate(ALICE, NOW) == (True, "")
        assert await client.publish(event(ALICE, 62, tags=[["relay", "ALL_RELAYS"]])) == (True, "")


async def test_what_the_bridge_brings_costs_no_work(clock: Clock) -> None:
    async with House(clock, DEMANDING) as house:
        client = await house.connect()
        await client.authenticate(BOB, NOW)

        assert await client.publish(note(ALICE)) == (True, "")
