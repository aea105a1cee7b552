"""Work of a statement is bounded, whatever the database holds: looked at in SQLite's own plans."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from relay.nostr.filter import Filter
from relay.store.api import MAX_SEQ, RemoveAddress, RemoveEvent, Seq, Write
from relay.store.sqlite import Hashes, SqliteWriter, prepare
from relay.store.sqlite.plan import Drive, Keys, Kinds, Span
from relay.store.sqlite.postings import MAX_TS
from relay.store.sqlite.reader import SqliteReader
from tests.events import ALICE, BOB, CAROL, NOW, event, note, pubkey, write
from tests.store.writers import TINY

ALL = Seq(MAX_SEQ)
A, B, C = ALICE.public, BOB.public, CAROL.public
TAGGED = [["t", "square"], ["p", B]]

FILTERS = {
    "everything": Filter(),
    "ids": Filter(ids=frozenset(["00" * 32, "ff" * 32])),
    "one author": Filter(authors=frozenset([A])),
    "authors": Filter(authors=frozenset([A, B])),
    "author and kind": Filter(authors=frozenset([A]), kinds=frozenset([1])),
    "authors and kinds": Filter(authors=frozenset([A, B]), kinds=frozenset([1, 7])),
    "author and very many kinds": Filter(authors=frozenset([A]), kinds=frozenset(range(2_000))),
    "kinds": Filter(kinds=frozenset([1, 7])),
    "tag": Filter(tags={"t": frozenset(["square"])}),
    "tag and kind": Filter(tags={"p": frozenset([B])}, kinds=frozenset([1])),
    "tags": Filter(tags={"t": frozenset(["square", "cats"]), "p": frozenset([B])}),
    "tag and author": Filter(tags={"t": frozenset(["square"])}, authors=frozenset([A])),
    "span": Filter(since=NOW, until=NOW + 20),
    "page": Filter(authors=frozenset([A]), until=NOW + 150, limit=10),
}


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SqliteWriter]:
    """A writer whose tiny tiers all hold some of 300 notes, two in each second."""
    writer = SqliteWriter(tmp_path / "torv.sqlite3", TINY)
    history = [note(ALICE, f"{n}", created_at=NOW + n // 2, tags=TAGGED) for n in range(300)]
    for start in range(0, len(history), 20):
        commit(writer, [write(one) for one in history[start : start + 20]])
    yield writer
    writer.close()


@pytest.fixture
def reader(writer: SqliteWriter, tmp_path: Path) -> Iterator[SqliteReader]:
    """A reader of what the writer wrote."""
    reader = SqliteReader(tmp_path / "torv.sqlite3")
    yield reader
    reader.close()


def commit(writer: SqliteWriter, writes: Sequence[Write]) -> None:
    hashes = Hashes(writer.key)
    writer.commit([prepare(one, hashes) for one in writes])


def plan(connection: sqlite3.Connection, statement: str) -> list[str]:
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]


# Lists of parameters and rows that were found already; and the purge's own tables in memory.
BOUNDED = re.compile(
    r"SCAN (json_each|CONSTANT ROW|\(subquery-\d+\)|\d+ CONSTANT ROWS?|purged|sqlite_sequence)"
)


def unbounded_steps(connection: sqlite3.Connection, statements: set[str]) -> list[tuple[str, str]]:
    """Return the steps, with their statements, that read a whole table or sort an unknown number of rows."""
    return [
        (step, statement)
        for statement in statements
        if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE)", statement)
        for step in plan(connection, statement)
        if (step.startswith("SCAN") and not BOUNDED.match(step)) or "TEMP B-TREE" in step
    ]


@pytest.mark.parametrize("wanted", FILTERS.values(), ids=FILTERS)
def test_no_question_scans_a_table_or_sorts_in_sql(reader: SqliteReader, wanted: Filter) -> None:
    connection = reader._connection
    statements: set[str] = set()
    connection.set_trace_callback(statements.add)
    kinds = None if wanted.kinds is None else Kinds(wanted.kinds)

    list(reader.scan(wanted, upto=ALL, now=NOW))
    list(reader.count(wanted, kinds, upto=Seq(200), now=NOW))
    list(reader.count(wanted, Kinds(frozenset([4]), excluded=True), upto=ALL, now=NOW))
    list(reader.matches(wanted, kinds, upto=ALL, now=NOW, with_rows=False))
    connection.set_trace_callback(None)

    assert statements
    assert [s[0] for s in unbounded_steps(connection, statements)] == []


def test_the_log_and_the_dump_follow_their_cursors(reader: SqliteReader) -> None:
    connection = reader._connection
    statements: set[str] = set()
    connection.set_trace_callback(statements.add)

    list(reader.log(after=Seq(0), upto=reader.head(), now=NOW))
    list(reader.dump(upto=ALL, now=NOW))
    connection.set_trace_callback(None)

    assert statements
    assert [s[0] for s in unbounded_steps(connection, statements)] == []


def test_no_commit_merge_purge_or_sweep_scans_a_table(writer: SqliteWriter) -> None:
    connection = writer._connection
    statements: set[str] = set()
    connection.set_trace_callback(statements.add)
    profiles = [event(BOB, 0, f"{n}", created_at=NOW + n) for n in range(60)]
    removed = note(CAROL, "removed")
    address = profiles[0].address
    assert address is not None

    for profile in profiles:
        commit(writer, [write(profile, expires_at=NOW)])
    commit(writer, [write(removed), write(removed)])
    by = pubkey(CAROL)
    commit(writer, [write(note(CAROL, "bearer"), removals=(RemoveEvent(removed.id, by),))])
    for until in (NOW, NOW + 10):
        bearer = note(BOB, f"until {until}")
        commit(writer, [write(bearer, removals=(RemoveAddress(address, until),))])
    commit(writer, [write(removed)])
    assert writer.sweep(NOW) == 1
    while writer.tidy():
        pass
    connection.set_trace_callback(None)

    assert any("DELETE FROM dead" in statement for statement in statements)
    assert [s[0] for s in unbounded_steps(connection, statements)] == []


PAGES = {
    "newest": Filter(authors=frozenset([A]), limit=20),
    "deep": Filter(authors=frozenset([A]), until=NOW + 500, limit=20),
    "by kind": Filter(authors=frozenset([A]), kinds=frozenset([1]), until=NOW + 5_000, limit=20),
    "by two kinds": Filter(authors=frozenset([A]), kinds=frozenset([1, 6]), until=NOW + 5_000, limit=20),
    "with another": Filter(authors=frozenset([A, B]), until=NOW + 5_000, limit=20),
    "by tag": Filter(tags={"t": frozenset(["square"])}, until=NOW + 5_000, limit=20),
}


@pytest.fixture(scope="module")
def prolific(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which Alice wrote 10,000 notes."""
    database = tmp_path_factory.mktemp("prolific") / "torv.sqlite3"
    with closing(SqliteWriter(database)) as writer:
        history = [note(ALICE, created_at=NOW + n, tags=[["t", "square"]]) for n in range(10_000)]
        commit(writer, [write(one) for one in history])
    return database


