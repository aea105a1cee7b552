"""NIP-09: who may delete what, when, and what stays deleted."""

from collections.abc import Sequence

import pytest

from relay.nostr.event import Event
from relay.nostr.keys import SecretKey
from tests.events import ALICE, BOB, NOW, event, note
from tests.net.house import Client, House

DELETED = (False, "blocked: this event was deleted")
LATER = NOW + 10


def deletion(key: SecretKey, *tags: Sequence[str], created_at: int = LATER, content: str = "gone") -> Event:
    return event(key, 5, content, created_at=created_at, tags=tags)


async def test_an_e_tag_deletes_the_authors_own_event(client: Client) -> None:
    target = note(ALICE, "mistake")
    await client.publish(target)

    assert await client.publish(deletion(ALICE, ["e", target.id])) == (True, "")

    assert await client.find({}) == ["gone"]
    assert await client.count({"kinds": [1]}) == 0


async def test_what_was_deleted_stays_deleted(client: Client) -> None:
    target = note(ALICE, "mistake")
    await client.publish(target)
    await client.publish(deletion(ALICE, ["e", target.id]))

    assert await client.publish(target) == DELETED
    assert await client.find({"kinds": [1]}) == []


async def test_a_deletion_before_its_target_arrives_counts(client: Client) -> None:
    target = note(ALICE, "mistake")
    await client.publish(deletion(ALICE, ["e", target.id]))

    assert await client.publish(target) == DELETED


async def test_a_foreign_event_is_never_deleted_before_or_after_it_arrives(client: Client) -> None:
    here, coming = note(ALICE, "here"), note(ALICE, "coming")
    await client.publish(here)

    assert await client.publish(deletion(BOB, ["e", here.id], ["e", coming.id])) == (True, "")

    assert await client.publish(coming) == (True, "")
    assert sorted(await client.find({"kinds": [1]})) == ["coming", "here"]


async def test_the_own_targets_among_foreign_ones_are_deleted(client: Client) -> None:
    own, foreign = note(BOB, "own"), note(ALICE, "foreign")
    await client.publish(own)
    await client.publish(foreign)

    await client.publish(deletion(BOB, ["e", foreign.id], ["e", own.id]))

    assert await client.find({"kinds": [1]}) == ["foreign"]


async def test_an_e_tag_deletes_even_what_is_newer_than_the_request(client: Client) -> None:
    target = note(ALICE, "newer", created_at=LATER + 5)
    await client.publish(target)

    await client.publish(deletion(ALICE, ["e", target.id]))

    assert await client.find({"kinds": [1]}) == []


@pytest.mark.parametrize(
    "tag",
    [
        ["e"],
        ["e", ""],
        ["e", "short"],
        ["e", "A" * 64],
        ["e", " " + "a" * 63],
        ["a"],
        ["a", ""],
        ["a", "1"],
        ["a", ":"],
        ["a", "::"],
        ["a", f"0:{BOB.public}:"],
        ["a", f"30023:{BOB.public}:x"],
        ["a", f"30023:{ALICE.public}"],
        ["a", f"30023:{ALICE.public.upper()}:x"],
        ["a", f"030023:{ALICE.public}:x"],
        ["a", f"3_0023:{ALICE.public}:x"],
        ["a", f" 30023:{ALICE.public}:x"],
        ["a", f"30023:{ALICE.public}:X"],
        ["a", f"1:{ALICE.public}:"],
        ["a", f"99999:{ALICE.public}:x"],
        ["k", "1"],
        ["k", "30023"],
        ["E", "x"],
        [],
        [""],
    ],
)
async def test_malformed_and_foreign_tags_delete_nothing(client: Client, tag: list[str]) -> None:
    await client.publish(note(ALICE, "note"))
    await client.publish(event(ALICE, 30_023, "article", tags=[["d", "x"]]))
    await client.publish(event(ALICE, 0, "profile"))
    await client.publish(event(BOB, 0, "bob's profile"))

    assert await client.publish(deletion(ALICE, tag)) == (True, "")

    assert sorted(await client.find({"kinds": [0, 1, 30_023]})) == [
        "article",
        "bob's profile",
        "note",
        "profile",
    ]


async def test_a_request_without_tags_is_kept_and_deletes_nothing(client: Client) -> None:
    await client.publish(note(ALICE, "note"))

    assert await client.publish(deletion(ALICE)) == (True, "")

    assert await client.find({}) == ["gone", "note"]


