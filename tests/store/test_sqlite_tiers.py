"""Postings on their way through the tiers: none is lost, none is left behind, and failures undo all."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.store.api import MAX_SEQ, Outcome, RemoveEvent, Seq, StoreError
from relay.store.sqlite import Hashes, Prepared, SqliteWriter, Tuning, prepare
from relay.store.sqlite.postings import unpack_hashes
from tests.events import ALICE, BOB, NOW, event, note, pubkey, write
from tests.store.writers import TINY


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A path at which nothing is yet."""
    return tmp_path / "torv.sqlite3"


@pytest.fixture
def writer(database: Path) -> Iterator[SqliteWriter]:
    """A writer with tiny tiers."""
    writer = SqliteWriter(database, TINY)
    yield writer
    writer.close()


def prepared(writer: SqliteWriter, count: int, start: int = 0) -> list[Prepared]:
    hashes = Hashes(writer.key)
    return [
        prepare(write(note(ALICE, f"{n}", created_at=NOW + n)), hashes) for n in range(start, start + count)
    ]


def rows_of_tiers(writer: SqliteWriter) -> list[int]:
    return [writer._connection.execute(f"SELECT count(*) FROM ix{tier}").fetchone()[0] for tier in range(3)]


def postings_of_tiers(writer: SqliteWriter) -> list[tuple[int, int]]:
    return sorted(
        writer._connection.execute(
            "SELECT h, ts FROM ix0 UNION ALL SELECT h, ts FROM ix1 UNION ALL SELECT h, ts FROM ix2"
        ).fetchall()
    )


def postings_of_events(writer: SqliteWriter) -> list[tuple[int, int]]:
    return sorted(
        (h, created_at << 31 | seq)
        for seq, created_at, packed in writer._connection.execute(
            "SELECT seq, created_at, postings FROM event"
        )
        for h in unpack_hashes(packed)
    )


def test_postings_reach_the_big_tier_and_none_is_lost(writer: SqliteWriter) -> None:
    for start in range(0, 400, 4):
        writer.commit(prepared(writer, 4, start))
    while writer.tidy():
        pass

    tail, middle, big = rows_of_tiers(writer)

    # The bounds of TINY, and up to two steps of the moving beyond them.
    assert tail < 64 + 4
    assert middle < 256 + 4
    assert tail + middle + big == 400 * 5
    assert postings_of_tiers(writer) == postings_of_events(writer)


def test_a_hash_that_is_frequent_in_a_batch_goes_straight_to_the_big_tier(database: Path) -> None:
    writer = SqliteWriter(database, Tuning(hot_rows=10))

    writer.commit(prepared(writer, 10))

    # Author, author and kind, kind, everything: ten each. The ids: one each.
    assert rows_of_tiers(writer) == [10, 0, 40]
    writer.close()


def test_one_commit_moves_a_bounded_slice_even_of_one_hash(database: Path) -> None:
    tuning = Tuning(tail_rows=100, middle_rows=10_000, hot_rows=1_000, slice_rows=40)
    writer = SqliteWriter(database, tuning)

    writer.commit(prepared(writer, 300))

    assert rows_of_tiers(writer) == [300 * 5 - 40, 40, 0]
    writer.close()


def test_purging_leaves_nothing_of_removed_events(writer: SqliteWriter) -> None:
    hashes = Hashes(writer.key)
    dice = random.Random(1)
    doomed = []
    for n in range(120):
        profile = event(BOB, 0, f"{n}", created_at=NOW + n, tags=[["t", f"{n % 7}"]])
        victim = note(ALICE, f"{n}", created_at=NOW + dice.randrange(50))
        doomed.append(victim)
        batch = [write(profile), write(victim)]
        if n % 2:
            target = doomed.pop(dice.randrange(len(doomed)))
            batch.append(
                write(note(ALICE, f"removes {n}"), removals=(RemoveEvent(target.id, pubkey(ALICE)),))
            )
        writer.commit([prepare(one, hashes) for one in batch])
    while writer.tidy():
        pass
    writer._tiers._state.dead = 1_000_000  # a purge is due
    while writer.tidy():
        writer._tiers._state.dead = 0

    assert writer._connection.execute("SELECT count(*) FROM dead").fetchone() == (0,)
    living = [posting for posting in postings_of_tiers(writer) if posting[1] >= 0]
    assert living == postings_of_events(writer)
    assert len(living) < len(postings_of_tiers(writer))  # tombstones stay for ever


