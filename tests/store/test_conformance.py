"""What every store does: one table of behaviours, run on each backend."""

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from itertools import pairwise

import pytest

from relay.nostr import kinds
from relay.nostr.event import MAX_CREATED_AT, Event, EventId, decode, encode
from relay.nostr.filter import MAX_TIME, Filter
from relay.nostr.keys import SecretKey
from relay.nostr.tags import Address
from relay.store.api import Removal, RemoveAddress, RemoveEvent, Seq, Store, Veil, Write
from tests.events import ALICE, BOB, CAROL, DAVE, NOW, author, event, note, notes, pubkey, write
from tests.store.reading import (
    EVERYTHING,
    Ear,
    by_id,
    contents,
    count,
    dump,
    found,
    keep,
    listed,
    log,
    logged,
    named,
    scan,
)

ARTICLE = 30_023
FAR = 4_000_000_000
"""An expiry the wall clock does not reach while a test runs: some stores sweep by themselves."""

FLOOD = tuple(by_id(notes(ALICE, 1_200)))
"""Notes of one second, more than fit on any page; by ascending id."""
HISTORY = tuple(reversed(notes(BOB, 1_200, step=1)))
"""Notes of one author, one every second; newest first."""


def profile(content: str, *, created_at: int = NOW, key: SecretKey = ALICE) -> Event:
    return event(key, kinds.PROFILE, content, created_at=created_at)


def article(d: str, content: str, *, created_at: int = NOW, key: SecretKey = ALICE) -> Event:
    return event(key, ARTICLE, content, created_at=created_at, tags=[["d", d]])


def bearer(*removals: Removal, text: str = "deletion") -> Write:
    """Return the Write of an event that carries removals; stores do not read its tags."""
    return write(event(DAVE, kinds.DELETION, text, created_at=NOW + 1_000), removals=removals)


def removal(target: Event, by: SecretKey = ALICE) -> RemoveEvent:
    return RemoveEvent(target.id, pubkey(by))


def only(
    *,
    ids: Iterable[str] | None = None,
    authors: Iterable[SecretKey] | None = None,
    kinds: Iterable[int] | None = None,
    since: int | None = None,
    until: int | None = None,
    limit: int | None = None,
    **tags: Iterable[str],
) -> Filter:
    """Return a filter; tags are given by their letter."""
    return Filter(
        ids=None if ids is None else frozenset(ids),
        authors=None if authors is None else frozenset(key.public for key in authors),
        kinds=None if kinds is None else frozenset(kinds),
        tags={letter: frozenset(values) for letter, values in tags.items()},
        since=since,
        until=until,
        limit=limit,
    )


# Writing


async def test_a_new_store_is_empty(store: Store) -> None:
    assert await store.head() == 0
    assert await scan(store) == []
    assert await log(store) == []
    assert await count(store, EVERYTHING) == 0


async def test_a_stored_event_is_found_with_its_json_and_time(store: Store) -> None:
    hello = note(ALICE, "hello")

    assert await keep(store, write(hello)) == ["STORED"]

    (row,) = await scan(store)
    assert row.id == hello.id
    assert row.created_at == NOW
    assert row.json == encode(hello)
    assert row.event() == hello
    assert row.seq == await store.head()


async def test_outcomes_come_in_the_order_of_the_batch(store: Store) -> None:
    first, second = profile("first", created_at=NOW), profile("second", created_at=NOW + 1)

    outcomes = await keep(
        store, write(second), write(note(BOB, "hi")), write(first), write(second), write(note(BOB, "ho"))
    )

    assert outcomes == ["STORED", "STORED", "SUPERSEDED", "DUPLICATE", "STORED"]


async def test_an_empty_batch_has_no_outcomes(store: Store) -> None:
    assert await keep(store) == []
    assert await store.head() == 0


async def test_a_second_copy_is_a_duplicate(store: Store) -> None:
    hello = note(ALICE, "hello")

    assert await keep(store, write(hello)) == ["STORED"]
    assert await keep(store, write(hello)) == ["DUPLICATE"]
    assert await found(store) == ["hello"]


async def test_a_second_copy_in_one_batch_is_a_duplicate(store: Store) -> None:
    hello = note(ALICE, "hello")

    assert await keep(store, write(hello), write(hello), write(hello)) == ["STORED", "DUPLICATE", "DUPLICATE"]
    assert await found(store) == ["hello"]
    assert await count(store, EVERYTHING) == 1


async def test_of_two_signatures_of_one_event_the_first_is_kept(store: Store) -> None:
    hello = note(ALICE, "hello")
    resigned = hello._replace(sig="00" * 64)

    assert await keep(store, write(hello), write(resigned)) == ["STORED", "DUPLICATE"]
    assert await keep(store, write(resigned)) == ["DUPLICATE"]
    assert [row.event().sig for row in await scan(store)] == [hello.sig]


async def test_batches_written_at_once_all_take_effect(store: Store) -> None:
    batches = [
        [write(one) for one in (note(ALICE, f"{n}", created_at=NOW + n), note(BOB, "all"))] for n in range(40)
    ]

    outcomes = await asyncio.gather(*(store.write(batch) for batch in batches))

    assert [named(outcome[0]) for outcome in outcomes] == ["STORED"] * 40
    assert sorted(named(outcome[1]) for outcome in outcomes) == ["DUPLICATE"] * 39 + ["STORED"]
    assert await found(store, only(authors=[ALICE])) == [str(n) for n in reversed(range(40))]
    assert await count(store, EVERYTHING) == 41


async def test_batches_take_effect_in_the_order_they_were_begun(store: Store) -> None:
    versions = [profile(f"{n}", created_at=NOW + n) for n in range(20)]

    outcomes = await asyncio.gather(*(store.write([write(version)]) for version in reversed(versions)))

    assert [named(outcome) for (outcome,) in outcomes] == ["STORED"] + ["SUPERSEDED"] * 19


async def test_a_large_batch_is_stored_whole(store: Store) -> None:
    outcomes = await keep(store, *map(write, FLOOD), *map(write, HISTORY))

    assert outcomes == ["STORED"] * 2_400
    assert await count(store, EVERYTHING) == 2_400


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a\0b",
        "😀 𝒯orv \U0010ffff",
        "".join(map(chr, range(0x20))),
        '\x7f\u2028\u2029/"\\<>\ufffe',
        "é" * 70_000,
    ],
    ids=["empty", "NUL", "non-BMP", "controls", "oddities", "long"],
)
async def test_content_comes_back_byte_for_byte(store: Store, content: str) -> None:
    odd = note(ALICE, content, tags=[["t", content], [content, "x"]])
    await keep(store, write(odd))

    (row,) = await scan(store, only(t=[content]))
    assert row.json == encode(odd)
    assert await count(store, only(t=[content])) == 1


