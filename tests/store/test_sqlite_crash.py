"""What was acknowledged survives a crash, and the write-ahead log stays short."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from relay.nostr.event import EventId
from relay.store.sqlite import Hashes, Prepared, SqliteStore, SqliteWriter, prepare
from tests.events import ALICE, NOW, note, write
from tests.store.reading import EVERYTHING, count
from tests.store.writers import TINY

MIB = 2**20


def publisher(database: Path, *how: str, under: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
    """Start a process that publishes notes and writes the id of each when it is acknowledged."""
    return subprocess.Popen(
        [*under, sys.executable, "-m", "tests.store.publisher", str(database), *how],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


async def test_kill_9_between_and_within_commits_loses_nothing_acknowledged(tmp_path: Path) -> None:
    database = tmp_path / "torv.sqlite3"
    acknowledged: list[bytes] = []
    for lines in (1, 40, 200):
        process = publisher(database, "inf", "4", "tiny")
        assert process.stdout is not None
        acknowledged += [process.stdout.readline()[:-1] for _ in range(lines)]
        process.kill()
        with process:
            acknowledged += process.stdout.read().split()

    store = await SqliteStore.open(database, tuning=TINY)
    known = await store.known([EventId(id_.decode()) for id_ in acknowledged])
    counted = await count(store, EVERYTHING)
    await store.close()

    assert len(acknowledged) >= 241
    assert known == {id_.decode() for id_ in acknowledged}
    assert counted >= len(known)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        # Every posting belongs to an event, and every event has its postings.
        assert connection.execute(
            "SELECT (SELECT sum(length(postings) / 8) FROM event), "
            "(SELECT count(*) FROM ix0) + (SELECT count(*) FROM ix1) + (SELECT count(*) FROM ix2)"
        ).fetchone() == (5 * counted, 5 * counted)


def test_the_log_is_on_the_disk_before_the_acknowledgement(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    database = tmp_path / "torv.sqlite3"
    strace = ("strace", "-f", "-y", "-e", "trace=fdatasync,write,pwrite64", "-o", str(trace))
    with publisher(database, "12", "1", "usual", under=strace) as process:
        assert process.stdout is not None
        assert len(process.stdout.read().split()) == 12
    assert process.returncode == 0

    happened: list[str] = []
    acknowledgements = 0
    for line in trace.read_text().splitlines():
        if re.search(r"pwrite64\(\d+<[^>]*-wal>", line):
            happened.append("written")
        elif re.search(r"fdatasync\(\d+<[^>]*-wal>\) += 0", line) or "fdatasync resumed>) " in line:
            happened.append("synced")
        elif re.search(r'write\(1<[^>]*>, "[0-9a-f]', line):
            acknowledgements += 1
            assert happened[-2:] == ["written", "synced"]
            happened.append("acknowledged")
    assert acknowledgements == 12


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SqliteWriter]:
    """A writer of an empty database."""
    writer = SqliteWriter(tmp_path / "torv.sqlite3")
    yield writer
    writer.close()


def long_notes(writer: SqliteWriter, start: int) -> list[Prepared]:
    """Return writes of four MiB together."""
    hashes = Hashes(writer.key)
    return [
        prepare(write(note(ALICE, f"{n}" + "x" * (MIB // 2), created_at=NOW + n)), hashes)
        for n in range(start, start + 8)
    ]


def test_the_log_is_copied_beside_the_commits_and_stays_short(writer: SqliteWriter, tmp_path: Path) -> None:
    log = tmp_path / "torv.sqlite3-wal"
    copying: list[threading.Thread] = []

    for n in range(40):
        writer.commit(long_notes(writer, 8 * n))
        assert log.stat().st_size < 64 * MIB
        if writer.checkpoint_due() and not any(thread.is_alive() for thread in copying):
            copying.append(threading.Thread(target=writer.checkpoint))
            copying[-1].start()

    for thread in copying:
        thread.join()
    assert (tmp_path / "torv.sqlite3").stat().st_size > 100 * MIB


def test_the_log_is_begun_anew_once_all_of_it_was_copied(writer: SqliteWriter, tmp_path: Path) -> None:
    log = tmp_path / "torv.sqlite3-wal"
    for n in range(7):
        writer.commit(long_notes(writer, 8 * n))
    assert writer.checkpoint_due()
    length = log.stat().st_size

    writer.checkpoint()
    assert not writer.checkpoint_due()
    for n in range(7, 10):
        writer.commit(long_notes(writer, 8 * n))

    assert log.stat().st_size == length


def test_a_lengthened_log_holds_commits_and_survives_a_crash(writer: SqliteWriter, tmp_path: Path) -> None:
    log = tmp_path / "torv.sqlite3-wal"
    writer.lengthen_log()
    writer.commit(long_notes(writer, 0))
    writer.lengthen_log()
    assert log.stat().st_size == 28 * MIB

    # As a power cut would leave it.
    after = tmp_path / "after"
    after.mkdir()
    for name in ("torv.sqlite3", "torv.sqlite3-wal"):
        (after / name).write_bytes((tmp_path / name).read_bytes())
    survivor = SqliteWriter(after / "torv.sqlite3")

    assert survivor.head == 8
    survivor.lengthen_log()
    assert survivor.commit(long_notes(survivor, 8)).upto == 16
    survivor.close()
    assert os.listdir(after) == ["torv.sqlite3"]


def test_a_log_that_nobody_copies_is_copied_by_the_commits(writer: SqliteWriter, tmp_path: Path) -> None:
    for n in range(40):
        writer.commit(long_notes(writer, 8 * n))

    assert (tmp_path / "torv.sqlite3-wal").stat().st_size < 64 * MIB


async def test_a_cancelled_write_neither_hangs_nor_harms_the_others(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "torv.sqlite3")
    writes = [asyncio.ensure_future(store.write([write(note(ALICE, f"{n}"))])) for n in range(3)]
    await asyncio.sleep(0)
    writes[1].cancel()

    results = await asyncio.gather(*writes, return_exceptions=True)
    await store.close()

    assert [isinstance(result, asyncio.CancelledError) for result in results] == [False, True, False]
    assert os.listdir(tmp_path) == ["torv.sqlite3"]
