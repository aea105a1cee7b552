"""NIP-29: whatever is sent to groups, they end in a state that their history tells."""

import random
from collections import defaultdict
from typing import Any

import pytest

from relay.features.groups.vocabulary import ROLE_RANKS
from relay.nostr.event import Event, decode
from relay.store.api import Outcome
from tests.events import ALICE, BOB, CAROL, NOW, Clock, event
from tests.features.groups import events
from tests.features.test_nip29 import catch_up
from tests.net.house import RELAY_KEY, House

KEYS = (ALICE, BOB, CAROL)
GROUPS = ("pizza", "food")
ROLES = ("owner", "admin", "moderator", "gardener")

BAD_TAGS = ((), ("",), ("p",), ("p", "x"), ("code", ""), ("previous", "-1"), ("parent",), ("h", "food"))


def random_tags(chance: random.Random, kind: int) -> list[tuple[str, ...]]:
    """Return tags as this kind has them, mostly."""
    if chance.random() < 0.1:
        return [chance.choice(BAD_TAGS)]
    pick = chance.choice
    match kind:
        case 9000 | 9001:
            people = [pick(KEYS).public for _ in range(pick([1, 1, 2]))]
            return [("p", key, *chance.sample(ROLES, pick([0, 1, 1, 2]))) for key in people]
        case 9002:
            flags = [(flag,) for flag in ("private", "restricted", "hidden", "closed") if pick([0, 0, 1])]
            below = [("parent", pick(GROUPS))] if pick([0, 1]) else []
            return [*flags, *below, *(("child", group) for group in GROUPS if pick([0, 0, 1]))]
        case 9009 | 9021:
            return [("code", pick(["sesame", "other"]))] if pick([0, 1]) or kind == 9009 else []
        case 9005 | 9010:
            return [("e", pick(["1", "2"]) * 64)]
    return []


def random_life(seed: int) -> list[Event]:
    """Return what is sent to two groups, in the order in which it arrives; most of it is in order."""
    chance = random.Random(seed)
    said = [event(ALICE, 9007, created_at=NOW, tags=[["h", group]]) for group in GROUPS]
    for _ in range(80):
        kind = chance.choice([9, 39000, 9000, 9000, 9000, 9001, 9002, 9002, 9005, 9009, 9010, 9021, 9022])
        if chance.random() < 0.01:
            kind = 9008
        key = chance.choice([ALICE, ALICE, ALICE, *KEYS])
        tags = [("h", chance.choice(GROUPS)), *random_tags(chance, kind)]
        said.append(event(key, kind, created_at=NOW + chance.randrange(-3, 4), tags=tags))
    return said


Notices = dict[tuple[int, str], list[list[str]]]


async def notices(house: House) -> Notices:
    """Return the tags of what the relay says, by kind and group, sorted; as its store has it."""
    head = await house.store.head()
    stored = [decode(json) async for page in house.store.dump(upto=head, now=NOW) for json in page]
    return {
        (one.kind, one.tags[0][1]): sorted(map(list, one.tags[1:])) for one in stored if one.kind >= 39000
    }


def told_by_history(history: list[Event]) -> tuple[dict[str, set[str]], dict[str, dict[str, list[str]]]]:
    """Return members and ranks by group, as a client gathers them: of each key the latest change counts."""
    members: defaultdict[str, set[str]] = defaultdict(set)
    ranks: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
    for one in sorted(history, key=lambda one: one.created_at):
        group = next(tag[1] for tag in one.tags if tag[0] == "h")
        for tag in one.tags:
            if tag[0] == "p" and one.kind in (9000, 9001):
                members[group].discard(tag[1])
                ranks[group].pop(tag[1], None)
                if one.kind == 9000:
                    members[group].add(tag[1])
                    if any(role in ROLE_RANKS for role in tag[2:]):
                        ranks[group][tag[1]] = list(dict.fromkeys(tag[2:]))
    return members, ranks


@pytest.mark.parametrize("seed", range(15))
async def test_members_and_roles_are_what_the_events_tell_by_their_times(seed: int) -> None:
    clock = Clock()
    async with House(clock) as house:
        client = await house.connect()
        for one in random_life(seed):
            accepted, reason = await client.publish(one)
            assert accepted or ": " in reason, reason
        await catch_up(house)
        head = await house.store.head()
        stored = [decode(json) async for page in house.store.dump(upto=head, now=NOW) for json in page]
        deleted = {tag[1] for one in stored if one.kind == 9008 for tag in one.tags if tag[0] == "h"}
        members, ranks = told_by_history([one for one in stored if one.kind in (9000, 9001)])
        found = await notices(house)

        for group in GROUPS:
            if group in deleted:
                assert all(of != group for _, of in found)
                continue
            assert [tag[1] for tag in found[39002, group]] == sorted(members[group])
            assert found[39001, group] == sorted(["p", key, *roles] for key, roles in ranks[group].items())
            parents = [tag[1] for tag in found[39000, group] if tag[0] == "parent"]
            for parent in parents:
                assert ["child", group] in found[39000, parent]
        assert all(one.pubkey == RELAY_KEY.public for one in stored if one.kind >= 39000)
        # Nobody sees more than the relay stores, whatever became of the groups.
        shown: list[dict[str, Any]] = await events(client, {"kinds": [39002]})
        assert len(shown) <= len(GROUPS)


@pytest.mark.parametrize("seed", range(15))
async def test_a_backup_gives_the_same_groups(seed: int) -> None:
    async with House(Clock()) as house:
        client = await house.connect()
        for one in random_life(seed):
            await client.publish(one)
        await catch_up(house)
        await catch_up(house)
        before = await notices(house)
        head = await house.store.head()
        backup = [decode(json) async for page in house.store.dump(upto=head, now=NOW) for json in page]

    async with House(Clock()) as house:
        writes = [house.relay.admission.effects(one, live=False) for one in backup]
        assert await house.store.write(writes) == [Outcome.STORED] * len(backup)
        await catch_up(house)
        await catch_up(house)
        assert await notices(house) == before