async def test_odd_tags_are_kept(store: Store) -> None:
    odd = note(ALICE, "odd", tags=[[], [""], ["", ""], ["e"], ["e", ""], ["p", "not hex"], ["ab", "c"]])
    await keep(store, write(odd))

    assert [row.event().tags for row in await scan(store)] == [odd.tags]


async def test_the_first_and_the_last_second_and_kind_are_kept(store: Store) -> None:
    oldest = event(ALICE, 1, "oldest", created_at=0)
    newest = event(ALICE, 65_535, "newest", created_at=MAX_CREATED_AT)

    assert await keep(store, write(oldest), write(newest)) == ["STORED", "STORED"]

    assert await found(store) == ["newest", "oldest"]
    assert await found(store, only(kinds=[65_535])) == ["newest"]
    assert await found(store, only(since=0, until=0)) == ["oldest"]
    assert await found(store, only(since=MAX_CREATED_AT)) == ["newest"]


async def test_known_names_the_ids_that_are_stored(store: Store) -> None:
    kept, replaced, removed = note(ALICE, "kept"), profile("replaced"), note(ALICE, "removed")
    newer = profile("newer", created_at=NOW + 1)
    await keep(store, write(kept), write(replaced), write(removed))
    await keep(store, write(newer), bearer(removal(removed)))
    never = EventId("0" * 64)

    assert await store.known([kept.id, replaced.id, removed.id, newer.id, never, kept.id]) == {
        kept.id,
        newer.id,
    }
    assert await store.known([]) == set()


async def test_known_takes_more_ids_than_one_statement_could(store: Store) -> None:
    await keep(store, *map(write, FLOOD))

    absent = [EventId(f"{n:064x}") for n in range(2_000)]

    assert await store.known([*absent, *(one.id for one in FLOOD)]) == {one.id for one in FLOOD}


# Replacing


async def test_a_newer_version_replaces_the_older(store: Store) -> None:
    await keep(store, write(profile("old")))

    assert await keep(store, write(profile("new", created_at=NOW + 1))) == ["STORED"]
    assert await found(store) == ["new"]
    assert await logged(store) == ["new"]
    assert await count(store, EVERYTHING) == 1


async def test_an_older_version_is_superseded(store: Store) -> None:
    await keep(store, write(profile("new")))

    assert await keep(store, write(profile("old", created_at=NOW - 1))) == ["SUPERSEDED"]
    assert await found(store) == ["new"]
    assert await count(store, EVERYTHING) == 1


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "two batches"])
@pytest.mark.parametrize("lowest_first", [True, False])
async def test_at_equal_time_the_lowest_id_stays(store: Store, lowest_first: bool, together: bool) -> None:
    low, high = by_id([profile("one"), profile("two")])
    arriving = [write(low), write(high)] if lowest_first else [write(high), write(low)]

    if together:
        outcomes = await keep(store, *arriving)
    else:
        outcomes = [*await keep(store, arriving[0]), *await keep(store, arriving[1])]

    assert outcomes == ["STORED", "SUPERSEDED" if lowest_first else "STORED"]
    assert await found(store) == [low.content]


async def test_of_many_versions_in_one_batch_the_newest_stays(store: Store) -> None:
    versions = [profile(f"{n}", created_at=NOW + n) for n in (3, 1, 7, 5, 7, 9, 2)]

    outcomes = await keep(store, *map(write, versions))

    assert outcomes == ["STORED", "SUPERSEDED", "STORED", "SUPERSEDED", "DUPLICATE", "STORED", "SUPERSEDED"]
    assert await found(store) == ["9"]
    assert await logged(store) == ["9"]
    assert await count(store, EVERYTHING) == 1


async def test_every_address_has_its_own_holder(store: Store) -> None:
    await keep(
        store,
        write(article("a", "a1")),
        write(article("b", "b1", created_at=NOW - 1)),
        write(article("a:b", "colon", created_at=NOW - 2)),
        write(article("a", "bob's", created_at=NOW - 3, key=BOB)),
        write(profile("profile", created_at=NOW - 4)),
        write(event(ALICE, 30_024, "draft", created_at=NOW - 5, tags=[["d", "a"]])),
        write(article("", "unnamed", created_at=NOW - 6)),
        write(article("A", "capital", created_at=NOW - 7)),
    )

    assert await keep(store, write(article("a", "a2", created_at=NOW + 1))) == ["STORED"]
    assert await found(store) == ["a2", "b1", "colon", "bob's", "profile", "draft", "unnamed", "capital"]


async def test_a_replaced_version_may_not_come_back(store: Store) -> None:
    old, new = profile("old"), profile("new", created_at=NOW + 1)
    await keep(store, write(old), write(new))

    assert await keep(store, write(old)) == ["SUPERSEDED"]
    assert await found(store) == ["new"]


async def test_a_replaced_version_with_many_tags_is_gone_from_all_answers(store: Store) -> None:
    followed = [f"{n:064x}" for n in range(400)]
    follows = [
        event(ALICE, kinds.FOLLOWS, f"{n}", created_at=NOW + n, tags=[["p", key] for key in followed[n:]])
        for n in range(4)
    ]

    for version in follows:
        await keep(store, write(version))

    assert await count(store, only(p=followed)) == 1
    assert await count(store, only(p=followed[:3])) == 0
    assert await found(store, only(p=followed[3:4])) == ["3"]
    assert await count(store, only(authors=[ALICE], kinds=[kinds.FOLLOWS])) == 1


# Removing


async def test_the_author_removes_a_stored_event(store: Store) -> None:
    unwanted = note(ALICE, "unwanted", tags=[["t", "x"]])
    await keep(store, write(unwanted), write(note(BOB, "other", tags=[["t", "x"]])))

    assert await keep(store, bearer(removal(unwanted))) == ["STORED"]
    assert await found(store) == ["deletion", "other"]
    assert await logged(store) == ["other", "deletion"]
    assert await store.known([unwanted.id]) == set()
    assert await count(store, only(t=["x"])) == 1
    assert await count(store, only(ids=[unwanted.id])) == 0
    assert await count(store, only(authors=[ALICE])) == 0


async def test_a_removed_event_may_not_come_back(store: Store) -> None:
    unwanted = note(ALICE, "unwanted")
    await keep(store, write(unwanted))
    await keep(store, bearer(removal(unwanted)))

    assert await keep(store, write(unwanted)) == ["DELETED"]
    assert await found(store) == ["deletion"]


async def test_a_removal_before_arrival_keeps_the_event_out(store: Store) -> None:
    unwanted = note(ALICE, "unwanted")
    await keep(store, bearer(removal(unwanted)))

    assert await keep(store, write(unwanted)) == ["DELETED"]
    assert await found(store) == ["deletion"]


async def test_a_foreign_removal_has_no_effect(store: Store) -> None:
    present, absent = note(ALICE, "present"), note(ALICE, "absent", created_at=NOW - 1)
    await keep(store, write(present))

    await keep(store, bearer(removal(present, by=BOB), removal(absent, by=BOB)))

    assert await keep(store, write(absent)) == ["STORED"]
    assert await found(store) == ["deletion", "present", "absent"]


