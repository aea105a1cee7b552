"""Tables: what is decided and recorded inside the write transaction, on every store."""

from contextlib import closing
from pathlib import Path

import pytest

from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import Change, Outcome, RemoveEvent, RemoveOwned, Store, StoreError, Write
from relay.store.memory import MemoryStore
from relay.store.sqlite import SqliteWriter
from tests.events import ALICE, BOB, CAROL, NOW, event, note, pubkey, write
from tests.store.backends import DURABLE
from tests.store.reading import EVERYTHING, count, found, log, logged, scan
from tests.store.tables import ANNOUNCEMENT, PROXIES, TABLES
from tests.store.writers import Writers


def vote(key: SecretKey, choice: str, content: str = "", *, created_at: int = NOW, **more: object) -> Write:
    """Return a vote that its table judges."""
    ballot = event(key, 1_018, content, created_at=created_at, tags=[["choice", choice]])
    return write(ballot, tables=("votes",), **more)


def counted(store: Store) -> dict[str, int]:
    """Return the votes for each choice."""
    return {key.removeprefix("count/"): int(value) for key, value in store.records("votes", "count/")}


async def test_records_are_there_when_the_event_is(store: Store) -> None:
    first = vote(ALICE, "tea")
    assert await store.write([first, vote(BOB, "tea"), vote(CAROL, "coffee")]) == [Outcome.STORED] * 3
    assert counted(store) == {"coffee": 1, "tea": 2}
    assert store.record("votes", f"vote/{first.event.id}") == b"tea"
    assert store.record("votes", "vote/unknown") is None


async def test_an_event_that_came_before_is_not_judged_again(store: Store) -> None:
    await store.write([vote(ALICE, "tea"), vote(ALICE, "tea")])
    assert await store.write([vote(ALICE, "tea")]) == [Outcome.DUPLICATE]
    assert counted(store) == {"tea": 1}


async def test_what_the_operator_removes_is_not_counted_any_more(store: Store) -> None:
    first = vote(ALICE, "tea")
    await store.write([first, vote(BOB, "tea")])

    await store.remove([first.event.id])

    assert counted(store) == {"tea": 1}


async def test_a_refused_event_leaves_nothing_behind(store: Store) -> None:
    await store.write([vote(ALICE, "tea")])
    refusal, kept = await store.write([vote(BOB, "tea", "refuse"), vote(CAROL, "tea")])
    assert refusal == Refusal(Prefix.INVALID, "no such choice, of 2")
    assert kept is Outcome.STORED
    assert counted(store) == {"tea": 2}
    assert await count(store, EVERYTHING) == 2


async def test_a_refused_event_removes_nothing(store: Store) -> None:
    target = note(BOB, "stays")
    await store.write([write(target)])
    await store.write([vote(BOB, "tea", "refuse", removals=(RemoveEvent(target.id, pubkey(BOB)),))])
    assert await found(store) == ["stays"]


async def test_a_refused_version_leaves_the_older_one_in_place(store: Store) -> None:
    def version(content: str, at: int) -> Write:
        return write(
            event(ALICE, 30_023, content, created_at=at, tags=[["d", "x"], ["choice", "tea"]]),
            tables=("votes",),
        )

    await store.write([version("first", NOW)])
    assert await store.write([version("refuse", NOW + 1)]) == [
        Refusal(Prefix.INVALID, "no such choice, of 2")
    ]
    assert await found(store) == ["first"]
    assert counted(store) == {"tea": 1}


async def test_a_table_that_fails_refuses_its_event_alone(store: Store) -> None:
    refusal, kept = await store.write([vote(ALICE, "tea", "fail"), vote(BOB, "tea")])
    assert refusal == Refusal(Prefix.ERROR, "the relay could not judge this event")
    assert kept is Outcome.STORED
    assert counted(store) == {"tea": 1}


async def test_a_table_that_is_not_there_refuses_the_event(store: Store) -> None:
    orphan = write(note(ALICE), tables=("nowhere",))
    assert await store.write([orphan]) == [
        Refusal(Prefix.ERROR, "the relay does not keep what this event needs")
    ]


async def test_the_first_table_that_refuses_decides(store: Store) -> None:
    both = write(event(ALICE, 1_018, tags=[["choice", "tea"]]), tables=("votes", "doors"))
    assert await store.write([both]) == [Refusal(Prefix.BLOCKED, "behind a door")]
    assert counted(store) == {}


