"""NIP-29 and NIP-62: who vanishes is in no group any more, and the groups stay what they were."""

import random
from collections.abc import AsyncIterator

import pytest

from relay.config import RelayConfig
from relay.nostr.event import Event, decode
from relay.nostr.keys import SecretKey
from tests.events import ALICE, BOB, CAROL, DAVE, NOW, Clock, event
from tests.features.groups import Group
from tests.features.managing import Office
from tests.features.test_nip29 import catch_up
from tests.features.test_nip29_imports import imported
from tests.net.house import RELAY_KEY, House

A, B, C, D = (key.public for key in (ALICE, BOB, CAROL, DAVE))
VANISHED_AT = NOW + 20


def vanish(key: SecretKey, at: int = VANISHED_AT) -> Event:
    return event(key, 62, created_at=at, tags=[["relay", "ALL_RELAYS"]])


@pytest.fixture
async def house(clock: Clock) -> AsyncIterator[House]:
    """A relay that Dave administers."""
    async with House(clock, RelayConfig(admins=(D,))) as running:
        yield running


@pytest.fixture
async def pizza(house: House, clock: Clock) -> Group:
    """Alice has created it, named it and made Bob its admin, who has put Carol in and Dave out."""
    group = Group(await house.connect())
    await group.do(ALICE, 9007)
    await group.do(ALICE, 9002, ["name", "Pizza"], ["restricted"], at=NOW + 1)
    await group.do(ALICE, 9000, ["p", B, "admin"], at=NOW + 2)
    await group.do(DAVE, 9021)
    await group.do(BOB, 9000, ["p", C], at=NOW + 4)
    await group.do(BOB, 9001, ["p", D], at=NOW + 5)
    await group.do(BOB, 9009, ["code", "bobs"], at=NOW + 6)
    await group.do(ALICE, 9010, ["e", "1" * 64], at=NOW + 7)
    clock.advance(VANISHED_AT - NOW)
    return group


async def backup_of(house: House) -> list[Event]:
    head = await house.store.head()
    now = house.clock()
    return [decode(json) async for page in house.store.dump(upto=head, now=now) for json in page]


async def test_who_vanishes_is_on_no_list(house: House, pizza: Group) -> None:
    assert await pizza.client.publish(vanish(BOB)) == (True, "")
    await catch_up(house)

    assert await pizza.members() == ["alice", "carol"]
    assert await pizza.roles() == {"alice": ["owner"]}


async def test_who_vanishes_has_no_rank_at_once(house: House, pizza: Group) -> None:
    await pizza.client.publish(vanish(BOB))

    later = VANISHED_AT + 1
    assert await pizza.refusal(BOB, 9, at=later) == "restricted: only members may write in this group"
    assert await pizza.refusal(BOB, 9000, ["p", D], at=later) == (
        "restricted: your role in this group does not allow this"
    )
    await catch_up(house)
    await pizza.do(BOB, 9021, at=later)
    assert await pizza.members() == ["alice", "bob", "carol"]
    assert await pizza.roles() == {"alice": ["owner"]}


async def test_invites_that_they_made_are_closed(house: House, pizza: Group) -> None:
    await pizza.client.publish(vanish(BOB))

    assert await pizza.refusal(DAVE, 9021, ["code", "bobs"], at=VANISHED_AT) == (
        "restricted: this invite is not known, or was used"
    )


async def test_nothing_that_the_relay_or_they_said_names_them(house: House, pizza: Group) -> None:
    await pizza.client.publish(vanish(BOB))
    await catch_up(house)

    named = [one for one in await backup_of(house) if one.pubkey == B or any(B in tag for tag in one.tags)]
    # What others have said of them is theirs.
    assert [(one.kind, one.pubkey) for one in named] == [(9000, A), (62, B)]


async def test_a_group_whose_people_vanish_is_restored_as_it_was(
    house: House, pizza: Group, clock: Clock
) -> None:
    await pizza.client.publish(vanish(ALICE))
    await pizza.client.publish(vanish(BOB))
    await catch_up(house)
    told = [await pizza.notice(kind) for kind in range(39000, 39006)]
    assert told[0] == [["name", "Pizza"], ["restricted"]]
    assert told[1] == []
    assert told[2] == [["p", C]]
    assert told[5] == [["e", "1" * 64]]
    backup = await backup_of(house)

    for seed in (0, 1):
        random.Random(seed).shuffle(backup)
        async with House(clock, house.config) as after:
            await imported(after, backup)
            await catch_up(after)
            restored = Group(await after.connect())
            assert [await restored.notice(kind) for kind in range(39000, 39006)] == told
            # Who was put out by somebody who vanished is still out.
            assert await restored.refusal(DAVE, 9021, at=VANISHED_AT + 1) == (
                "restricted: you were removed; ask one of the group's admins for an invite"
            )
            # The group goes on without its owner: an administrator of the relay names another.
            await restored.do(DAVE, 9000, ["p", C, "owner"], at=VANISHED_AT + 1)
            assert await restored.roles() == {"carol": ["owner"]}


@pytest.mark.parametrize("seed", range(3))
async def test_an_older_backup_brings_nobody_back_who_has_vanished(
    house: House, pizza: Group, clock: Clock, seed: int
) -> None:
    history = [*await backup_of(house), vanish(BOB)]
    random.Random(seed).shuffle(history)

    async with House(clock, house.config) as after:
        await imported(after, history)
        await catch_up(after)

        restored = Group(await after.connect())
        # Carol, whom Bob put in, is there if it came before he vanished.
        assert "bob" not in await restored.members()
        assert await restored.roles() == {"alice": ["owner"]}


async def test_what_a_banned_admin_decided_stays_and_is_told_by_the_relay(house: House, pizza: Group) -> None:
    office = Office(house)
    await office.call(DAVE, "banpubkey", B)
    for _ in range(2):
        await office.work()
    await catch_up(house)

    assert [(kind, who) for kind, who, _ in await pizza.history(9000) if who == "bob"] == []
    assert (9000, "relay", ["carol"]) in await pizza.history(9000)
    assert (9001, "relay", ["dave"]) in await pizza.history(9001)
    assert await pizza.members() == ["alice", "bob", "carol"]


async def test_a_request_that_names_a_group_is_followed_all_the_same(house: House, pizza: Group) -> None:
    stranger = event(DAVE, 62, created_at=VANISHED_AT, tags=[["relay", "ALL_RELAYS"], ["h", "pizza"]])

    assert await pizza.client.publish(stranger) == (True, "")


async def test_more_people_than_one_transaction_tells_are_all_told(house: House, clock: Clock) -> None:
    group = Group(await house.connect())
    await group.do(ALICE, 9007)
    await group.do(ALICE, 9000, ["p", B, "admin"])
    for first in range(0, 150, 50):
        people = [["p", f"{number:064x}"] for number in range(first, first + 50)]
        await group.do(BOB, 9000, *people, at=NOW + 1 + first)
    clock.advance(200)

    await group.client.publish(vanish(BOB, at=NOW + 200))
    await catch_up(house)

    found = await group.client.count({"kinds": [9000], "authors": [RELAY_KEY.public], "#h": ["pizza"]})
    assert found == 151
    assert len(await group.notice(39002) or ()) == 151
