"""The web of trust: from the roots' follow lists, exact at each refresh."""

from collections.abc import Sequence

import pytest

from relay.config import MembersConfig, RelayConfig
from relay.nostr.event import Event
from relay.nostr.keys import SecretKey
from tests.events import NOW, Clock, author, event, note
from tests.features.managing import Office
from tests.net.house import House
from tests.policies.test_lists import kept_up

ROOT, FRIEND, FRIENDS_FRIEND, STRANGER, ADMIN = map(author, ["root", "friend", "theirs", "stranger", "admin"])
RESTRICTED = (False, "restricted: only people in this relay's web of trust publish here")


def config(**trust: object) -> RelayConfig:
    return RelayConfig.model_validate(
        {"admins": [ADMIN.public], "policies": {"trust": {"roots": [ROOT.public], **trust}}}
    )


def follows(who: SecretKey, whom: Sequence[SecretKey], *, created_at: int = NOW) -> Event:
    return event(who, 3, tags=[["p", one.public] for one in whom], created_at=created_at)


async def with_follows(house: House) -> None:
    """The root follows its friend, and that one somebody else."""
    client = await house.connect()
    await client.authenticate(ADMIN, NOW)
    for one in (
        follows(ROOT, [FRIEND]),
        follows(FRIEND, [FRIENDS_FRIEND]),
        follows(FRIENDS_FRIEND, [STRANGER]),
    ):
        assert await client.publish(one) == (True, "")
    await kept_up(house)


@pytest.mark.parametrize(
    ("depth", "taken"),
    [
        (0, [True, False, False, False]),
        (1, [True, True, False, False]),
        (2, [True, True, True, False]),
        (3, [True, True, True, True]),
    ],
)
async def test_it_reaches_as_far_as_it_is_deep(clock: Clock, depth: int, taken: list[bool]) -> None:
    async with House(clock, config(depth=depth)) as house:
        await with_follows(house)
        client = await house.connect()

        said = [await client.publish(note(who)) for who in (ROOT, FRIEND, FRIENDS_FRIEND, STRANGER)]

    assert [accepted for accepted, _ in said] == taken
    assert {one for one in said if not one[0]} <= {RESTRICTED}


async def test_who_is_followed_no_more_is_out_at_the_next_refresh(clock: Clock) -> None:
    async with House(clock, config()) as house:
        await with_follows(house)
        client = await house.connect()
        assert await client.publish(follows(ROOT, [STRANGER], created_at=NOW + 1)) == (True, "")
        assert await client.publish(note(FRIEND, "still in")) == (True, "")

        await kept_up(house)

        assert await client.publish(note(FRIEND, "out")) == RESTRICTED
        assert await client.publish(note(STRANGER, "in")) == (True, "")


async def test_admins_pass_and_strangers_write_to_who_is_trusted(clock: Clock) -> None:
    async with House(clock, config()) as house:
        await with_follows(house)
        client = await house.connect()

        assert await client.publish(note(ADMIN)) == (True, "")
        assert await client.publish(event(STRANGER, 1059, tags=[["p", FRIEND.public]])) == (True, "")
        assert (
            await client.publish(event(STRANGER, 1059, tags=[["p", STRANGER.public], ["p", "?"]]))
            == RESTRICTED
        )


async def test_before_it_is_worked_out_nobody_is_told_no_for_good(clock: Clock) -> None:
    async with House(clock, config()) as house:
        client = await house.connect()

        assert await client.publish(note(FRIEND)) == (
            False,
            "error: the web of trust is being worked out; try again in a minute",
        )


async def test_it_is_bounded_and_the_nearest_stay(clock: Clock) -> None:
    async with House(clock, config(max_keys=2)) as house:
        await with_follows(house)
        client = await house.connect()

        assert await client.publish(note(FRIEND)) == (True, "")
        assert await client.publish(note(FRIENDS_FRIEND)) == RESTRICTED


async def test_a_member_passes_whom_nobody_follows(clock: Clock) -> None:
    settings = config().model_copy(update={"members": MembersConfig(enabled=True)})
    async with House(clock, settings) as house:
        await with_follows(house)
        await Office(house).call(ADMIN, "allowpubkey", STRANGER.public)
        client = await house.connect()

        assert await client.publish(note(STRANGER)) == (True, "")