async def test_a_removed_event_is_forgotten(store: Store) -> None:
    first, second = vote(ALICE, "tea"), vote(BOB, "tea")
    await store.write([first, second])
    remover = write(event(ALICE, kinds.DELETION), removals=(RemoveEvent(first.event.id, pubkey(ALICE)),))
    await store.write([remover])
    assert counted(store) == {"tea": 1}
    assert store.record("votes", f"vote/{first.event.id}") is None


async def test_an_event_removed_by_the_batch_that_brought_it_is_forgotten(store: Store) -> None:
    first = vote(ALICE, "tea")
    remover = write(event(ALICE, kinds.DELETION), removals=(RemoveEvent(first.event.id, pubkey(ALICE)),))
    await store.write([first, remover])
    assert counted(store) == {"tea": 0}


async def test_a_superseded_event_is_forgotten(store: Store) -> None:
    def version(choice: str, at: int) -> Write:
        return write(
            event(ALICE, 30_023, created_at=at, tags=[["d", "x"], ["choice", choice]]), tables=("votes",)
        )

    await store.write([version("tea", NOW)])
    await store.write([version("coffee", NOW + 1)])
    assert counted(store) == {"coffee": 1, "tea": 0}


async def test_an_expired_event_is_forgotten_when_it_is_swept(store: Store) -> None:
    await store.write([vote(ALICE, "tea", expires_at=NOW + 10), vote(BOB, "tea")])
    await store.sweep(NOW + 10)
    assert counted(store) == {"tea": 1}


async def test_events_that_follow_are_stored_right_behind_their_cause(store: Store) -> None:
    await store.write([vote(ALICE, "tea", "announce"), vote(BOB, "coffee")])
    assert await logged(store) == ["announce", "tea: 1", ""]


async def test_events_that_follow_are_judged_by_the_tables_they_name(store: Store) -> None:
    await store.write([vote(ALICE, "tea", "second:coffee")])
    assert counted(store) == {"coffee": 1, "tea": 1}


async def test_two_tables_may_judge_for_the_same_records(store: Store) -> None:
    await store.write([vote(ALICE, "tea"), write(event(BOB, 1_018), tables=("proxies",))])
    assert counted(store) == {"by proxy": 1, "tea": 1}


def test_a_table_of_records_that_nobody_keeps_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"^proxies has no records, and those of votes are asked for$"):
        MemoryStore([PROXIES])


async def test_a_following_event_replaces_what_is_stored_and_what_came_with_it(store: Store) -> None:
    await store.write([vote(ALICE, "tea", "announce"), vote(BOB, "tea", "announce")])
    await store.write([vote(CAROL, "tea", "announce")])
    results = [row.event().content for row in await scan(store, Filter(kinds=frozenset({ANNOUNCEMENT})))]
    assert results == ["tea: 3"]


async def test_what_follows_an_import_is_not_live_either(store: Store) -> None:
    await store.write([vote(ALICE, "tea", "announce", live=False)])
    assert await log(store) == []
    assert await count(store, EVERYTHING) == 2


async def test_a_table_removes_whoever_owns_the_event(store: Store) -> None:
    target = write(note(BOB, "offensive"), owners=())
    await store.write([target])
    await store.write([vote(ALICE, "tea", f"strike:{target.event.id}")])
    assert [row.event().kind for row in await scan(store, EVERYTHING)] == [1_018]
    assert await store.write([target]) == [Outcome.STORED]


async def test_a_command_changes_records_and_answers(store: Store) -> None:
    answer = await store.command("doors", b"open east")
    assert isinstance(answer, bytes) and answer.startswith(b"open at ")
    assert store.record("doors", "east") == b"open"


async def test_a_refused_command_changes_nothing(store: Store) -> None:
    refusal = await store.command("doors", b"kick")
    assert refusal == Refusal(Prefix.BLOCKED, "the door stays as it is")
    assert store.records("doors", "") == []
    assert store.version == 0


async def test_a_command_may_bring_events(store: Store) -> None:
    assert await store.command("doors", b"announce party") == b""
    assert await found(store) == ["party"]


async def test_changes_of_a_followed_table_are_numbered(store: Store) -> None:
    assert store.version == 0
    for payload in (b"open east", b"open west", b"close east", b"open west"):
        await store.command("doors", payload)
    assert store.version == 4
    assert store.changes("doors", after=0) == [Change("east", None, 3), Change("west", b"open", 4)]
    assert store.changes("doors", after=3) == [Change("west", b"open", 4)]
    assert store.changes("doors", after=4) == []
    assert store.changes("doors", after=0, limit=1) == [Change("east", None, 3)]


