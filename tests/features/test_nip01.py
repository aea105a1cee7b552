"""NIP-01 from a client's side: what is kept, what replaces what, and what only passes by."""

import pytest

from relay.nostr.event import Event
from tests.events import ALICE, BOB, CAROL, NOW, event, note, notes
from tests.net.house import Client, House

DUPLICATE = (True, "duplicate: already have this event")
SUPERSEDED = (False, "duplicate: a newer version of this event is stored")


def by_id(*events: Event) -> list[Event]:
    return sorted(events, key=lambda one: one.id)


async def test_a_published_event_is_found_as_it_was(client: Client) -> None:
    published = note(ALICE, "hello\n\0", tags=[["t", "square"], [], ["e", "not hex"], [""]])

    assert await client.publish(published) == (True, "")

    answers = await client.request("REQ", "all", {})
    assert answers[0][2] == {
        "id": published.id,
        "pubkey": ALICE.public,
        "created_at": 1_700_000_000,
        "kind": 1,
        "tags": [["t", "square"], [], ["e", "not hex"], [""]],
        "content": "hello\n\0",
        "sig": published.sig,
    }
    assert answers[1] == ["EOSE", "all", ["finish"]]


async def test_a_duplicate_gets_true(client: Client) -> None:
    await client.publish(note(ALICE, "once"))

    assert await client.publish(note(ALICE, "once")) == DUPLICATE
    assert await client.find({}) == ["once"]


@pytest.mark.parametrize("kind", [0, 3, 10_000, 10_002, 19_999])
async def test_a_newer_replaceable_wins(client: Client, kind: int) -> None:
    older, newer = event(ALICE, kind, "older"), event(ALICE, kind, "newer", created_at=NOW + 1)

    assert await client.publish(older) == (True, "")
    assert await client.publish(newer) == (True, "")

    assert await client.find({}) == ["newer"]


@pytest.mark.parametrize("kind", [0, 10_002, 30_023])
async def test_an_older_version_is_refused(client: Client, kind: int) -> None:
    await client.publish(event(ALICE, kind, "newer", created_at=NOW + 1))

    assert await client.publish(event(ALICE, kind, "older")) == SUPERSEDED
    assert await client.find({}) == ["newer"]


@pytest.mark.parametrize("kind", [0, 10_002, 30_023])
async def test_of_versions_of_one_second_the_lowest_id_wins_in_either_order(
    house: House, client: Client, kind: int
) -> None:
    low, high = by_id(event(ALICE, kind, "a"), event(ALICE, kind, "b"))
    low_too, high_too = by_id(event(BOB, kind, "a"), event(BOB, kind, "b"))

    assert await client.publish(low) == (True, "")
    assert await client.publish(high) == SUPERSEDED
    assert await client.publish(high_too) == (True, "")
    assert await client.publish(low_too) == (True, "")

    assert sorted(await client.find({})) == sorted([low.content, low_too.content])


async def test_a_version_that_was_replaced_is_superseded_when_it_comes_again(client: Client) -> None:
    older = event(ALICE, 0, "older")
    await client.publish(older)
    await client.publish(event(ALICE, 0, "newer", created_at=NOW + 1))

    assert await client.publish(older) == SUPERSEDED


async def test_replaceable_events_of_several_authors_and_kinds_live_side_by_side(client: Client) -> None:
    for published in (event(ALICE, 0, "1"), event(BOB, 0, "2"), event(ALICE, 3, "3")):
        await client.publish(published)

    assert sorted(await client.find({})) == ["1", "2", "3"]


async def test_a_replaceable_kind_ignores_d_tags(client: Client) -> None:
    await client.publish(event(ALICE, 10_002, "older", tags=[["d", "x"]]))
    await client.publish(event(ALICE, 10_002, "newer", created_at=NOW + 1, tags=[["d", "y"]]))

    assert await client.find({}) == ["newer"]


async def test_addressable_events_compete_by_their_first_d_tag(client: Client) -> None:
    await client.publish(event(ALICE, 30_023, "other", tags=[["d", "y"], ["d", "x"]]))
    await client.publish(event(ALICE, 30_023, "older", tags=[["d", "x"]]))
    await client.publish(event(ALICE, 30_023, "newer", created_at=NOW + 1, tags=[["d", "x"], ["d", "y"]]))

    assert await client.find({}) == ["newer", "other"]


@pytest.mark.parametrize("tags", [[], [["d"]], [["d", ""]], [["d", "", "more"]]])
async def test_a_missing_d_counts_as_an_empty_one(client: Client, tags: list[list[str]]) -> None:
    await client.publish(event(ALICE, 30_023, "older", tags=[["d", ""]]))
    await client.publish(event(ALICE, 30_023, "newer", created_at=NOW + 1, tags=tags))

    assert await client.find({}) == ["newer"]


@pytest.mark.parametrize("kind", [1, 4_000, 45, 999, 9_999, 40_000, 65_535])
async def test_regular_and_unassigned_kinds_are_all_kept(client: Client, kind: int) -> None:
    await client.publish(event(ALICE, kind, "a"))
    await client.publish(event(ALICE, kind, "b", created_at=NOW + 1))

    assert await client.find({}) == ["b", "a"]


