"""What only a larger database needs: feeds, long walks past removed events, large counts."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from relay.nostr.event import Event, EventId
from relay.nostr.filter import Filter
from relay.store.api import MAX_SEQ, RemoveEvent, Seq, Write
from relay.store.sqlite import Hashes, SqliteWriter, Tuning, prepare
from relay.store.sqlite.plan import Kinds
from relay.store.sqlite.reader import SqliteReader
from tests.events import ALICE, NOW, author, event, note, pubkey, write

ALL = Seq(MAX_SEQ)
FOLLOWED = [author(f"followed {n}") for n in range(20)]
"""More than one stream merges."""
OTHERS = [author(f"other {n}") for n in range(20)]
SQUARE = [["t", "square"]]


def commit(writer: SqliteWriter, writes: Sequence[Write]) -> None:
    hashes = Hashes(writer.key)
    writer.commit([prepare(one, hashes) for one in writes])


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SqliteWriter]:
    with closing(SqliteWriter(tmp_path / "torv.sqlite3")) as writer:
        yield writer


@pytest.fixture
def reader(writer: SqliteWriter, tmp_path: Path) -> Iterator[SqliteReader]:
    with closing(SqliteReader(tmp_path / "torv.sqlite3")) as reader:
        yield reader


def answer(reader: SqliteReader, wanted: Filter, *, upto: Seq = ALL) -> list[EventId]:
    """Return the ids that are found, as many as asked for."""
    found = [row.id for page in reader.scan(wanted, upto=upto, now=NOW) for row in page]
    return found[: wanted.limit]


def number(reader: SqliteReader, wanted: Filter, *, upto: Seq = ALL) -> int:
    kinds = None if wanted.kinds is None else Kinds(wanted.kinds)
    return sum(reader.count(wanted, kinds, upto=upto, now=NOW))


def steps(reader: SqliteReader, wanted: Filter) -> int:
    """Return about how many steps of SQLite's machine the answer takes, none of it beyond its limit."""
    taken = 0

    def count_steps() -> None:
        nonlocal taken
        taken += 100

    reader._connection.set_progress_handler(count_steps, 100)
    left = wanted.limit or 0
    for page in reader.scan(wanted, upto=ALL, now=NOW):
        left -= len(page)
        if left <= 0:
            break
    reader._connection.set_progress_handler(None, 0)
    return taken


def newest_first(events: Sequence[Event], wanted: Filter) -> list[EventId]:
    matching = [one for one in events if wanted.matches(one)]
    matching.sort(key=lambda one: (-one.created_at, one.id))
    return [one.id for one in matching][: wanted.limit]


FEED = Filter(authors=frozenset(key.public for key in FOLLOWED), kinds=frozenset([1, 6]), limit=50)


