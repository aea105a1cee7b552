"""Rules of retention: what they cover, what they leave, and what they do not take again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from relay.assembly import relay_features, retention_rules
from relay.config import RelayConfig
from relay.engine.admission import Admission
from relay.engine.desk import Desk
from relay.engine.feature import Origin
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.policies.retention import carry_out, plan, room_of
from relay.store.api import Store
from relay.store.memory import MemoryStore
from relay.store.sqlite import SqliteStore
from tests.events import ALICE, BOB, CAROL, NOW, author, event, note, notes, write
from tests.store.reading import found, scan
from tests.store.writers import TINY

DAY = 86_400
RELAY = CAROL
"""Stands for the relay's own key."""


def config(*, relay: dict[str, Any] | None = None, **rules: Any) -> RelayConfig:
    """Return settings with the rules, by name."""
    return RelayConfig.model_validate({"retention": rules, **(relay or {})})


async def left_by(store: Store, settings: RelayConfig, *, turn: int | None = None) -> list[str]:
    """Carry the rules out; return what is left, newest first."""
    desk = Desk()
    desk.open(store)
    await carry_out(retention_rules(settings, RELAY, desk), store, NOW, turn=turn, rest=0)
    return await found(store)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def keep(store: Store, *events: Event) -> None:
    await store.write([write(one) for one in events])


async def test_what_is_older_than_its_rule_allows_goes(store: Store) -> None:
    await keep(store, *(note(ALICE, f"{days}", created_at=NOW - days * DAY) for days in range(5)))

    assert await left_by(store, config(notes={"kinds": [1], "max_age_seconds": 2 * DAY})) == ["0", "1", "2"]


async def test_of_a_number_the_newest_stay(store: Store) -> None:
    await keep(store, *notes(ALICE, 5, step=1), event(ALICE, 7, "like", created_at=NOW - 100))

    assert await left_by(store, config(notes={"kinds": [1], "max_events": 2})) == ["note 4", "note 3", "like"]
    assert await left_by(store, config(all={"max_events": 1})) == ["note 4"]
    assert await left_by(store, config(all={"max_events": 0})) == []


async def test_of_each_author_the_newest_stay(store: Store) -> None:
    await keep(store, *notes(ALICE, 4, step=1), *notes(BOB, 2, created_at=NOW - 50))

    left = await left_by(store, config(each={"kinds": [1], "max_events_per_author": 2}))

    assert sorted(left) == ["note 0", "note 1", "note 2", "note 3"]
    assert left[:2] == ["note 3", "note 2"]


async def test_of_a_size_the_newest_stay(store: Store) -> None:
    await keep(store, *notes(ALICE, 10, step=1))
    rows = await scan(store)
    room = sum(room_of(row) for row in rows[:3])

    assert await left_by(store, config(size={"kinds": [1], "max_bytes": room})) == [
        "note 9",
        "note 8",
        "note 7",
    ]


async def test_a_rule_covers_what_its_kinds_authors_and_tags_match(store: Store) -> None:
    await keep(
        store,
        note(ALICE, "covered", created_at=NOW - DAY, tags=[["t", "test"]]),
        note(ALICE, "covered too", created_at=NOW - DAY - 1, tags=[["t", "trial"]]),
        note(BOB, "another author", created_at=NOW - DAY - 2, tags=[["t", "test"]]),
        note(ALICE, "another tag", created_at=NOW - DAY - 3, tags=[["t", "kept"]]),
        event(ALICE, 7, "another kind", created_at=NOW - DAY - 4, tags=[["t", "test"]]),
    )
    rule = {"kinds": [1], "authors": [ALICE.public], "tags": ["t=test", "t=trial"], "max_age_seconds": 60}

    assert await left_by(store, config(tests=rule)) == ["another author", "another tag", "another kind"]


LASTING = [
    event(ALICE, kinds.PROFILE, "profile", created_at=NOW - 1),
    event(ALICE, 30_023, "article", created_at=NOW - 2, tags=[["d", "x"]]),
    event(ALICE, kinds.DELETION, "deletion", created_at=NOW - 3),
    event(ALICE, kinds.VANISH, "leave", created_at=NOW - 4),
    event(ALICE, kinds.POLL, "poll", created_at=NOW - 5),
    event(ALICE, kinds.VOTE, "vote", created_at=NOW - 6),
    event(ALICE, 9_000, "group", created_at=NOW - 7),
]