async def test_a_foreign_removal_does_not_shadow_the_right_one(store: Store) -> None:
    present, absent = note(ALICE, "present"), note(ALICE, "absent")
    await keep(store, write(present))

    await keep(store, bearer(*(removal(one, by) for one in (present, absent) for by in (BOB, ALICE, CAROL))))

    assert await keep(store, write(absent), write(present)) == ["DELETED", "DELETED"]
    assert await found(store) == ["deletion"]


async def test_owners_other_than_the_author_remove(store: Store) -> None:
    owners = (pubkey(BOB), pubkey(CAROL))
    gifts = [event(ALICE, kinds.GIFT_WRAP, name) for name in ("bob removes", "carol removes", "alice tries")]
    await keep(store, *(write(gift, owners=owners) for gift in gifts))

    await keep(store, bearer(removal(gifts[0], BOB), removal(gifts[1], CAROL), removal(gifts[2], ALICE)))

    assert await found(store, only(kinds=[kinds.GIFT_WRAP])) == ["alice tries"]


async def test_owners_other_than_the_author_remove_before_arrival(store: Store) -> None:
    gift, kept = event(ALICE, kinds.GIFT_WRAP, "gift"), event(ALICE, kinds.GIFT_WRAP, "kept")
    await keep(store, bearer(removal(gift, by=BOB), removal(kept, by=ALICE)))

    assert await keep(store, write(gift, owners=(pubkey(CAROL), pubkey(BOB)))) == ["DELETED"]
    assert await keep(store, write(kept, owners=(pubkey(BOB),))) == ["STORED"]


async def test_an_event_without_owners_cannot_be_removed(store: Store) -> None:
    early, late = note(ALICE, "early"), note(ALICE, "late", created_at=NOW - 1)
    await keep(store, write(early, owners=()))

    await keep(store, bearer(removal(early), removal(late)))

    assert await keep(store, write(late, owners=())) == ["STORED"]
    assert await found(store) == ["deletion", "early", "late"]


async def test_a_removal_takes_effect_within_its_batch(store: Store) -> None:
    before, after, foreign = note(ALICE, "before"), note(ALICE, "after"), note(ALICE, "foreign")

    outcomes = await keep(
        store,
        write(before),
        write(foreign),
        bearer(removal(before), removal(after), removal(foreign, by=BOB)),
        write(after),
        write(before),
    )

    assert outcomes == ["STORED", "STORED", "STORED", "DELETED", "DELETED"]
    assert await found(store) == ["deletion", "foreign"]
    assert await count(store, only(authors=[ALICE])) == 1


async def test_removals_of_a_duplicate_take_effect(store: Store) -> None:
    present, absent = note(ALICE, "present"), note(ALICE, "absent")
    await keep(store, write(present), bearer())

    assert await keep(store, bearer(removal(present), removal(absent))) == ["DUPLICATE"]

    assert await keep(store, write(absent)) == ["DELETED"]
    assert await found(store) == ["deletion"]


async def test_removals_of_a_superseded_event_have_no_effect(store: Store) -> None:
    present, absent = note(ALICE, "present", created_at=NOW - 1), note(ALICE, "absent", created_at=NOW - 2)
    await keep(store, write(present), write(profile("new")))

    old = write(profile("old", created_at=NOW - 1), removals=(removal(present), removal(absent)))

    assert await keep(store, old) == ["SUPERSEDED"]
    assert await keep(store, write(absent)) == ["STORED"]
    assert await found(store) == ["new", "present", "absent"]


async def test_removals_of_a_deleted_event_have_no_effect(store: Store) -> None:
    present, unwanted = note(ALICE, "present"), note(BOB, "unwanted")
    await keep(store, write(present), bearer(removal(unwanted, by=BOB)))

    assert await keep(store, write(unwanted, removals=(removal(present),))) == ["DELETED"]
    assert await found(store) == ["deletion", "present"]


async def test_removing_the_newest_version_does_not_bring_back_an_older(store: Store) -> None:
    old, new = profile("old"), profile("new", created_at=NOW + 1)
    await keep(store, write(old))
    await keep(store, write(new))

    await keep(store, bearer(removal(new)))

    assert await found(store) == ["deletion"]
    assert await store.known([old.id, new.id]) == set()
    assert await keep(store, write(profile("newest", created_at=NOW + 2))) == ["STORED"]
    assert await found(store, only(kinds=[kinds.PROFILE])) == ["newest"]


async def test_a_removed_version_is_deleted_rather_than_superseded(store: Store) -> None:
    old, new = profile("old"), profile("new", created_at=NOW + 1)
    await keep(store, write(old), bearer(removal(old)), write(new))

    assert await keep(store, write(old)) == ["DELETED"]


async def test_an_address_is_removed_up_to_its_bound(store: Store) -> None:
    address = article("a", "").address
    assert address is not None
    await keep(store, write(article("a", "at the bound")), write(article("b", "other d")))
    await keep(store, write(article("a", "bob's", key=BOB, created_at=NOW - 1)))

    await keep(store, bearer(RemoveAddress(address, NOW)))

    assert await found(store) == ["deletion", "other d", "bob's"]
    assert await count(store, only(kinds=[ARTICLE])) == 2


async def test_a_version_newer_than_the_bound_stays(store: Store) -> None:
    address = Address(kinds.PROFILE, ALICE.public, "")
    await keep(store, write(profile("newer", created_at=NOW + 1)))

    await keep(store, bearer(RemoveAddress(address, NOW)))

    assert await found(store) == ["deletion", "newer"]
    assert await keep(store, write(profile("old"))) == ["DELETED"]
    assert await keep(store, write(profile("newest", created_at=NOW + 2))) == ["STORED"]


async def test_an_address_removed_before_arrival_keeps_old_versions_out(store: Store) -> None:
    await keep(store, bearer(RemoveAddress(Address(kinds.PROFILE, ALICE.public, ""), NOW)))

    assert await keep(store, write(profile("older", created_at=NOW - 9))) == ["DELETED"]
    assert await keep(store, write(profile("at the bound"))) == ["DELETED"]
    assert await keep(store, write(profile("newer", created_at=NOW + 1))) == ["STORED"]
    assert await keep(store, write(profile("bob's", key=BOB))) == ["STORED"]
    assert await found(store) == ["deletion", "newer", "bob's"]


async def test_versions_replaced_before_the_removal_stay_out(store: Store) -> None:
    old, new = profile("old"), profile("new", created_at=NOW + 1)
    await keep(store, write(old))
    await keep(store, write(new))

    await keep(store, bearer(RemoveAddress(Address(kinds.PROFILE, ALICE.public, ""), NOW + 1)))

    assert await keep(store, write(old), write(new)) == ["DELETED", "DELETED"]
    assert await found(store) == ["deletion"]