async def test_closing_what_is_not_open_is_no_change(store: Store) -> None:
    await store.command("doors", b"close east")
    assert store.version == 0


async def test_a_table_that_nobody_follows_numbers_nothing(store: Store) -> None:
    await store.write([vote(ALICE, "tea")])
    assert store.version == 0
    assert store.changes("votes", after=0) == []


async def test_records_come_by_key_and_in_pages(store: Store) -> None:
    for name in ("b2", "a1", "b1", "b3", "bæ"):
        await store.command("doors", f"open {name}".encode())
    assert [key for key, _ in store.records("doors", "b")] == ["b1", "b2", "b3", "bæ"]
    assert [key for key, _ in store.records("doors", "b", limit=2)] == ["b1", "b2"]
    assert [key for key, _ in store.records("doors", "b", after="b2", limit=2)] == ["b3", "bæ"]
    assert [key for key, _ in store.records("doors", "")] == ["a1", "b1", "b2", "b3", "bæ"]


class TestRemoveOwned:
    """All that somebody owns up to a time goes, also what arrives later."""

    @staticmethod
    def farewell(key: SecretKey, until: int) -> Write:
        """Return an event that removes all its author's, and stays itself."""
        parting: Event = event(key, 62, created_at=until)
        return write(parting, owners=(), removals=(RemoveOwned(pubkey(key), until),))

    async def test_what_is_older_goes_and_what_is_newer_stays(self, store: Store) -> None:
        await store.write(
            [write(note(ALICE, text, created_at=at)) for text, at in (("old", NOW - 1), ("at", NOW))]
            + [write(note(ALICE, "new", created_at=NOW + 1)), write(note(BOB, "other", created_at=NOW - 1))]
        )
        assert await store.write([self.farewell(ALICE, NOW)]) == [Outcome.STORED]
        assert sorted(await found(store)) == ["", "new", "other"]

    async def test_what_is_older_does_not_come_again(self, store: Store) -> None:
        await store.write([self.farewell(ALICE, NOW)])
        late = [write(note(ALICE, "at", created_at=NOW)), write(note(ALICE, "new", created_at=NOW + 1))]
        assert await store.write(late) == [Outcome.DELETED, Outcome.STORED]

    async def test_what_came_with_the_same_batch_goes_too(self, store: Store) -> None:
        await store.write(
            [write(note(ALICE, "first")), self.farewell(ALICE, NOW), write(note(ALICE, "second"))]
        )
        assert await found(store) == [""]

    async def test_what_names_the_owner_goes_only_if_it_is_owned(self, store: Store) -> None:
        tags = [["p", pubkey(ALICE)]]
        wrap = write(event(BOB, 1_059, "wrap", tags=tags), owners=(pubkey(ALICE),))
        mention = write(note(BOB, "mention", tags=tags))
        await store.write([wrap, mention])
        await store.write([self.farewell(ALICE, NOW)])
        assert sorted(await found(store)) == ["", "mention"]
        assert await store.write([wrap]) == [Outcome.DELETED]

    async def test_it_takes_also_what_no_single_removal_does(self, store: Store) -> None:
        final, late = note(ALICE, "final"), note(ALICE, "late")
        remover = event(ALICE, kinds.DELETION, "remover", created_at=NOW + 1)
        removals = tuple(RemoveEvent(one.id, pubkey(ALICE)) for one in (final, late))
        await store.write([write(final, is_final=True), write(remover, removals=removals)])
        assert await store.write([write(late, is_final=True)]) == [Outcome.STORED]
        assert sorted(await found(store)) == ["final", "late", "remover"]
        await store.write([self.farewell(ALICE, NOW)])
        assert sorted(await found(store)) == ["", "remover"]
        assert await store.write([write(final, is_final=True)]) == [Outcome.DELETED]

    async def test_the_latest_time_counts(self, store: Store) -> None:
        await store.write([self.farewell(ALICE, NOW), self.farewell(ALICE, NOW - 100)])
        assert await store.write([write(note(ALICE, "between", created_at=NOW - 50))]) == [Outcome.DELETED]

    async def test_a_long_history_goes_whole(self, store: Store) -> None:
        await store.write([write(note(ALICE, str(n), created_at=NOW - n)) for n in range(1_500)])
        await store.write([write(note(BOB, "stays"))])
        await store.write([self.farewell(ALICE, NOW)])
        assert sorted(await found(store)) == ["", "stays"]

    async def test_tables_forget_what_goes(self, store: Store) -> None:
        await store.write([vote(ALICE, "tea"), vote(BOB, "tea")])
        await store.write([self.farewell(ALICE, NOW)])
        assert counted(store) == {"tea": 1}

    async def test_a_holder_of_an_address_goes_and_an_older_version_does_not_come_back(
        self, store: Store
    ) -> None:
        await store.write([write(event(ALICE, kinds.PROFILE, "old", created_at=NOW - 10))])
        await store.write([write(event(ALICE, kinds.PROFILE, "newer", created_at=NOW - 5))])
        await store.write([self.farewell(ALICE, NOW)])
        again = write(event(ALICE, kinds.PROFILE, "back", created_at=NOW + 5))
        assert await store.write([again]) == [Outcome.STORED]
        assert sorted(await found(store)) == ["", "back"]


