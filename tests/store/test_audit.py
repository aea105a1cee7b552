"""Damage is found: one bit of an event or of the index, wherever it lies."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from relay.nostr import kinds
from relay.nostr.event import check_event, decode
from relay.nostr.reasons import Refused
from relay.store.api import RemoveAddress, RemoveEvent, StoreError
from relay.store.sqlite import SqliteWriter, prepare
from relay.store.sqlite.audit import Audit, Finding, contents_of
from tests.events import ALICE, BOB, CAROL, NOW, event, note, pubkey, write
from tests.store.writers import TINY


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with events in all tiers, removed ones, and removals."""
    path = tmp_path_factory.mktemp("audit") / "torv.sqlite3"
    writer = SqliteWriter(path, TINY)
    gone = note(ALICE, "gone")
    page = event(CAROL, 30_023, "page", tags=[["d", "x"]])
    assert page.address is not None
    forget_page = event(CAROL, kinds.DELETION, created_at=NOW + 1, tags=[["a", str(page.address)]])
    batches = [
        [write(note(ALICE, f"{n}", created_at=NOW + n, tags=[["t", "x"]])) for n in range(60)],
        [write(event(BOB, kinds.PROFILE, f"{n}", created_at=NOW + n)) for n in range(20)],
        [write(gone), write(page), write(note(CAROL, "short"), expires_at=None)],
        [write(note(BOB, "long", tags=[["expiration", f"{NOW + 9}"]]), expires_at=NOW + 9)],
        [write(event(BOB, kinds.GIFT_WRAP, tags=[["p", ALICE.public]]), owners=(pubkey(BOB), pubkey(ALICE)))],
        [
            write(
                event(ALICE, kinds.DELETION, tags=[["e", gone.id]]),
                removals=(RemoveEvent(gone.id, pubkey(ALICE)),),
                is_final=True,
            )
        ],
        [write(forget_page, removals=(RemoveAddress(page.address, NOW + 1),), is_final=True)],
    ]
    for batch in batches:
        for start in range(0, len(batch), 8):
            writer.commit([prepare(one, writer.hashes) for one in batch[start : start + 8]])
    writer.remove([note(ALICE, "5", created_at=NOW + 5, tags=[["t", "x"]]).id], True)
    while writer.tidy():
        pass
    writer.close()
    return path


def found_in(path: Path) -> list[Finding]:
    """Look at all of a database, as `torv relay verify` does."""
    audit = Audit(path, is_still=True)
    try:
        found = list(audit.structure())
        for part in audit.log():
            found += part.findings
            for line in part.lines:
                try:
                    check_event(decode(line))
                except Refused as error:
                    found.append(Finding(str(error), ""))
        found += [*audit.removals(), *audit.expiring()]
        for _, findings in audit.index():
            found += findings
        return found
    finally:
        audit.close()


def meaning(path: Path) -> object:
    """Return what the events and the index say; None where they cannot be read."""
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
        try:
            connection.execute("PRAGMA query_only = ON")
            events = connection.execute(
                "SELECT seq, created_at, expires_at, address, owners, postings, json FROM event NOT INDEXED"
            ).fetchall()
            # The kinds of postings that wait to be purged mean nothing.
            postings = connection.execute(
                " UNION ALL ".join(
                    "SELECT h, ts, CASE WHEN ts < 0 OR ts & 0x7fffffff IN (SELECT seq FROM event) THEN kind "
                    f"END FROM ix{tier}"
                    for tier in range(3)
                )
            ).fetchall()
            # A later `until` cannot be told from a request to delete that is not kept any more.
            removals = connection.execute("SELECT n, target, by FROM tombstone").fetchall()
            secret = connection.execute("SELECT hash_key FROM secret").fetchall()
            listed = connection.execute(
                "SELECT seq, expires_at FROM event INDEXED BY event_expiry WHERE expires_at IS NOT NULL"
            ).fetchall()
        except (sqlite3.Error, UnicodeDecodeError):
            return None
    return *(sorted(map(repr, rows)) for rows in (events, postings, removals)), secret, listed


def test_nothing_is_found_in_a_sound_database(sound: Path) -> None:
    assert found_in(sound) == []
    contents = contents_of(sound, lambda events: None)
    assert (contents.events, contents.head, contents.counts["tombstone"]) == (65, 70, 3)