async def test_an_earlier_bound_does_not_lower_a_later_one(store: Store) -> None:
    address = Address(kinds.PROFILE, ALICE.public, "")
    await keep(store, bearer(RemoveAddress(address, NOW), text="late"))
    await keep(store, bearer(RemoveAddress(address, NOW - 10), text="early"))

    assert await keep(store, write(profile("old"))) == ["DELETED"]


async def test_the_removal_of_an_address_takes_effect_within_its_batch(store: Store) -> None:
    address = Address(kinds.PROFILE, ALICE.public, "")

    outcomes = await keep(
        store,
        write(profile("before")),
        bearer(RemoveAddress(address, NOW)),
        write(profile("old", created_at=NOW - 1)),
        write(profile("newer", created_at=NOW + 1)),
    )

    assert outcomes == ["STORED", "STORED", "DELETED", "STORED"]
    assert await found(store) == ["deletion", "newer"]


# Expiring


async def test_an_event_is_hidden_from_the_second_it_expires(store: Store) -> None:
    await keep(
        store, write(note(ALICE, "fleeting", tags=[["t", "x"]]), expires_at=FAR), write(note(BOB, "lasting"))
    )
    everything = [EVERYTHING, only(t=["x"]), only(authors=[ALICE]), only(kinds=[1]), only(kinds=[1], t=["x"])]

    assert sorted(await found(store, now=FAR - 1)) == ["fleeting", "lasting"]
    assert await logged(store, now=FAR - 1) == ["fleeting", "lasting"]
    assert [await count(store, one, now=FAR - 1) for one in everything] == [2, 1, 1, 2, 1]
    assert await found(store, now=FAR) == ["lasting"]
    assert await logged(store, now=FAR) == ["lasting"]
    assert [await count(store, one, now=FAR) for one in everything] == [1, 0, 0, 1, 0]
    assert await count(store, *everything, now=FAR) == 1


async def test_expired_events_do_not_use_up_the_limit(store: Store) -> None:
    await keep(
        store, *(write(one, expires_at=FAR) for one in FLOOD[:300]), write(note(BOB, "x", created_at=1))
    )

    assert await found(store, only(limit=1), now=FAR) == ["x"]


async def test_sweep_removes_what_has_expired_and_says_how_many(store: Store) -> None:
    first, second, lasting = (note(ALICE, name) for name in ("first", "second", "lasting"))
    await keep(store, write(first, expires_at=FAR), write(second, expires_at=FAR + 1), write(lasting))

    assert await store.sweep(FAR - 1) == 0
    assert await store.sweep(FAR) == 1
    assert await store.sweep(FAR) == 0

    assert await store.known([first.id, second.id, lasting.id]) == {second.id, lasting.id}
    assert await count(store, EVERYTHING, now=NOW) == 2
    assert sorted(await found(store, now=NOW)) == ["lasting", "second"]
    assert await count(store, EVERYTHING, now=FAR + 1) == 1


async def test_sweep_removes_more_than_one_slice_holds(store: Store) -> None:
    await keep(store, *(write(one, expires_at=FAR) for one in FLOOD), write(note(BOB, "lasting")))

    assert await store.sweep(FAR) == 1_200

    assert await found(store) == ["lasting"]
    assert await count(store, EVERYTHING) == 1


async def test_the_operator_removes_events_of_anybody(store: Store) -> None:
    kept, mine, unowned = note(ALICE, "kept"), note(ALICE, "mine"), note(BOB, "unowned")
    final = event(CAROL, kinds.DELETION, "final")
    await keep(store, write(kept), write(mine), write(unowned, owners=()), write(final, is_final=True))

    assert await store.remove([mine.id, unowned.id, final.id, mine.id, note(DAVE, "unknown").id]) == 3
    assert await store.remove([mine.id]) == 0

    assert await found(store) == ["kept"]
    assert await count(store, EVERYTHING) == 1
    assert await store.known([kept.id, mine.id, unowned.id, final.id]) == {kept.id}


async def test_what_the_operator_removed_may_come_again_unless_it_is_barred(store: Store) -> None:
    again, barred = note(ALICE, "again"), note(ALICE, "barred")
    final = event(CAROL, kinds.DELETION, "final")
    await keep(store, write(again), write(barred), write(final, is_final=True))

    await store.remove([again.id])
    await store.remove([barred.id, final.id], barred=True)

    outcomes = await keep(store, write(again), write(barred), write(final, is_final=True))
    assert outcomes == ["STORED", "DELETED", "DELETED"]
    assert await found(store) == ["again"]


async def test_an_event_may_be_barred_before_it_comes(store: Store) -> None:
    unwelcome = note(ALICE, "unwelcome")

    assert await store.remove([unwelcome.id], barred=True) == 0
    assert await store.remove([unwelcome.id], barred=True) == 0

    assert await keep(store, write(unwelcome)) == ["DELETED"]


async def test_a_removed_holder_leaves_its_address_to_older_versions(store: Store) -> None:
    older, newer = profile("older", created_at=NOW), profile("newer", created_at=NOW + 1)
    await keep(store, write(newer))

    await store.remove([newer.id])

    assert await keep(store, write(older)) == ["STORED"]
    assert await keep(store, write(newer)) == ["STORED"]
    assert await found(store) == ["newer"]


async def test_the_operator_removes_more_than_one_slice_holds(store: Store) -> None:
    await keep(store, *(write(one) for one in FLOOD), write(note(BOB, "lasting")))

    assert await store.remove([one.id for one in FLOOD]) == 1_200

    assert await found(store) == ["lasting"]
    assert await count(store, EVERYTHING) == 1


async def test_a_swept_event_may_come_back(store: Store) -> None:
    fleeting = note(ALICE, "fleeting")
    await keep(store, write(fleeting, expires_at=FAR))
    await store.sweep(FAR)
    head = await store.head()

    assert await keep(store, write(fleeting, expires_at=FAR + 9)) == ["STORED"]

    assert await count(store, EVERYTHING) == 1
    (row,) = await scan(store)
    assert row.seq > head


@pytest.mark.parametrize("swept", [False, True])
async def test_an_expired_version_does_not_bring_back_an_older(store: Store, swept: bool) -> None:
    await keep(store, write(profile("old")))
    await keep(store, write(profile("new", created_at=NOW + 1), expires_at=FAR))

    if swept:
        assert await store.sweep(FAR) == 1

    assert await found(store, now=FAR) == []
    assert await count(store, EVERYTHING, now=FAR) == 0
    assert await keep(store, write(profile("newest", created_at=NOW + 2))) == ["STORED"]
    assert await found(store, now=FAR) == ["newest"]


async def test_a_replaced_or_removed_event_is_not_swept_as_well(store: Store) -> None:
    gone = note(ALICE, "gone")
    await keep(store, write(profile("old"), expires_at=FAR), write(gone, expires_at=FAR))
    await keep(store, write(profile("new", created_at=NOW + 1)), bearer(removal(gone)))

    assert await store.sweep(FAR) == 0
    assert await count(store, EVERYTHING, now=FAR) == 2
    assert await count(store, EVERYTHING, now=NOW) == 2