@pytest.mark.parametrize("per_second", [1, 7, 300], ids=lambda number: f"{number} a second")
@pytest.mark.parametrize("every", [2, 9, 40], ids=lambda number: f"one in {number}")
def test_a_feed_is_exact_however_much_its_authors_write(
    writer: SqliteWriter, reader: SqliteReader, per_second: int, every: int
) -> None:
    history = [
        event(
            (FOLLOWED if n % every == 0 else OTHERS)[n // every % 20],
            (1, 6, 7)[n % 3],
            f"{n}",
            created_at=NOW + n // per_second,
        )
        for n in range(1_500)
    ]
    commit(writer, [write(one) for one in history])

    for wanted in (
        FEED,
        Filter(authors=FEED.authors, limit=50),
        Filter(authors=FEED.authors, kinds=FEED.kinds, until=NOW + 700 // per_second, limit=500),
        Filter(authors=FEED.authors, kinds=frozenset(range(1, 9)), since=NOW + 100 // per_second, limit=500),
    ):
        assert answer(reader, wanted) == newest_first(history, wanted)


def test_authors_who_fell_silent_are_not_looked_for_among_everybody(
    writer: SqliteWriter, reader: SqliteReader
) -> None:
    silent = [note(FOLLOWED[n % 20], f"{n}", created_at=NOW + n) for n in range(100)]
    since = [note(OTHERS[n % 20], f"{n}", created_at=NOW + 10_000 + n) for n in range(6_000)]
    commit(writer, [write(one) for one in silent + since])

    assert answer(reader, FEED) == newest_first(silent, FEED)
    # To read all the 6,000 rows of the others would take some 25 steps each.
    assert steps(reader, FEED) < 60_000


def test_what_came_after_the_line_is_in_no_feed(writer: SqliteWriter, reader: SqliteReader) -> None:
    earlier = [note(FOLLOWED[n % 20], f"{n}", created_at=NOW + n) for n in range(60)]
    commit(writer, [write(one) for one in earlier])
    line = reader.head()
    commit(writer, [write(note(FOLLOWED[n % 20], f"later {n}", created_at=NOW + n)) for n in range(60)])

    assert answer(reader, FEED, upto=line) == newest_first(earlier, FEED)


def test_an_answer_is_found_behind_very_many_removed_events(
    writer: SqliteWriter, reader: SqliteReader
) -> None:
    history = [note(ALICE, f"{n}", created_at=NOW + n, tags=SQUARE) for n in range(3_000)]
    commit(writer, [write(one) for one in history])
    removals = tuple(RemoveEvent(one.id, pubkey(ALICE)) for one in history[500:])
    commit(writer, [write(note(ALICE, "bearer", created_at=NOW), removals=removals)])
    wanted = Filter(tags={"t": frozenset(["square"])}, limit=20)

    assert answer(reader, wanted) == newest_first(history[:500], wanted)
    assert answer(reader, Filter(tags=wanted.tags, kinds=frozenset([1]), limit=20)) == (
        newest_first(history[:500], wanted)
    )


def test_a_large_count_leaves_out_what_was_removed_and_hears_of_more(
    writer: SqliteWriter, reader: SqliteReader
) -> None:
    history = [event(ALICE, (1, 7)[n % 2], f"{n}", created_at=NOW + n, tags=SQUARE) for n in range(5_000)]
    commit(writer, [write(one) for one in history])
    square, notes = {"t": frozenset(["square"])}, frozenset([1])
    line = reader.head()

    def remove(events: Sequence[Event]) -> None:
        removals = tuple(RemoveEvent(one.id, pubkey(ALICE)) for one in events)
        commit(writer, [write(note(ALICE, events[0].id, created_at=NOW), removals=removals)])

    assert number(reader, Filter(tags=square)) == 5_000
    remove(history[:300])
    assert number(reader, Filter(tags=square)) == 4_700
    assert number(reader, Filter(tags=square, kinds=notes)) == 2_350
    remove(history[4_800:])
    assert number(reader, Filter(tags=square)) == 4_500
    assert number(reader, Filter(tags=square), upto=Seq(line - 1_000)) == 3_700
    assert number(reader, Filter(tags=square, since=NOW + 100, until=NOW + 4_900)) == 4_500
    assert number(reader, Filter(tags=square, since=NOW + 400, until=NOW + 4_799)) == 4_400


def test_a_large_count_stays_right_while_removed_events_are_purged(tmp_path: Path) -> None:
    database = tmp_path / "torv.sqlite3"
    history = [note(ALICE, f"{n}", created_at=NOW + n, tags=SQUARE) for n in range(4_500)]
    removals = tuple(RemoveEvent(one.id, pubkey(ALICE)) for one in history[:2_000])
    bearer = write(note(ALICE, "bearer", created_at=NOW), removals=removals)
    wanted = Filter(tags={"t": frozenset(["square"])})

    tuning = Tuning(dead_postings=4_000, slice_rows=1_024)
    with closing(SqliteWriter(database, tuning)) as writer, closing(SqliteReader(database)) as reader:
        commit(writer, [write(one) for one in history])
        commit(writer, [bearer])
        counts = [number(reader, wanted)]
        while writer.tidy():
            counts.append(number(reader, wanted))

    assert set(counts) == {2_500}
    assert len(counts) > 5