async def test_what_something_else_is_made_of_has_to_be_named(store: Store) -> None:
    await keep(store, *LASTING, note(ALICE, "note"))

    assert await left_by(store, config(all={"max_events": 0})) == [one.content for one in LASTING]
    assert "profile" not in await left_by(store, config(profiles={"kinds": [0], "max_events": 0}))


async def test_the_exempt_are_left_alone_and_not_counted(store: Store) -> None:
    await keep(
        store,
        note(ALICE, "admin's", created_at=NOW + 3),
        note(RELAY, "relay's", created_at=NOW + 2),
        note(BOB, "named", created_at=NOW + 1),
        *notes(author("somebody"), 2),
    )
    rule = {"kinds": [1], "max_events": 1, "exempt_authors": [BOB.public]}

    left = await left_by(store, config(relay={"admins": [ALICE.public]}, notes=rule))
    assert left[:3] == ["admin's", "relay's", "named"]
    assert len(left) == 4

    left = await left_by(
        store, config(relay={"admins": [ALICE.public]}, notes=rule | {"exempt_admins": False})
    )
    assert left == ["admin's", "named"]


async def test_many_authors_are_counted_in_turns(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.policies.retention._COUNTED_AUTHORS", 4)
    await keep(store, *notes(ALICE, 4, step=1), *notes(BOB, 4, step=1), *notes(CAROL, 4, step=1))
    rules = config(each={"kinds": [1], "max_events_per_author": 1, "exempt_admins": False})

    lengths = [len(await left_by(store, rules, turn=turn)) for turn in range(8)]

    assert lengths[0] > 3 or lengths[1] > 3
    assert lengths[-1] == 3


async def test_a_plan_removes_nothing(store: Store) -> None:
    await keep(store, *notes(ALICE, 5, step=1))
    rules = retention_rules(config(notes={"kinds": [1], "max_events": 2}), RELAY, Desk())

    planned = [
        (doomed.rule, [row.event().content for row in doomed.rows])
        async for doomed in plan(rules, store, NOW)
    ]

    assert planned == [("notes", ["note 2", "note 1", "note 0"])]
    assert len(await found(store)) == 5


async def test_the_sqlite_store_gives_the_same(tmp_path: Path) -> None:
    events = [
        note(key, f"{n}", created_at=NOW - n * 1_000, tags=[["t", "x"]])
        for key in (ALICE, BOB, CAROL)
        for n in range(200)
    ]
    rules = config(
        old={"kinds": [1], "max_age_seconds": 150_000, "exempt_admins": False},
        each={"max_events_per_author": 120, "exempt_admins": False},
        number={"tags": ["t=x"], "max_events": 200},
    )
    sqlite = await SqliteStore.open(tmp_path / "torv.sqlite3", tuning=TINY)
    memory = MemoryStore()
    try:
        for store in (memory, sqlite):
            await store.write([write(one) for one in events])

        left = await left_by(sqlite, rules)

        assert left == await left_by(memory, rules)
        assert len(left) == 320  # the relay's own 120, and 200
    finally:
        await sqlite.close()


def refusals(settings: RelayConfig, events: Sequence[Event], *, exempt: bool = False) -> list[str | None]:
    admission = Admission(relay_features(settings, RELAY))
    origin = Origin(address="192.0.2.1", url="", exempt=exempt)
    told = [admission.before_signature(one, origin, NOW) for one in events]
    return [None if refusal is None else str(refusal) for refusal in told]


def test_what_would_go_at_once_is_not_taken() -> None:
    settings = config(notes={"kinds": [1], "max_age_seconds": DAY, "exempt_authors": [BOB.public]})
    old = [
        note(ALICE, created_at=NOW - DAY - 1),
        note(ALICE, created_at=NOW - DAY),
        note(BOB, created_at=NOW - DAY - 1),
        event(ALICE, 7, created_at=NOW - DAY - 1),
    ]

    assert refusals(settings, old) == [
        "invalid: created_at is more than 86400 seconds ago: this relay keeps such events no longer",
        None,
        None,
        None,
    ]
    assert refusals(settings, old, exempt=True) == [None] * 4


def test_without_rules_nothing_is_asked_and_no_job_runs() -> None:
    feature = next(one for one in relay_features(RelayConfig(), RELAY) if one.title == "Retention")

    assert (feature.before_signature, feature.jobs) == ((), ())


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, "expected a bound"),
        ({"max_events": -1}, "greater than or equal to 0"),
        ({"max_events": 1, "tags": ["test"]}, "expected a letter, '=' and a value"),
        ({"max_events": 1, "authors": ["nobody"]}, "authors"),
    ],
)
def test_a_rule_with_a_mistake_is_told(rule: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        config(rule=rule)