# The log


async def test_seq_grows_in_the_order_of_commits(store: Store) -> None:
    heads = [await store.head()]
    for n in range(5):
        await keep(
            store, write(note(ALICE, f"{n}", created_at=NOW - n)), write(note(BOB, f"{n}", created_at=n))
        )
        heads.append(await store.head())

    assert all(earlier < later for earlier, later in pairwise(heads))
    rows = await log(store)
    assert [row.event().content for row in rows] == [*"0011223344"]
    assert all(earlier.seq < later.seq for earlier, later in pairwise(rows))
    for n, (after, upto) in enumerate(pairwise(heads)):
        assert await logged(store, after=after, upto=upto) == [f"{n}", f"{n}"]


async def test_nothing_new_appears_at_or_below_the_head(store: Store) -> None:
    await keep(store, write(note(ALICE, "before")))
    head = await store.head()

    await keep(store, write(note(ALICE, "after", created_at=NOW - 100)))

    assert await found(store, upto=head) == ["before"]
    assert await count(store, EVERYTHING, upto=head) == 1
    assert await logged(store, upto=head) == ["before"]
    assert await logged(store, after=head) == ["after"]


async def test_writes_that_store_nothing_do_not_move_the_head(store: Store) -> None:
    await keep(store, write(profile("new")))
    head = await store.head()

    await keep(store, write(profile("new")), write(profile("old", created_at=NOW - 1)))

    assert await store.head() == head


async def test_a_seq_is_not_used_again_after_its_event_was_removed(store: Store) -> None:
    newest = note(ALICE, "newest")
    await keep(store, bearer(text="bearer"), write(newest, expires_at=FAR))
    head = await store.head()

    await store.sweep(FAR)

    assert await store.head() == head
    await keep(store, write(note(ALICE, "next")))
    (row,) = await scan(store, only(authors=[ALICE]))
    assert row.seq > head


async def test_rows_that_are_not_live_move_the_head_and_stay_out_of_the_log(store: Store) -> None:
    await keep(store, write(note(ALICE, "imported"), live=False))
    imported = await store.head()
    await keep(store, write(note(BOB, "live", created_at=NOW - 1)), write(note(CAROL, "too"), live=False))

    assert 0 < imported < await store.head()
    assert await logged(store) == ["live"]
    assert await found(store, only(authors=[ALICE, BOB])) == ["imported", "live"]
    assert await count(store, EVERYTHING) == 3


async def test_the_log_is_read_in_pages_that_follow_each_other(store: Store) -> None:
    await keep(store, *map(write, HISTORY))

    assert await logged(store) == contents(HISTORY)
    assert await logged(store, after=(await log(store))[1_000].seq) == contents(HISTORY)[1_001:]


# Dumping


async def test_a_dump_goes_from_the_oldest_to_the_newest_and_by_ascending_id(store: Store) -> None:
    await keep(store, *map(write, FLOOD[1::2]), *map(write, HISTORY[:-1]))
    await keep(store, *map(write, reversed(FLOOD[::2])))

    assert await dump(store) == [encode(one) for one in [*FLOOD, *reversed(HISTORY[:-1])]]


async def test_a_dump_holds_every_visible_event_and_no_other(store: Store) -> None:
    removed, lasting = note(ALICE, "removed"), note(BOB, "lasting")
    await keep(store, write(removed), write(profile("old")), write(note(CAROL, "fleeting"), expires_at=FAR))
    await keep(store, write(profile("new", created_at=NOW + 1)), write(lasting, live=False))
    direct = event(CAROL, kinds.DIRECT_MESSAGE, "direct", created_at=NOW - 1)
    await keep(store, bearer(removal(removed)), write(direct))
    head = await store.head()
    await keep(store, write(note(DAVE, "too late", created_at=1)))

    dumped = [decode(json).content for json in await dump(store, upto=head, now=FAR)]

    assert dumped == ["direct", "lasting", "new", "deletion"]
    assert len(await dump(store, now=FAR - 1)) == 6


# Bells


async def test_bells_are_contiguous_and_say_what_the_log_says(store: Store) -> None:
    ear = Ear(store)

    for n in range(6):
        await keep(store, write(note(ALICE, f"{n}")), write(profile("it", created_at=NOW + n)))
        await keep(store, write(note(BOB, f"{n}"), live=False))
    bells = await ear.head(await store.head())

    assert bells[0].after == 0
    assert all(earlier.upto == later.after for earlier, later in pairwise(bells))
    assert all(bell.after < bell.upto for bell in bells)
    last = bells[-1]
    assert last.rows is not None
    assert list(last.rows) == await log(store, after=last.after, upto=last.upto)


async def test_a_bell_brings_the_live_rows_of_its_commit(store: Store) -> None:
    ear = Ear(store)
    removed = note(ALICE, "removed")

    await keep(
        store,
        write(note(ALICE, "live", created_at=NOW - 1)),
        write(note(BOB, "imported"), live=False),
        write(profile("old")),
        write(removed),
        write(profile("new", created_at=NOW + 1)),
        bearer(removal(removed)),
    )

    (bell,) = await ear.head(await store.head())
    assert bell.rows is not None
    assert [row.event().content for row in bell.rows] == ["live", "new", "deletion"]
    assert list(bell.rows) == await log(store)


async def test_every_listener_hears_the_bell(store: Store) -> None:
    ears = [Ear(store), Ear(store)]

    await keep(store, write(note(ALICE, "hello")))

    for ear in ears:
        (bell,) = await ear.head(await store.head())
        assert bell.rows is not None
        assert [row.event().content for row in bell.rows] == ["hello"]


# Ephemeral events


async def test_announced_events_reach_every_follower_and_are_not_stored(store: Store) -> None:
    ears = [Ear(store), Ear(store)]
    typing = [encode(event(ALICE, 20_001, f"typing {n}")) for n in range(3)]

    await store.announce(typing[:2])
    await store.announce([])
    await store.announce(typing[2:])

    for ear in ears:
        assert await ear.events(3) == typing
    assert await store.head() == 0
    assert await scan(store) == []


# Scanning: order and limits


async def test_a_scan_goes_from_the_newest_to_the_oldest(store: Store) -> None:
    times = [5, 1, 4, 2, 3]
    await keep(store, *(write(note(ALICE, f"{time}", created_at=time)) for time in times))

    assert await found(store) == ["5", "4", "3", "2", "1"]


async def test_events_of_one_second_come_by_ascending_id(store: Store) -> None:
    await keep(store, *map(write, reversed(FLOOD[:50])))

    assert await found(store) == contents(FLOOD[:50])


