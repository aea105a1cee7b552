"""How a partner's events come in: by this relay's own rules."""

import shlex
import sys
from dataclasses import replace
from typing import Any

import pytest

from relay.engine.jobs import close
from relay.features.groups.vocabulary import CREATE_GROUP, PUT_USER
from relay.mirror.house import House, Partner
from relay.nostr.event import Event
from relay.nostr.reasons import Refusal
from relay.store.api import Outcome
from tests.events import ALICE, BOB, NOW, event, note
from tests.mirror.houses import KEY, held, house_of, keep

PARTNER = Partner("wss://elsewhere.example")
TRUSTED = Partner("wss://elsewhere.example", trusted=True)


async def fate(house: House, one: Event, partner: Partner = PARTNER) -> Outcome | str:
    (answer,) = await house.reception(partner).take([one], live=True)
    return str(answer) if isinstance(answer, Refusal) else answer


REFUSED: dict[str, tuple[Event, str]] = {
    "protected": (note(ALICE, tags=[["-"]]), "restricted: a protected event"),
    "expired": (note(ALICE, tags=[["expiration", "1"]]), "invalid: the event has expired"),
    "from the future": (note(ALICE, created_at=NOW + 10_000), "invalid: created_at"),
    "bare private message": (event(ALICE, 14), "blocked: kind 14"),
    "ephemeral": (event(ALICE, 20_001), "blocked: an ephemeral event"),
    "of the relay's own key": (note(KEY), "blocked: only this relay itself"),
    "another relay's groups": (event(BOB, 39_000, tags=[["d", "x"]]), "blocked: what another relay says"),
    "another relay's members": (event(BOB, 13_534), "blocked: what another relay says"),
    "management of an unknown group": (
        event(BOB, PUT_USER, tags=[["h", "x"], ["p", BOB.public]]),
        "blocked: there is no such group",
    ),
    "vanishing from elsewhere": (
        event(ALICE, 62, tags=[["relay", "wss://elsewhere.example"]]),
        "blocked: this request to vanish names other relays",
    ),
}


@pytest.mark.parametrize(("refused", "reason"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("partner", [PARTNER, TRUSTED], ids=["any partner", "a trusted one"])
async def test_what_this_relay_does_not_take_of_others(refused: Event, reason: str, partner: Partner) -> None:
    house = house_of()

    answer = await fate(house, refused, partner)

    assert isinstance(answer, str) and answer.startswith(reason), answer
    assert await held(house) == set()


@pytest.mark.parametrize(
    ("settings", "one"),
    [
        ({"limits": {"max_age_seconds": 3_600}}, note(ALICE, created_at=NOW - 7_200)),
        ({"limits": {"min_pow_difficulty": 64}}, note(ALICE)),
        ({"members": {"enabled": True, "write": True}}, note(ALICE)),
        ({}, event(ALICE, 1018, tags=[["e", "ab" * 32], ["response", "a"]], created_at=NOW - 7_200)),
    ],
    ids=["old", "without work", "of no member", "a late vote"],
)
async def test_only_a_trusted_partners_events_pass_by_windows_work_and_members(
    settings: Any, one: Event
) -> None:
    house = house_of(**settings)

    refused = await fate(house, one)

    assert isinstance(refused, str)
    assert await fate(house, one, TRUSTED) is Outcome.STORED


async def test_the_operators_choice_counts_as_a_proved_key() -> None:
    house = house_of(auth={"write": True})

    assert await fate(house, note(ALICE)) is Outcome.STORED


async def test_tombstones_hold() -> None:
    house = house_of()
    gone, vanished = note(ALICE, "gone"), note(BOB, "before", created_at=NOW - 1)
    await keep(
        house,
        [event(ALICE, 5, tags=[["e", gone.id]]), event(BOB, 62, tags=[["relay", "ALL_RELAYS"]])],
    )

    assert await fate(house, gone) is Outcome.DELETED
    assert await fate(house, vanished) is Outcome.DELETED
    assert await fate(house, note(BOB, "after", created_at=NOW + 1)) is Outcome.STORED


async def test_deletions_are_heeded() -> None:
    house = house_of()
    gone = note(ALICE, "gone")
    await keep(house, [gone])

    assert await fate(house, event(ALICE, 5, tags=[["e", gone.id]])) is Outcome.STORED

    assert gone.id not in await held(house)


async def test_nobody_takes_over_a_group_through_a_partner() -> None:
    house = house_of()
    await keep(house, [event(ALICE, CREATE_GROUP, tags=[["h", "square"]])])
    coup = event(BOB, PUT_USER, tags=[["h", "square"], ["p", BOB.public, "owner"]])

    for live in (False, True):
        (answer,) = await house.reception(TRUSTED).take([coup], live=live)
        assert str(answer) == "restricted: your role in this group does not allow this"


async def test_what_comes_late_is_stored_and_not_sent_to_subscribers() -> None:
    house = house_of()
    old, new = note(ALICE, "old"), note(ALICE, "new")

    await house.reception(PARTNER).take([old], live=False)
    await house.reception(PARTNER).take([new], live=True)

    head = await house.store.head()
    rows = [row async for page in house.store.log(after=0, upto=head, now=NOW) for row in page]  # type: ignore[arg-type]
    assert [row.id for row in rows] == [new.id]
    assert await held(house) == {old.id, new.id}


async def test_plugins_are_asked_and_told_who_sent_it() -> None:
    # Answers what it was told, in place of a reason.
    script = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    action = {"yes": "accept", "quiet": "shadowReject"}.get(asked["event"]["content"], "reject")
    told = f"{asked['sourceType']} {asked['sourceInfo']} {asked.get('authed')}"
    print(json.dumps({"id": asked["event"]["id"], "action": action, "msg": told}), flush=True)
"""
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(script)}"
    house = house_of(plugins={"write": {"command": command, "seconds": 60}})
    batch = [note(ALICE, "yes"), note(ALICE, "no"), note(ALICE, "no"), note(ALICE, "quiet")]
    try:
        fates = await house.reception(PARTNER).take(batch, live=True)

        told = "blocked: Stream wss://elsewhere.example None"
        dropped = "blocked: the relay's policy drops this"
        assert list(map(str, fates)) == ["Outcome.STORED", told, told, dropped]
        assert await fate(house, note(BOB, "no"), TRUSTED) is Outcome.STORED
        once = replace(PARTNER, is_sync=True)
        assert await fate(house, batch[1], once) == "blocked: Sync wss://elsewhere.example None"
    finally:
        await close(house.relay.features)


async def test_each_event_of_a_batch_has_its_own_fate() -> None:
    house = house_of()
    batch = [note(ALICE), note(KEY), note(ALICE), event(BOB, 14), note(BOB)]

    fates = await house.reception(PARTNER).take(batch, live=False)

    assert [one if isinstance(one, Outcome) else "refused" for one in fates] == [
        Outcome.STORED,
        "refused",
        Outcome.DUPLICATE,
        "refused",
        Outcome.STORED,
    ]