@pytest.mark.parametrize("kind", [20_000, 29_999])
async def test_ephemeral_events_pass_by_and_are_not_kept(house: House, client: Client, kind: int) -> None:
    listener = await house.connect()
    await listener.subscribe("live", {"kinds": [kind]})

    assert await client.publish(event(ALICE, kind, "psst")) == (True, "")

    assert await listener.live() == [("live", "psst")]
    assert await client.find({}) == []
    assert await house.store.head() == 0


async def test_an_ephemeral_event_that_nobody_hears_is_muted(house: House, client: Client) -> None:
    listener = await house.connect()
    await listener.subscribe("live", {"kinds": [20_001]}, {"kinds": [20_002], "authors": [BOB.public]})

    assert await client.publish(event(ALICE, 20_002)) == (
        False,
        "mute: no one was listening for this event",
    )


async def test_stored_events_come_newest_first_and_ties_by_lowest_id(client: Client) -> None:
    tied = by_id(*notes(ALICE, 5))
    for published in (
        *reversed(tied),
        note(BOB, "newest", created_at=NOW + 1),
        note(CAROL, "oldest", created_at=1),
    ):
        await client.publish(published)

    assert await client.find({}) == ["newest", *(one.content for one in tied), "oldest"]


async def test_an_event_that_meets_two_filters_comes_once_and_each_filter_has_its_limit(
    client: Client,
) -> None:
    for published in (*notes(ALICE, 4, step=1), note(BOB, "bob", created_at=NOW + 2)):
        await client.publish(published)

    found = await client.find(
        {"limit": 2}, {"authors": [ALICE.public], "limit": 3}, {"authors": [BOB.public]}
    )

    assert sorted(found) == ["bob", "note 1", "note 2", "note 3"]
    assert found[0] == "note 3"
    assert found[-1] == "note 1"


async def test_a_limit_holds_for_the_stored_part_only(house: House, client: Client) -> None:
    listener = await house.connect()
    for published in notes(ALICE, 3, step=1):
        await client.publish(published)

    assert await listener.subscribe("none", {"limit": 0}) == []
    assert await listener.subscribe("one", {"limit": 1}) == ["note 2"]
    await client.publish(note(BOB, "live"))
    await client.publish(note(BOB, "live too"))

    assert sorted(await listener.live()) == [
        ("none", "live"),
        ("none", "live too"),
        ("one", "live"),
        ("one", "live too"),
    ]


@pytest.mark.parametrize(
    "nothing",
    [{"ids": []}, {"authors": []}, {"kinds": []}, {"#t": []}, {"since": 2, "until": 1}, {"kinds": [65_536]}],
)
async def test_a_filter_that_can_match_nothing_ends_at_once_and_stays_open(
    house: House, client: Client, nothing: dict[str, object]
) -> None:
    await client.publish(note(ALICE, "stored"))

    assert await client.subscribe("nothing", nothing) == []
    await client.publish(note(ALICE, "live"))

    assert await client.heard() == []
    assert len(house.relay.index) == 1


async def test_since_and_until_are_inclusive(client: Client) -> None:
    for published in notes(ALICE, 5, step=1):
        await client.publish(published)

    assert await client.find({"since": NOW + 1, "until": NOW + 3}) == ["note 3", "note 2", "note 1"]


async def test_stored_events_come_before_eose_and_live_ones_after_it(house: House, client: Client) -> None:
    listener = await house.connect()
    await client.publish(note(ALICE, "stored"))

    assert await listener.subscribe("s", {}) == ["stored"]
    await client.publish(note(ALICE, "live"))

    assert await listener.live() == [("s", "live")]


async def test_a_live_event_comes_once_for_each_subscription(house: House, client: Client) -> None:
    listener = await house.connect()
    await listener.subscribe("a", {"kinds": [1]}, {"authors": [ALICE.public]})
    await listener.subscribe("b", {})

    await client.publish(note(ALICE, "live"))

    assert sorted(await listener.live()) == [("a", "live"), ("b", "live")]


async def test_a_duplicate_is_not_sent_again(house: House, client: Client) -> None:
    await client.publish(note(ALICE, "once"))
    listener = await house.connect()
    await listener.subscribe("s", {"limit": 0})

    await client.publish(note(ALICE, "once"))

    assert await listener.heard() == []


async def test_the_limits_stand_in_the_information_document(house: House) -> None:
    (feature,) = (one for one in house.relay.features if one.nip == 1)

    assert feature.limitation == {
        "max_message_length": 262_144,
        "max_subscriptions": 64,
        "max_limit": 500,
        "default_limit": 500,
        "max_subid_length": 64,
    }


async def test_a_filter_gets_500_stored_events_at_most(house: House, client: Client) -> None:
    await house.store.write([house.relay.admission.effects(one) for one in notes(ALICE, 501, step=-1)])

    assert len(await client.find({})) == 500
    assert len(await client.find({"limit": 1000})) == 500
    assert await client.count({}) == 501
