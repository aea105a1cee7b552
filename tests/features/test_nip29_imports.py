"""NIP-29: groups that are restored, moved and forked by importing their events."""

import random
from collections.abc import Sequence

import pytest

from relay.nostr.event import Event, decode
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import Outcome
from tests.events import ALICE, BOB, CAROL, DAVE, NOW, Clock, author, event
from tests.features.groups import Group, events, sent
from tests.features.test_nip29 import catch_up
from tests.net.house import RELAY_KEY, House

A, B, C, D = (key.public for key in (ALICE, BOB, CAROL, DAVE))
FIRST_RELAY = author("the first relay")

HISTORY = (
    sent(ALICE, 9007, at=NOW - 90_000),
    sent(FIRST_RELAY, 9000, ["p", A, "owner"], at=NOW - 90_000),
    sent(ALICE, 9002, ["name", "Pizza"], ["private"], at=NOW - 89_999),
    sent(ALICE, 9009, ["code", "used"], at=NOW - 89_998),
    sent(ALICE, 9009, ["code", "open"], at=NOW - 89_998),
    sent(BOB, 9021, ["code", "used"], at=NOW - 89_997),
    sent(FIRST_RELAY, 9000, ["p", B], at=NOW - 89_997),
    sent(BOB, 9, content="hello", at=NOW - 89_996),
    sent(ALICE, 9000, ["p", B, "moderator"], ["p", C], ["p", D], at=NOW - 89_995),
    sent(CAROL, 9022, at=NOW - 89_994),
    sent(FIRST_RELAY, 9001, ["p", C], at=NOW - 89_994),
    sent(ALICE, 9001, ["p", D], at=NOW - 89_994),
    sent(ALICE, 9010, ["e", "1" * 64], at=NOW - 89_993),
)
"""What a group has left on another relay."""


async def imported(house: House, history: Sequence[Event]) -> list[Outcome | Refusal]:
    """Take events as an import does."""
    return await house.store.write([house.relay.admission.effects(one, live=False) for one in history])


@pytest.mark.parametrize("seed", [0, 1, 2])
async def test_a_group_is_what_its_history_says_in_whatever_order_it_comes(house: House, seed: int) -> None:
    history = list(HISTORY)
    if seed:
        random.Random(seed).shuffle(history)
        # But for who used which invite, which only the order tells.
        history.sort(key=lambda one: one.kind == 9021)

    assert await imported(house, history) == [Outcome.STORED] * len(HISTORY)
    await catch_up(house)

    alice = await house.connect()
    await alice.authenticate(ALICE, NOW)
    group = Group(alice)
    assert await group.notice(39000) == [["name", "Pizza"], ["private"]]
    assert await group.roles() == {"alice": ["owner"], "bob": ["moderator"]}
    assert await group.members() == ["alice", "bob"]
    assert await group.notice(39005) == [["e", "1" * 64]]
    assert await alice.find({"kinds": [9]}) == ["hello"]
    stranger = Group(await house.connect())
    assert await stranger.client.find({"kinds": [9]}) == []
    assert (await stranger.refusal(CAROL, 9021, ["code", "used"])).startswith("restricted: this invite")
    assert (await stranger.refusal(DAVE, 9021)).startswith("restricted: you were removed")
    await stranger.do(DAVE, 9021, ["code", "open"])
    assert await group.members() == ["alice", "bob", "dave"]
    hello = HISTORY[7]
    await group.do(BOB, 9, ["previous", hello.id[:8]], content="goes on")


async def test_what_another_relay_says_of_its_groups_is_left_out(house: House) -> None:
    said = event(FIRST_RELAY, 39000, tags=[["d", "pizza"]])

    assert await imported(house, [*HISTORY, said]) == [
        *[Outcome.STORED] * len(HISTORY),
        Refusal(Prefix.BLOCKED, "what another relay knows of its groups"),
    ]


async def test_a_group_that_lives_here_is_not_changed_by_imports(house: House) -> None:
    group = Group(await house.connect())
    await group.do(BOB, 9007)

    # Nor is its history, by which others know what it is.
    lives = Refusal(Prefix.BLOCKED, "the group lives here: imports do not change it")
    assert await imported(house, HISTORY) == [*[lives] * 7, Outcome.STORED, *[lives] * 5]
    await catch_up(house)

    assert await group.roles() == {"bob": ["owner"]}
    assert await group.notice(39000) == []
    assert await group.client.find({"kinds": [9]}) == ["hello"]


async def test_a_restored_group_that_was_changed_lives_here(house: House) -> None:
    await imported(house, HISTORY)
    await catch_up(house)
    group = Group(await house.connect())
    await group.do(ALICE, 9002, ["name", "Fork"])

    await imported(house, [sent(DAVE, 9000, ["p", D, "owner"])])

    assert await group.roles() == {"alice": ["owner"], "bob": ["moderator"]}