@pytest.mark.parametrize("wanted", PAGES.values(), ids=PAGES)
def test_a_page_of_a_prolific_author_costs_little_however_deep(prolific: Path, wanted: Filter) -> None:
    with closing(SqliteReader(prolific)) as reader:
        steps = 0

        def count_steps() -> None:
            nonlocal steps
            steps += 100

        reader._connection.set_progress_handler(count_steps, 100)
        page = next(page for page in reader.scan(wanted, upto=ALL, now=NOW) if page)

        assert len(page) == 20
        # Reading all of the author's postings would be 10,000 rows of some ten steps each.
        assert steps < 40_000


@pytest.mark.parametrize("walk", [16, 32, 40, 48])
def test_what_was_removed_is_walked_over_to_the_living_behind_it(
    writer: SqliteWriter, reader: SqliteReader, walk: int
) -> None:
    everything = list(reader.scan(Filter(authors=frozenset([A])), upto=ALL, now=NOW))
    newest = [row for page in everything for row in page][:40]
    bearer = note(ALICE, "bearer", created_at=NOW - 1)
    removals = tuple(RemoveEvent(row.id, pubkey(ALICE)) for row in newest)
    commit(writer, [write(bearer, removals=removals)])
    drive = Drive(Keys.AUTHORS, (reader._hashes.author(A),), None, True)
    high, found = MAX_TS, []

    # A slice may end anywhere among what was removed, also where a batch of rows ends.
    while high >= 0:
        rows, low = reader._rows.newest(drive, Span(0, high), rows=16, walk=walk, upto=ALL, now=NOW)
        assert len(rows) <= walk
        found += rows
        high = low - 1

    assert len(found) == 300 - 40 + 1


ANSWERED_AT_ONCE = {
    "an author's notes": Filter(authors=frozenset([A]), kinds=frozenset([1]), limit=20),
    "a tag": Filter(tags={"t": frozenset(["square"])}, limit=20),
    "a tag and a kind": Filter(tags={"p": frozenset([B])}, kinds=frozenset([1]), limit=20),
    "the newest": Filter(kinds=frozenset([1]), limit=500),
    "profiles": Filter(authors=frozenset([A, B, C]), kinds=frozenset([0]), limit=500),
    "ids": Filter(ids=frozenset(["00" * 32, "ff" * 32]), limit=500),
}


@pytest.mark.parametrize("wanted", ANSWERED_AT_ONCE.values(), ids=ANSWERED_AT_ONCE)
def test_a_small_question_is_answered_at_once(reader: SqliteReader, wanted: Filter) -> None:
    found = reader.at_once(wanted, upto=ALL, now=NOW)

    assert found is not None
    rows, is_all = found
    scanned = [row for page in reader.scan(wanted, upto=ALL, now=NOW) for row in page]
    assert rows == scanned[: len(rows)]
    assert is_all or len(rows) >= 20