@pytest.mark.parametrize("d", ["x", "", "a:b", "::", "30023:x:y", "é\n"])
async def test_an_a_tag_deletes_versions_up_to_the_request(client: Client, d: str) -> None:
    await client.publish(event(ALICE, 30_023, "article", created_at=LATER, tags=[["d", d]]))
    await client.publish(event(ALICE, 30_023, "other", tags=[["d", "another"]]))

    await client.publish(deletion(ALICE, ["a", f"30023:{ALICE.public}:{d}"]))

    assert await client.find({"kinds": [30_023]}) == ["other"]


async def test_a_newer_version_of_a_deleted_address_is_welcome(client: Client) -> None:
    newer = event(ALICE, 30_023, "newer", created_at=LATER + 1, tags=[["d", "x"]])
    newest = event(ALICE, 30_023, "newest", created_at=LATER + 2, tags=[["d", "x"]])
    await client.publish(newer)

    await client.publish(deletion(ALICE, ["a", f"30023:{ALICE.public}:x"]))

    assert await client.find({"kinds": [30_023]}) == ["newer"]
    assert await client.publish(newest) == (True, "")


async def test_older_versions_of_a_deleted_address_stay_out(client: Client) -> None:
    await client.publish(deletion(ALICE, ["a", f"30023:{ALICE.public}:x"]))

    for created_at in (NOW, LATER):
        older = event(ALICE, 30_023, "older", created_at=created_at, tags=[["d", "x"]])
        assert await client.publish(older) == DELETED


@pytest.mark.parametrize("kind", [0, 3, 10_002])
@pytest.mark.parametrize("ending", ["", ":", ":ignored"])
async def test_replaceable_events_are_deleted_by_address_and_stay_deleted(
    client: Client, kind: int, ending: str
) -> None:
    profile = event(ALICE, kind, "profile")
    await client.publish(profile)

    await client.publish(deletion(ALICE, ["a", f"{kind}:{ALICE.public}{ending}"]))

    assert await client.find({"kinds": [kind]}) == []
    assert await client.publish(profile) == DELETED
    assert await client.publish(event(ALICE, kind, "new", created_at=LATER + 1)) == (True, "")


async def test_deleting_the_newest_version_does_not_bring_the_older_back(client: Client) -> None:
    older, newer = event(ALICE, 0, "older"), event(ALICE, 0, "newer", created_at=NOW + 1)
    await client.publish(older)
    await client.publish(newer)

    await client.publish(deletion(ALICE, ["e", newer.id]))

    assert await client.find({"kinds": [0]}) == []


async def test_a_deletion_request_cannot_be_deleted(client: Client) -> None:
    target = note(ALICE, "mistake")
    request = deletion(ALICE, ["e", target.id])
    await client.publish(target)
    await client.publish(request)

    assert await client.publish(deletion(ALICE, ["e", request.id], created_at=LATER + 1, content="undo")) == (
        True,
        "",
    )

    assert await client.find({}) == ["undo", "gone"]
    assert await client.publish(target) == DELETED


async def test_a_deletion_request_cannot_be_deleted_before_it_arrives(client: Client) -> None:
    target = note(ALICE, "mistake")
    request = deletion(ALICE, ["e", target.id])
    await client.publish(deletion(ALICE, ["e", request.id], created_at=LATER + 1, content="undo"))

    assert await client.publish(request) == (True, "")
    assert await client.publish(target) == DELETED


async def test_a_deletion_request_that_names_itself_by_kind_5_address_does_nothing(client: Client) -> None:
    assert await client.publish(deletion(ALICE, ["a", f"5:{ALICE.public}:"])) == (True, "")

    assert await client.find({"kinds": [5]}) == ["gone"]


async def test_a_deletion_request_is_sent_live_like_any_event(house: House, client: Client) -> None:
    listener = await house.connect()
    await listener.subscribe("s", {"kinds": [5]})

    await client.publish(deletion(ALICE, ["e", "a" * 64]))

    assert await listener.live() == [("s", "gone")]


async def test_many_targets_are_deleted_at_once(client: Client) -> None:
    targets = [note(ALICE, str(n)) for n in range(50)]
    for target in targets:
        await client.publish(target)

    await client.publish(deletion(ALICE, *(["e", target.id] for target in targets * 2)))

    assert await client.find({"kinds": [1]}) == []