async def test_moderation_alone_makes_no_group(house: House) -> None:
    await imported(house, [sent(DAVE, 9000, ["p", D, "owner"], at=NOW - 10)])
    await catch_up(house)

    group = Group(await house.connect())
    assert await group.notice(39000) is None
    assert await group.refusal(DAVE, 9002) == "blocked: there is no such group on this relay"
    await group.do(ALICE, 9007)
    assert await group.roles() == {"alice": ["owner"]}


async def test_a_deleted_group_stays_deleted(house: House) -> None:
    await imported(house, [*HISTORY, sent(ALICE, 9008, at=NOW - 100)])
    await catch_up(house)

    group = Group(await house.connect())
    assert await group.notice(39000) is None
    assert await group.refusal(ALICE, 9) == "blocked: this group was deleted; its id is not used again"


async def test_nothing_of_a_deleted_group_comes_back(house: House) -> None:
    group = Group(await house.connect())
    await group.do(ALICE, 9007)
    await group.do(ALICE, 9002, ["private"])
    await group.do(ALICE, 9, content="secret")
    head = await house.store.head()
    backup = [decode(json) async for page in house.store.dump(upto=head, now=NOW) for json in page]
    await group.do(ALICE, 9008)
    for _ in range(2):
        await catch_up(house)

    deleted = Refusal(Prefix.BLOCKED, "this group was deleted; its id is not used again")
    spoken = [one for one in backup if any(tag[0] == "h" for tag in one.tags)]
    assert await imported(house, spoken) == [deleted] * len(spoken)

    assert await group.client.find({"#h": ["pizza"], "kinds": [9]}) == []


async def test_what_was_deleted_from_a_group_does_not_come_back(house: House) -> None:
    group = Group(await house.connect())
    await group.do(ALICE, 9007)
    rude = sent(BOB, 9, content="rude")
    await group.client.publish(rude)
    await group.do(ALICE, 9005, ["e", rude.id])

    assert await imported(house, [rude]) == [Refusal(Prefix.BLOCKED, "this event was deleted from its group")]


@pytest.mark.parametrize("is_first", [False, True])
async def test_deletions_from_a_group_are_restored_too(house: House, is_first: bool) -> None:
    hello, joined = HISTORY[7], HISTORY[5]
    deletion = sent(ALICE, 9005, ["e", hello.id], ["e", joined.id], ["e", "none"], at=NOW - 100)

    await imported(house, [deletion, *HISTORY] if is_first else [*HISTORY, deletion])

    alice = await house.connect()
    await alice.authenticate(ALICE, NOW)
    assert await alice.find({"kinds": [9]}) == []
    assert len(await events(alice, {"kinds": [9021]})) == (0 if is_first else 1)


async def test_subgroups_are_restored(house: House) -> None:
    def told(id_: str, kind: int, *tags: Sequence[str], at: int) -> Event:
        return sent(ALICE, kind, *tags, group=id_, at=NOW - 90_000 + at)

    await imported(
        house,
        [
            *(told(id_, 9007, at=0) for id_ in ("food", "drinks", "pizza", "pasta", "tea")),
            told("pizza", 9002, ["parent", "food"], at=1),
            told("pasta", 9002, ["parent", "food"], at=2),
            told("food", 9002, ["child", "pasta"], ["child", "pizza"], at=3),
            told("tea", 9002, ["parent", "drinks"], at=4),
            told("pizza", 9002, ["parent", "drinks"], at=5),
            told("drinks", 9008, at=6),
            told("pasta", 9002, ["parent", "nowhere"], at=7),
        ],
    )
    await catch_up(house)

    client = await house.connect()
    assert await Group(client, "food").notice(39000) == []
    assert await Group(client, "pizza").notice(39000) == []
    assert await Group(client, "tea").notice(39000) == []
    assert await Group(client, "pasta").notice(39000) == []


async def test_a_backup_restores_a_group_as_it_was(clock: Clock) -> None:
    async with House(clock) as before:
        group = Group(await before.connect())
        await group.do(ALICE, 9007)
        await group.do(BOB, 9021)
        await group.do(ALICE, 9000, ["p", B, "admin"])
        await group.do(ALICE, 9000, ["p", C])
        await group.do(BOB, 9001, ["p", C])
        await group.do(ALICE, 9002, ["name", "Pizza"])
        await group.do(ALICE, 9002, ["name", "Pizza Lovers"])
        await group.do(BOB, 9, content="hello")
        head = await before.store.head()
        backup = [decode(json) async for page in before.store.dump(upto=head, now=NOW) for json in page]
        told = [await group.notice(kind) for kind in range(39000, 39006)]

    async with House(clock) as after:
        assert await imported(after, backup) == [Outcome.STORED] * len(backup)
        restored = Group(await after.connect())
        assert [await restored.notice(kind) for kind in range(39000, 39006)] == told
        await catch_up(after)
        assert [await restored.notice(kind) for kind in range(39000, 39006)] == told
        assert len(await events(restored.client, {"kinds": [39000], "authors": [RELAY_KEY.public]})) == 1
        await restored.do(BOB, 9000, ["p", D])
        assert await restored.members() == ["alice", "bob", "dave"]