@pytest.mark.parametrize("limit", [1, 10, 499, 1_000, 1_199, 1_200, 5_000])
async def test_of_one_crowded_second_the_lowest_ids_fill_the_limit(store: Store, limit: int) -> None:
    # Arrival runs against the order of ids, so that neither seq nor its reverse gives the answer.
    await keep(store, *map(write, FLOOD[1::2]))
    await keep(store, *map(write, reversed(FLOOD[::2])))

    assert await found(store, only(kinds=[1], limit=limit)) == contents(FLOOD[:limit])
    assert await found(store, only(authors=[ALICE], limit=limit)) == contents(FLOOD[:limit])
    assert await found(store, only(limit=limit)) == contents(FLOOD[:limit])


@pytest.mark.parametrize("limit", [2, 3, 4, 5, 6])
async def test_a_limit_may_end_inside_a_second(store: Store, limit: int) -> None:
    newer, older = note(BOB, "newer", created_at=NOW + 1), note(BOB, "older", created_at=NOW - 1)
    tied = FLOOD[:4]
    await keep(store, write(older), *map(write, reversed(tied)), write(newer))

    assert await found(store, only(limit=limit)) == ["newer", *contents(tied), "older"][:limit]
    assert (
        await found(store, only(authors=[ALICE, BOB], limit=limit))
        == (["newer", *contents(tied), "older"][:limit])
    )


async def test_limit_zero_yields_nothing(store: Store) -> None:
    await keep(store, write(note(ALICE, "hello")))

    assert await found(store, only(limit=0)) == []


async def test_without_a_limit_everything_is_scanned(store: Store) -> None:
    await keep(store, *map(write, FLOOD), *map(write, HISTORY))
    # The first of HISTORY's seconds is FLOOD's.
    tail = by_id([*FLOOD, HISTORY[-1]])

    assert await found(store) == contents([*HISTORY[:-1], *tail])
    assert await found(store, only(kinds=[1])) == contents([*HISTORY[:-1], *tail])


async def test_a_scan_can_be_left_early(store: Store) -> None:
    await keep(store, *map(write, HISTORY))

    async with aclosing(store.scan(EVERYTHING, upto=await store.head(), now=NOW)) as pages:  # type: ignore[type-var]  # scans are generators
        async for page in pages:
            if page:
                assert page[0].event() == HISTORY[0]
                break

    assert await keep(store, write(note(ALICE, "still writable"))) == ["STORED"]


async def test_a_scan_does_not_show_what_was_removed_or_written_meanwhile(store: Store) -> None:
    await keep(store, *map(write, HISTORY))
    head = await store.head()
    seen: list[str] = []

    async for page in store.scan(EVERYTHING, upto=head, now=NOW):
        if page and not seen:
            await keep(
                store, write(note(CAROL, "meanwhile", created_at=NOW)), bearer(removal(HISTORY[-1], by=BOB))
            )
        seen += [row.event().content for row in page]

    assert seen == contents(HISTORY[:-1])


async def test_scans_at_once_do_not_disturb_each_other(store: Store) -> None:
    await keep(store, *map(write, HISTORY))

    answers = await asyncio.gather(
        *(found(store, only(limit=100, until=NOW + n * 100)) for n in range(1, 12))
    )

    assert answers == [contents(HISTORY)[1_199 - n * 100 :][:100] for n in range(1, 12)]


# Scanning: conditions

LETTERS = (
    note(ALICE, "a", created_at=9, tags=[["t", "red"], ["t", "blue"], ["p", BOB.public]]),
    note(ALICE, "b", created_at=8, tags=[["t", "red", "second"], ["T", "up"]]),
    note(BOB, "c", created_at=7, tags=[["t", "blue"], ["p", BOB.public], ["long", "green"]]),
    event(BOB, kinds.REACTION, "d", created_at=6, tags=[["e", "00" * 32], ["p", ALICE.public], ["t", "red"]]),
    event(CAROL, kinds.REACTION, "e", created_at=5, tags=[["e", "00" * 32], ["e", "11" * 32]]),
    event(CAROL, kinds.PROFILE, "f", created_at=4),
    event(ALICE, kinds.PROFILE, "g", created_at=3),
    event(ALICE, 10_002, "h", created_at=2, tags=[["r", "wss://example.com"]]),
    event(BOB, ARTICLE, "i", created_at=1, tags=[["d", "x"], ["t", "red"]]),
    event(BOB, ARTICLE, "j", created_at=0, tags=[["d", "y"], ["t", "x" * 3_000]]),
)
IDS = {letter.content: letter.id for letter in LETTERS}
NOBODY = [author(f"nobody {n}") for n in range(600)]