@pytest.mark.parametrize("seed", range(4))
def test_every_flipped_bit_that_means_something_is_found(seed: int, sound: Path, tmp_path: Path) -> None:
    chance = random.Random(seed)
    whole, intact = sound.read_bytes(), meaning(sound)
    damaged = tmp_path / "damaged.sqlite3"
    meaningful = 0

    for _ in range(60):
        place, bit = chance.randrange(len(whole)), chance.randrange(8)
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        damaged.write_bytes(flipped)
        if meaning(damaged) == intact:
            continue  # unused room, or statistics
        meaningful += 1
        try:
            found = found_in(damaged)
        except StoreError:
            continue  # not even opened
        assert found, f"bit {bit} of byte {place}"

    assert meaningful >= 10


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A copy of the sound database, to be changed."""
    (tmp_path / "copy.sqlite3").write_bytes(sound.read_bytes())
    with closing(sqlite3.connect(tmp_path / "copy.sqlite3", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        yield connection


ONE = "(SELECT max(seq) FROM event)"
LIVING = "ts > 0 AND ts & 0x7fffffff IN (SELECT seq FROM event)"
CHANGES = {
    "a posting is missing": (
        f"DELETE FROM ix2 WHERE (h, ts) IN (SELECT h, ts FROM ix2 WHERE {LIVING} LIMIT 1)",
        "1 of its postings are missing",
    ),
    "a posting too many": (
        "INSERT INTO ix0 SELECT h + 1, ts, kind FROM ix2 WHERE ts > 0 LIMIT 1",
        "a posting of an event that is not there",
    ),
    "a posting twice": (
        "INSERT INTO ix0 SELECT h, ts, kind FROM ix2 WHERE ts > 0 LIMIT 1",
        "the index is out of order",
    ),
    "an event without its row": (
        f"DELETE FROM event WHERE seq = {ONE}",
        "a posting of an event that is not there",
    ),
    "another kind": ("UPDATE ix2 SET kind = kind + 1", "a posting has another kind than the event"),
    "another time": (f"UPDATE event SET created_at = 5 WHERE seq = {ONE}", "its row has another created_at"),
    "a removal is gone": ("DELETE FROM tombstone WHERE by <> ''", "what it removes is not noted"),
    "a removal of nothing": ("UPDATE tombstone SET target = x'78'", "a removal names nothing"),
    "an owner more": (
        "UPDATE event SET owners = CAST(hex(zeroblob(32)) AS BLOB) WHERE owners IS NULL",
        "its owners are not named in the event",
    ),
    "a leave that was not heeded": (
        f"INSERT INTO farewell SELECT substr(json, 84, 64), 4000000000, 0 FROM event WHERE seq = {ONE}",
        "it is older than its owner's leave",
    ),
    "a log that ends too early": ("UPDATE sqlite_sequence SET seq = 3", "the log is out of order"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_finding_says_what_is_wrong(name: str, copy: sqlite3.Connection, tmp_path: Path) -> None:
    change, expected = CHANGES[name]
    copy.execute(change)
    copy.close()

    found = found_in(tmp_path / "copy.sqlite3")

    assert any(finding.what.startswith(expected) for finding in found), found


def test_an_event_that_was_removed_is_reported(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.sqlite3"
    path.write_bytes(sound.read_bytes())
    writer = SqliteWriter(path, TINY)
    kept, page = (
        note(ALICE, "3", created_at=NOW + 3, tags=[["t", "x"]]),
        event(BOB, 0, "19", created_at=NOW + 19),
    )
    assert page.address is not None
    # As if they had come in spite of it.
    for target, h, by in (
        (kept.id, writer.hashes.id(kept.id), ALICE.public.encode()),
        (str(page.address), writer.hashes.address(page.address), None),
    ):
        writer._connection.execute(
            "INSERT INTO tombstone(target, by, until) VALUES (?, ?, 4000000000)", (target.encode(), by)
        )
        writer._connection.execute("INSERT INTO ix0 VALUES (?, -last_insert_rowid(), -1)", (h,))
    writer.close()

    found = found_in(path)

    assert [finding.what for finding in found] == ["an event that was removed is there"] * 2
