"""The file gets shorter when much was removed from it, while others read and write."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from relay.store.link import LinkedStore
from relay.store.sqlite import SqliteWriter, Tuning, prepare
from tests.events import ALICE, BOB, NOW, note, notes, write
from tests.store.reading import found, keep
from tests.store.writers import Writers

LONG = "x" * 3_000
SMALL = Tuning(tail_rows=64, middle_rows=256, dead_postings=32, free_pages=64, given_back=16)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SqliteWriter]:
    """A writer that gives pages back soon."""
    writer = SqliteWriter(tmp_path / "torv.sqlite3", SMALL)
    yield writer
    writer.close()


def number(writer: SqliteWriter, question: str) -> int:
    found: int = writer._connection.execute(question).fetchone()[0]
    return found


def long_notes(writer: SqliteWriter, count: int) -> list[str]:
    """Store long notes; return their ids."""
    written = [note(ALICE, f"{n} {LONG}", created_at=NOW + n) for n in range(count)]
    writer.commit([prepare(write(one), writer.hashes) for one in written])
    return [one.id for one in written]


def test_pages_of_removed_events_are_given_back(writer: SqliteWriter, tmp_path: Path) -> None:
    ids = long_notes(writer, 1_000)
    writer.checkpoint()
    before = (tmp_path / "torv.sqlite3").stat().st_size

    for start in range(0, 900, 100):
        writer.remove(ids[start : start + 100], False)
    slices = 0
    while writer.tidy():
        slices += 1
    writer.checkpoint()

    assert before > 1_000 * 4_096
    assert (tmp_path / "torv.sqlite3").stat().st_size < before // 4
    assert 900 // 16 < slices < 900 // 4
    assert number(writer, "PRAGMA freelist_count") <= 64 // 8
    assert number(writer, "SELECT count(*) FROM event") == 100
    assert writer._connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_few_unused_pages_stay_for_what_comes(writer: SqliteWriter) -> None:
    ids = long_notes(writer, 1_000)

    writer.remove(ids[:50], False)
    while writer.tidy():
        pass

    assert number(writer, "PRAGMA freelist_count") >= 50
    assert not writer.is_shrinking


def test_a_database_that_was_made_without_the_map_stays_as_long(tmp_path: Path) -> None:
    path = tmp_path / "older.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # makes the file, so that nothing else is told it
    writer = SqliteWriter(path, SMALL)
    ids = long_notes(writer, 300)

    writer.remove(ids, False)
    while writer.tidy():
        pass

    assert number(writer, "PRAGMA auto_vacuum") == 0
    assert number(writer, "PRAGMA freelist_count") >= 300
    writer.close()


def test_what_was_removed_is_told_to_who_follows(writer: SqliteWriter) -> None:
    ids = long_notes(writer, 3)
    writer.commit([prepare(write(note(BOB, "fleeting"), expires_at=NOW + 1), writer.hashes)])

    writer.remove(ids[:2], False)
    writer.sweep(NOW + 1)

    told = writer._connection.execute("SELECT ts >> 31, ts & 0x7fffffff FROM removal ORDER BY n").fetchall()
    assert sorted(told[:2]) == [(NOW, 1), (NOW + 1, 2)]
    assert told[2:] == [(NOW, 4)]


async def test_the_file_shrinks_beside_readers_and_new_events(tmp_path: Path, writers: Writers) -> None:
    database, socket_path = tmp_path / "torv.sqlite3", tmp_path / "writer.sock"
    pid = writers.start(database, socket_path)
    store = await LinkedStore.connect(database, socket_path, answer_seconds=30)
    kept = [note(BOB, f"kept {n}", created_at=NOW - n) for n in range(300)]
    gone = [note(ALICE, f"{n} {LONG}", created_at=NOW + n) for n in range(600)]
    for start in range(0, 600, 100):
        await keep(store, *map(write, gone[start : start + 100]), *map(write, kept[start // 2 :][:50]))

    async def publish() -> None:
        for one in notes(BOB, 20, created_at=NOW - 1_000):
            assert await keep(store, write(one)) == ["STORED"]
            assert len(await found(store)) >= 300

    publishing = asyncio.create_task(publish())
    assert await store.remove([one.id for one in gone]) == 600
    await publishing

    try:
        assert len(await found(store)) == 320
        more = count(1)
        async with asyncio.timeout(60):
            while database.stat().st_size > 2**20:
                await keep(store, write(note(BOB, f"meanwhile {next(more)}")))
    finally:
        await store.close()
        writers.stop(pid)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