CONDITIONS = {
    "everything": (only(), "abcdefghij"),
    "one id": (only(ids=[IDS["d"]]), "d"),
    "ids": (only(ids=[IDS["j"], IDS["a"], "00" * 32, IDS["e"]]), "aej"),
    "ids of an author": (only(ids=[IDS["a"], IDS["c"]], authors=[BOB]), "c"),
    "ids of a kind": (only(ids=[IDS["a"], IDS["d"]], kinds=[7]), "d"),
    "ids with a tag": (only(ids=[IDS["a"], IDS["c"], IDS["d"]], t=["blue"]), "ac"),
    "ids in time": (only(ids=[IDS["a"], IDS["d"]], until=6), "d"),
    "ids, limited": (only(ids=IDS.values(), limit=3), "abc"),
    "one author": (only(authors=[ALICE]), "abgh"),
    "authors": (only(authors=[ALICE, CAROL]), "abefgh"),
    "an unknown author": (only(authors=[DAVE]), ""),
    "hundreds of authors": (only(authors=[*NOBODY, CAROL, BOB], limit=5), "cdefi"),
    "hundreds of authors, kinds": (only(authors=[*NOBODY, CAROL, BOB], kinds=[7, 1, 0], limit=5), "cdef"),
    "one kind": (only(kinds=[1]), "abc"),
    "kinds": (only(kinds=[0, 7]), "defg"),
    "many kinds": (only(kinds=range(0, 40_000, 1)), "abcdefghij"),
    "an unused kind": (only(kinds=[2]), ""),
    "author and many kinds": (only(authors=[ALICE], kinds=range(1, 3_000)), "ab"),
    "tag and many kinds": (only(t=["red"], kinds=range(2, 2_000)), "d"),
    "tag and many kinds in time": (only(t=["red"], kinds=range(0, 8), since=3), "abd"),
    "author and kind": (only(authors=[ALICE], kinds=[1]), "ab"),
    "authors and kinds": (only(authors=[ALICE, BOB], kinds=[1, 7]), "abcd"),
    "author and replaceable kind": (only(authors=[ALICE], kinds=[0]), "g"),
    "authors and replaceable kinds": (only(authors=[ALICE, CAROL], kinds=[0, 3, 10_002]), "fgh"),
    "authors and mixed kinds": (only(authors=[ALICE, CAROL], kinds=[0, 1]), "abfg"),
    "authors and replaceable kinds, limited": (
        only(authors=[ALICE, CAROL], kinds=[0, 10_002], limit=2),
        "fg",
    ),
    "authors and replaceable kinds in time": (only(authors=[ALICE, CAROL], kinds=[0], since=4), "f"),
    "author and addressable kind": (only(authors=[BOB], kinds=[ARTICLE]), "ij"),
    "an address": (only(authors=[BOB], kinds=[ARTICLE], d=["x"]), "i"),
    "one tag value": (only(t=["red"]), "abdi"),
    "tag values": (only(t=["red", "blue", "none"]), "abcdi"),
    "two tags": (only(t=["red"], p=[BOB.public, ALICE.public]), "ad"),
    "three tags": (only(t=["red"], p=[ALICE.public], e=["00" * 32]), "d"),
    "two tags that never meet": (only(t=["red"], r=["wss://example.com"]), ""),
    "a tag in another case": (only(T=["red"]), ""),
    "a capital tag": (only(T=["up"]), "b"),
    "a value in another case": (only(t=["Red"]), ""),
    "a second value": (only(t=["second"]), ""),
    "a value of a longer tag name": (only(l=["green"]), ""),
    "a long value": (only(t=["x" * 3_000]), "j"),
    "the beginning of a long value": (only(t=["x" * 2_999]), ""),
    "hundreds of values": (only(t=[*map(str, range(1_500)), "blue"]), "ac"),
    "tag and author": (only(t=["red"], authors=[BOB]), "di"),
    "tag and kind": (only(t=["red"], kinds=[1]), "ab"),
    "tag, author and kind": (only(t=["red"], authors=[ALICE, BOB], kinds=[7, ARTICLE]), "di"),
    "tag, author and kind, limited": (only(t=["red"], authors=[ALICE, BOB], kinds=[7, 1], limit=2), "ab"),
    "tag in time": (only(t=["red"], since=2, until=8), "bd"),
    "since": (only(since=7), "abc"),
    "until": (only(until=2), "hij"),
    "one second": (only(since=5, until=5), "e"),
    "author in time": (only(authors=[ALICE], since=3, until=8), "bg"),
    "kind in time": (only(kinds=[1], until=8), "bc"),
    "kind in time, limited": (only(kinds=[1, 7], until=8, limit=2), "bc"),
    "since after until": (only(since=6, until=5), ""),
    "since before time began": (only(since=-5, until=0), "j"),
    "until before time began": (only(until=-1), ""),
    "since the far future": (only(since=MAX_TIME), ""),
    "until the far future": (only(until=MAX_TIME), "abcdefghij"),
    "since the farthest past": (only(since=-MAX_TIME), "abcdefghij"),
    "limited": (only(limit=4), "abcd"),
    "no ids": (only(ids=[]), ""),
    "no authors": (only(authors=[]), ""),
    "no kinds": (only(kinds=[]), ""),
    "no tag values": (only(t=[]), ""),
    "no tag values beside some": (only(t=["red"], p=[]), ""),
    "a search, which stores leave to others": (Filter(kinds=frozenset([1]), search="word"), "abc"),
}


@pytest.mark.parametrize("condition", CONDITIONS)
async def test_a_filter_finds_and_counts_what_it_matches(store: Store, condition: str) -> None:
    wanted, expected = CONDITIONS[condition]
    await keep(store, *map(write, LETTERS[::2]))
    await keep(store, *map(write, LETTERS[1::2]))

    assert "".join(await found(store, wanted)) == expected
    assert await listed(store, wanted) == [
        (letter.created_at, letter.id) for letter in LETTERS if letter.content in expected
    ]
    if wanted.limit is None:
        assert await count(store, wanted) == len(expected)


@pytest.mark.parametrize("condition", CONDITIONS)
async def test_what_is_found_at_once_is_all_that_a_scan_finds(store: Store, condition: str) -> None:
    wanted, expected = CONDITIONS[condition]
    await keep(store, *map(write, LETTERS))
    wanted = wanted.limited(500 if wanted.limit is None else wanted.limit)

    answer = store.at_once(wanted, now=NOW)

    if answer is not None:
        head, rows = answer
        assert head == await store.head()
        assert "".join(row.event().content for row in rows) == expected


async def test_what_is_found_at_once_is_what_the_reader_may_see(store: Store) -> None:
    await keep(store, *map(write, LETTERS))
    veils = (
        Veil(frozenset([1, 7]), lambda event: event.content != "a"),
        Veil(frozenset(), lambda _: False, {"t": frozenset(["blue"])}),
    )

    for veil, expected in zip(veils, ("bcdefghij", "bdefghij"), strict=True):
        for wanted in (only(limit=10), only(authors=[ALICE, BOB, CAROL], limit=10)):
            answer = store.at_once(wanted, now=NOW, veil=veil)
            if answer is not None:
                assert "".join(row.event().content for row in answer[1]) == expected


async def test_an_id_is_compared_whole(store: Store) -> None:
    hello = note(ALICE, "hello")
    await keep(store, write(hello))
    nearly = hello.id[:-1] + ("0" if hello.id[-1] != "0" else "1")

    assert await found(store, only(ids=[nearly])) == []
    assert await count(store, only(ids=[nearly])) == 0
    assert await store.known([EventId(nearly)]) == set()


# Counting


async def test_filters_that_overlap_count_an_event_once(store: Store) -> None:
    await keep(store, *map(write, LETTERS))

    assert await count(store, only(kinds=[1]), only(authors=[ALICE])) == 5
    assert await count(store, only(kinds=[1]), only(kinds=[1]), only(t=["red"])) == 5
    assert await count(store, only(), only(kinds=[1])) == 10
    assert await count(store, only(since=6), only(until=6)) == 10
    assert await count(store, only(kinds=[]), only(kinds=[7])) == 2
    assert await count(store, only(ids=[IDS["a"]]), only(t=["blue"]), only(authors=[CAROL])) == 4


async def test_no_filters_count_nothing(store: Store) -> None:
    await keep(store, write(note(ALICE, "hello")))

    assert await count(store) == 0


async def test_a_count_takes_no_notice_of_limits(store: Store) -> None:
    await keep(store, *map(write, FLOOD[:700]))

    assert await count(store, only(limit=1)) == 700
    assert await count(store, only(limit=0, kinds=[1]), only(limit=5, authors=[ALICE])) == 700


async def test_scan_and_count_stop_at_upto(store: Store) -> None:
    await keep(store, *map(write, LETTERS[5:]))
    head = await store.head()
    await keep(store, *map(write, LETTERS[:5]))

    for wanted, expected in [
        (only(), "fghij"),
        (only(authors=[ALICE]), "gh"),
        (only(kinds=[0, 7]), "fg"),
        (only(t=["red"]), "i"),
        (only(ids=IDS.values()), "fghij"),
        (only(authors=[BOB], t=["red"]), "i"),
    ]:
        assert "".join(await found(store, wanted, upto=head)) == expected
        assert await count(store, wanted, upto=head) == len(expected)
        assert [id_ for _, id_ in await listed(store, wanted, upto=head)] == [IDS[one] for one in expected]
    assert await found(store, only(limit=2), upto=head) == ["f", "g"]
    assert await found(store, upto=Seq(0)) == []
    assert await count(store, EVERYTHING, upto=Seq(0)) == 0