@pytest.mark.parametrize("backend", DURABLE)
async def test_records_and_times_survive_a_restart(tmp_path: Path, writers: Writers, backend: str) -> None:
    async with DURABLE[backend](tmp_path, writers) as store:
        await store.write([vote(ALICE, "tea"), TestRemoveOwned.farewell(CAROL, NOW)])
        await store.command("doors", b"open east")
    async with DURABLE[backend](tmp_path, writers) as store:
        assert counted(store) == {"tea": 1}
        assert store.version == 1
        assert store.changes("doors", after=0) == [Change("east", b"open", 1)]
        await store.command("doors", b"open west")
        assert store.version == 2
        assert await store.write([write(note(CAROL, "late"))]) == [Outcome.DELETED]
        remover = write(
            event(ALICE, kinds.DELETION), removals=(RemoveEvent(vote(ALICE, "tea").event.id, pubkey(ALICE)),)
        )
        await store.write([remover])
        assert counted(store) == {"tea": 0}


BARRED = Refusal(Prefix.BLOCKED, "barred")


async def test_what_records_bar_is_kept_out_whatever_was_decided_before(store: Store) -> None:
    written = write(note(ALICE, "hers")), write(note(BOB, "his")), write(note(BOB, "the other"))
    await store.command("barrier", f"bar author/{ALICE.public}".encode())
    await store.command("barrier", f"bar id/{written[1].event.id}".encode())

    assert await store.write(written) == [BARRED, BARRED, Outcome.STORED]

    assert await found(store) == ["the other"]


async def test_what_is_stored_already_stays_and_is_a_duplicate(store: Store) -> None:
    kept = write(note(ALICE, "kept"))
    await store.write([kept])
    await store.command("barrier", f"bar author/{ALICE.public}".encode())

    assert await store.write([kept]) == [Outcome.DUPLICATE]


async def test_kinds_that_bars_leave_out_are_kept(store: Store) -> None:
    await store.command("barrier", f"bar author/{ALICE.public}".encode())

    assert await store.write([write(event(ALICE, 62)), write(note(ALICE))]) == [Outcome.STORED, BARRED]


async def test_who_is_admitted_again_may_write(store: Store) -> None:
    await store.command("barrier", f"bar author/{ALICE.public}".encode())
    await store.command("barrier", f"admit author/{ALICE.public}".encode())

    assert await store.write([write(note(ALICE))]) == [Outcome.STORED]


@pytest.mark.parametrize("backend", DURABLE)
async def test_bars_hold_after_a_restart(backend: str, tmp_path: Path, writers: Writers) -> None:
    async with DURABLE[backend](tmp_path, writers) as store:
        await store.command("barrier", f"bar author/{ALICE.public}".encode())
    async with DURABLE[backend](tmp_path, writers) as store:
        assert await store.write([write(note(ALICE)), write(note(BOB))]) == [BARRED, Outcome.STORED]


def test_a_bar_of_a_transaction_that_failed_keeps_nobody_out(tmp_path: Path) -> None:
    with closing(SqliteWriter(tmp_path / "torv.sqlite3", tables=TABLES)) as writer:
        pages = writer._connection.execute("PRAGMA page_count").fetchone()[0]
        # SQLite refuses to grow the file, as it does when the disk is full.
        writer._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="full"):
            writer.command("barrier", f"bar author/{ALICE.public}{'x' * 40_000}".encode())
        writer._connection.execute("PRAGMA max_page_count = 1000000")

        assert not writer.barred[0].is_any
