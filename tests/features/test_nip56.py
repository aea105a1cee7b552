"""NIP-56: reports of trusted people join a queue, and nothing happens by itself."""

from collections.abc import AsyncIterator

import pytest

from relay.config import RelayConfig
from tests.events import ALICE, BOB, CAROL, DAVE, Clock, event, note
from tests.features.managing import Office
from tests.net.house import House

A, B, C, D = (key.public for key in (ALICE, BOB, CAROL, DAVE))
QUEUE = "listeventsneedingmoderation"
STAFF = {
    "admins": [A],
    "moderation": {"keys": [B], "roles": ["moderator"]},
    "members": {"enabled": True},
}
BAD = note(DAVE, "bad")
REPORT = [["e", BAD.id, "illegal"], ["p", D]]


@pytest.fixture
async def office(clock: Clock) -> AsyncIterator[Office]:
    """A relay that Alice administers and Bob moderates, with a note of Dave's."""
    async with House(clock, RelayConfig.model_validate(STAFF)) as house:
        client = await house.connect()
        assert await client.publish(BAD) == (True, "")
        yield Office(house)


async def report(office: Office, *reports: object) -> None:
    client = await office.house.connect()
    for one in reports:
        assert await client.publish(one) == (True, "")  # type: ignore[arg-type]


async def test_a_moderators_report_joins_the_queue_and_hides_nothing(office: Office) -> None:
    await report(office, event(BOB, 1984, "He's insulting the king!", tags=REPORT))
    assert await office.call(ALICE, QUEUE) == [
        {"id": BAD.id, "reason": "illegal: He's insulting the king!"},
    ]
    client = await office.house.connect()
    assert await client.find({"ids": [BAD.id]}) == ["bad"]


async def test_other_peoples_reports_are_kept_and_no_more(office: Office) -> None:
    await report(office, event(CAROL, 1984, "spam!", tags=REPORT))
    assert await office.call(ALICE, QUEUE) == []
    client = await office.house.connect()
    assert await client.find({"kinds": [1984]}) == ["spam!"]


async def test_who_holds_a_role_is_trusted_while_he_does(office: Office) -> None:
    await office.call(ALICE, "createrole", "moderator")
    await office.call(ALICE, "allowpubkey", C)
    await report(office, event(CAROL, 1984, "before", tags=REPORT))
    await office.call(ALICE, "assignrole", C, "moderator")
    await report(office, event(CAROL, 1984, "while", tags=REPORT))
    await office.call(ALICE, "unassignrole", C, "moderator")
    await report(office, event(CAROL, 1984, "after", tags=REPORT))
    assert await office.call(BOB, QUEUE) == [{"id": BAD.id, "reason": "illegal: while"}]


async def test_several_reports_of_one_event_are_one_entry(office: Office) -> None:
    one = event(BOB, 1984, tags=[["e", BAD.id, "spam"]])
    other = event(ALICE, 1984, "rude", tags=[["e", BAD.id]])
    await report(office, one, other)
    (entry,) = await office.call(ALICE, QUEUE)
    assert entry["id"] == BAD.id
    assert sorted(entry["reason"].split("; ")) == ["other: rude", "spam"]


async def test_a_report_of_a_person_stands_for_itself(office: Office) -> None:
    told = event(BOB, 1984, "Not him.", tags=[["p", D, "impersonation"]])
    await report(office, told)
    assert await office.call(ALICE, QUEUE) == [
        {"id": told.id, "reason": f"key {D} impersonation: Not him."},
    ]


async def test_an_event_that_was_decided_about_leaves_the_queue_for_good(office: Office) -> None:
    other = note(DAVE, "other")
    tags = [*REPORT, ["e", other.id, "spam"]]
    await report(office, event(BOB, 1984, "first", tags=tags))
    assert len(await office.call(ALICE, QUEUE)) == 2
    await office.call(BOB, "allowevent", BAD.id)
    await office.call(BOB, "banevent", other.id)
    assert await office.call(ALICE, QUEUE) == []
    await report(office, event(BOB, 1984, "again", tags=tags))
    assert await office.call(ALICE, QUEUE) == []


async def test_a_report_that_is_withdrawn_leaves_the_queue(office: Office) -> None:
    told = event(BOB, 1984, "mistaken", tags=REPORT)
    await report(office, told, event(BOB, 5, tags=[["e", told.id]]))
    assert await office.call(ALICE, QUEUE) == []


async def test_one_report_names_twenty_events_at_most(office: Office) -> None:
    tags = [["e", f"{n:064x}", "spam"] for n in range(25)] + [["e", "no id", "spam"], ["e"]]
    await report(office, event(BOB, 1984, tags=tags))
    assert len(await office.call(ALICE, QUEUE)) == 20


async def test_a_long_reason_is_cut(office: Office) -> None:
    await report(office, event(BOB, 1984, "x" * 1_000, tags=REPORT))
    (entry,) = await office.call(ALICE, QUEUE)
    assert len(entry["reason"]) == 300


async def test_where_nobody_is_trusted_there_is_no_queue(clock: Clock) -> None:
    async with House(clock) as house:
        client = await house.connect()
        assert await client.publish(event(BOB, 1984, tags=REPORT)) == (True, "")
        assert 56 not in [feature.nip for feature in house.relay.features]