# Listing


@pytest.mark.parametrize(
    "wanted", [only(), only(authors=[ALICE]), only(authors=[ALICE, BOB]), only(limit=9_999)]
)
async def test_a_crowded_second_and_a_long_history_are_listed_whole(store: Store, wanted: Filter) -> None:
    await keep(store, *map(write, FLOOD))
    older = notes(ALICE, 1_200, created_at=NOW - 1_200, step=1)
    await keep(store, *map(write, older))

    assert await listed(store, wanted) == [(one.created_at, one.id) for one in (*FLOOD, *reversed(older))]


async def test_what_was_removed_replaced_or_has_expired_is_not_listed(store: Store) -> None:
    kept, gone, brief = note(ALICE, "kept"), note(ALICE, "gone"), note(ALICE, "brief")
    older, newer = profile("older"), profile("newer", created_at=NOW + 1)
    await keep(store, write(kept), write(gone), write(brief, expires_at=FAR), write(older))
    await keep(store, write(newer), bearer(removal(gone)))
    expected = {kept.id, newer.id}

    for wanted in (only(authors=[ALICE]), only(authors=[ALICE, BOB]), only(kinds=[0, 1], authors=[ALICE])):
        assert {id_ for _, id_ in await listed(store, wanted, now=FAR)} == expected
        assert {id_ for _, id_ in await listed(store, wanted, now=FAR - 1)} == {*expected, brief.id}


# Veils


def seen_by_bob(message: Event) -> bool:
    """Say whether Bob may see a direct message; fails for every other kind."""
    assert message.kind == kinds.DIRECT_MESSAGE
    return message.pubkey == BOB.public or ("p", BOB.public) in message.tags


BOBS_VEIL = Veil(frozenset({kinds.DIRECT_MESSAGE}), seen_by_bob)


def message(key: SecretKey, to: SecretKey, content: str, created_at: int) -> Event:
    return event(key, kinds.DIRECT_MESSAGE, content, created_at=created_at, tags=[["p", to.public]])


async def test_a_veil_hides_rows_of_the_kinds_it_names(store: Store) -> None:
    await keep(
        store,
        write(message(ALICE, BOB, "to bob", 5)),
        write(message(ALICE, CAROL, "to carol", 4)),
        write(message(BOB, CAROL, "from bob", 3)),
        write(note(ALICE, "public", created_at=2, tags=[["p", CAROL.public]])),
    )

    assert await found(store, veil=BOBS_VEIL) == ["to bob", "from bob", "public"]
    assert await found(store, only(p=[CAROL.public]), veil=BOBS_VEIL) == ["from bob", "public"]
    assert await found(store, only(kinds=[kinds.DIRECT_MESSAGE]), veil=BOBS_VEIL) == ["to bob", "from bob"]
    assert await count(store, EVERYTHING, veil=BOBS_VEIL) == 3
    assert await count(store, only(p=[CAROL.public]), veil=BOBS_VEIL) == 2
    assert await count(store, only(authors=[ALICE]), veil=BOBS_VEIL) == 2
    assert await count(store, only(authors=[ALICE]), only(p=[CAROL.public]), veil=BOBS_VEIL) == 3
    assert [time for time, _ in await listed(store, veil=BOBS_VEIL)] == [5, 3, 2]
    assert [time for time, _ in await listed(store, only(p=[CAROL.public]), veil=BOBS_VEIL)] == [3, 2]
    assert [time for time, _ in await listed(store, only(authors=[ALICE]), veil=BOBS_VEIL)] == [5, 2]
    assert [time for time, _ in await listed(store, only(limit=2), veil=BOBS_VEIL)] == [5, 3]


async def test_a_veiled_row_is_hidden_from_those_who_know_its_id(store: Store) -> None:
    secret = message(ALICE, CAROL, "secret", NOW)
    await keep(store, write(secret))

    assert await found(store, only(ids=[secret.id]), veil=BOBS_VEIL) == []
    assert await count(store, only(ids=[secret.id]), veil=BOBS_VEIL) == 0


async def test_a_veil_hides_rows_by_their_tags_whatever_their_kind(store: Store) -> None:
    def told(key: SecretKey, kind: int, content: str, room: str, created_at: int) -> Event:
        return event(key, kind, content, created_at=created_at, tags=[["h", room], ["p", BOB.public]])

    await keep(
        store,
        write(told(ALICE, 1, "east", "east room", 5)),
        write(told(ALICE, 9, "west", "west room", 4)),
        write(told(BOB, 9, "bob's", "west room", 3)),
        write(event(ALICE, 9, "elsewhere", created_at=2)),
    )
    veil = Veil(
        frozenset(), lambda one: one.pubkey == BOB.public, {"h": frozenset({"west room", "north room"})}
    )

    assert await found(store, veil=veil) == ["east", "bob's", "elsewhere"]
    assert await found(store, only(kinds=[9], limit=2), veil=veil) == ["bob's", "elsewhere"]
    assert await found(store, only(h=["east room"]), veil=veil) == ["east"]
    assert await count(store, EVERYTHING, veil=veil) == 3
    assert await count(store, only(kinds=[9]), veil=veil) == 2
    assert await count(store, only(h=["west room"]), veil=veil) == 1
    assert await count(store, only(authors=[ALICE]), only(kinds=[9]), veil=veil) == 3
    assert [time for time, _ in await listed(store, veil=veil)] == [5, 3, 2]
    assert [time for time, _ in await listed(store, only(p=[BOB.public]), veil=veil)] == [5, 3]
    assert await listed(store, only(h=["north room"]), veil=veil) == []


async def test_a_limit_counts_visible_rows_only(store: Store) -> None:
    hidden = [message(ALICE, CAROL, "hidden", NOW + n) for n in range(700)]
    await keep(store, *map(write, hidden))
    await keep(store, *(write(message(ALICE, BOB, f"{n}", NOW - n)) for n in range(5)))

    assert await found(store, only(limit=3), veil=BOBS_VEIL) == ["0", "1", "2"]
    assert await found(store, only(kinds=[4], limit=3), veil=BOBS_VEIL) == ["0", "1", "2"]
    assert await found(store, only(authors=[ALICE], limit=9), veil=BOBS_VEIL) == ["0", "1", "2", "3", "4"]
    assert await count(store, EVERYTHING, veil=BOBS_VEIL) == 5


async def test_hidden_rows_of_a_crowded_second_give_way_to_visible_ones(store: Store) -> None:
    crowd = by_id([message(ALICE, (BOB, CAROL)[n % 2], f"{n}", NOW) for n in range(1_000)])
    await keep(store, *map(write, crowd))
    visible = [one.content for one in crowd if seen_by_bob(one)]

    assert await found(store, only(limit=300), veil=BOBS_VEIL) == visible[:300]
    assert await found(store, veil=BOBS_VEIL) == visible