def test_an_event_that_dies_during_a_purge_is_left_to_the_next(writer: SqliteWriter) -> None:
    hashes = Hashes(writer.key)
    victims = [note(ALICE, f"{n}", created_at=NOW + n) for n in range(200)]
    writer.commit([prepare(write(victim), hashes) for victim in victims])
    by = pubkey(ALICE)
    # From the newest to the oldest: each has a lower seq than those the purge under way has seen.
    for victim in reversed(victims):
        bearer = note(BOB, victim.content)
        writer.commit([prepare(write(bearer, removals=(RemoveEvent(victim.id, by),)), hashes)])
        assert [
            seq
            for (seq,) in writer._connection.execute(
                "SELECT ts & 0x7fffffff FROM ix2 WHERE h = ? AND ts & 0x7fffffff <= 200 "
                "AND ts & 0x7fffffff NOT IN (SELECT seq FROM event)"
                "AND ts & 0x7fffffff NOT IN (SELECT seq FROM dead)",
                (hashes.author(by),),
            )
        ] == []


def test_the_order_of_the_tiers_is_known_after_reopening(writer: SqliteWriter, database: Path) -> None:
    for start in range(0, 200, 4):
        writer.commit(prepared(writer, 4, start))
    rows = writer._tiers._state.rows

    again = SqliteWriter(database, TINY)

    assert again._tiers._state.rows == rows
    again.close()


def test_a_full_disk_undoes_the_whole_batch_and_room_makes_it_work_again(writer: SqliteWriter) -> None:
    writer.commit(prepared(writer, 100))
    before = postings_of_tiers(writer), writer.head, writer._tiers.save()
    # SQLite refuses to grow the file, as it does when the disk is full.
    (pages,) = writer._connection.execute("PRAGMA page_count").fetchone()
    writer._connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    with pytest.raises(StoreError, match="database or disk is full"):
        writer.commit(prepared(writer, 500, 100))

    assert (postings_of_tiers(writer), writer.head, writer._tiers.save()) == before

    writer._connection.execute("PRAGMA max_page_count = 1000000")
    done = writer.commit(prepared(writer, 500, 100))
    assert done.outcomes == [Outcome.STORED] * 500
    assert (done.after, done.upto) == (100, 600)
    assert postings_of_tiers(writer) == postings_of_events(writer)


def test_a_database_that_is_gone_is_an_error_and_not_a_crash(writer: SqliteWriter) -> None:
    writer.commit(prepared(writer, 1))
    writer._connection.execute("DROP TABLE tombstone")

    with pytest.raises(StoreError, match="no such table"):
        writer.commit([prepare(write(note(BOB), removals=(_removal(),)), Hashes(writer.key))])

    assert writer.head == 1
    assert not writer._connection.in_transaction


def _removal() -> RemoveEvent:
    return RemoveEvent(note(ALICE, "absent").id, pubkey(ALICE))


def test_a_log_that_is_full_refuses_the_batch(writer: SqliteWriter) -> None:
    writer._head = Seq(MAX_SEQ - 2)

    with pytest.raises(StoreError, match="the log is full: seq would pass 2147483647"):
        writer.commit(prepared(writer, 3))
    assert writer.commit(prepared(writer, 2)).upto == MAX_SEQ


def test_a_time_that_does_not_fit_refuses_the_batch(writer: SqliteWriter) -> None:
    (first,) = prepared(writer, 1)

    with pytest.raises(StoreError, match="created_at must lie between 0 and 4294967295"):
        writer.commit([(first[0], 2**32, *first[2:])])


def test_integrity_holds_after_merges_and_purges(writer: SqliteWriter) -> None:
    for start in range(0, 300, 3):
        writer.commit(prepared(writer, 3, start))

    assert writer._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert isinstance(writer._connection, sqlite3.Connection)
