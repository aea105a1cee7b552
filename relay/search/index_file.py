"""The index file: its tables, and who writes them. It can be made anew from the store at any time.

An entry is filed under ts = created_at << 31 | seq: the newest comes first by itself, and times are ranges.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from relay.nostr.event import Event, EventId
from relay.search.marks import author_mark, kind_mark, marks_of
from relay.search.words import entry_of, fold, text_of
from relay.store.api import Seq, Stored, StoreError

SEQ_BITS = 31
MAX_TS = 2**63 - 1

_FORMAT = 2
"""Goes up when the same events would be filed otherwise."""
_CACHE_KIB = 4_096
"""Full after minutes; with four times as much an event costs the same, and 0.02 reads of a page less."""
_BUSY_SECONDS = 5.0
_CHECKPOINT_PAGES = 4_096
_LEAST_REMOVED = 1_000
_MERGED_PAGES = 2_000
_LEAST_FREE_PAGES = 512
_GIVEN_BACK = 4_096

_TABLES = (
    "CREATE TABLE state(name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID",
    # The words are kept beside the index of them: they are what a hit is ranked by, and what FTS5
    # has to be told to take an entry out.
    """CREATE TABLE entry(
        ts INTEGER PRIMARY KEY, id BLOB NOT NULL, heading TEXT NOT NULL, body TEXT NOT NULL,
        accented TEXT NOT NULL, marks TEXT NOT NULL
    ) STRICT""",
    # `ascii` leaves all beyond ASCII alone: the words come as they shall be found.
    "CREATE VIRTUAL TABLE word USING fts5(text, content='', columnsize=0, tokenize='ascii')",
)


class Filed(NamedTuple):
    """An event as the index keeps it."""

    ts: int
    id: bytes
    heading: str
    body: str
    accented: str
    marks: str


def file_event(row: Stored, event: Event) -> Filed | None:
    """Return what the index keeps of an event; None when it says nothing."""
    text = text_of(event)
    entry = entry_of(text)
    if not entry.body:
        return None
    marks = " ".join(marks_of(event, fold(text.heading)))
    ts = row.created_at << SEQ_BITS | row.seq
    return Filed(ts, bytes.fromhex(event.id), entry.heading, entry.body, entry.accented, marks)


class IndexFile:
    """The index, as its only writer has it open. Every method that changes it is one transaction."""

    def __init__(self, path: Path, *, source: bytes, kinds: frozenset[int]) -> None:
        """Open or make the file; a damaged one, or one of another database or other kinds, begins anew.

        `source` tells the relay's database from any other one. Raises StoreError.
        """
        self._path = path
        self._origin = orjson.dumps([_FORMAT, source.hex(), sorted(kinds)])
        try:
            self._open()
        except sqlite3.OperationalError as error:
            raise StoreError(f"cannot open {path}: {error}") from error
        except sqlite3.DatabaseError:
            self._make()

    def _open(self) -> None:
        self._connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            # Debian's SQLite zeroes freed pages by writing them; FAST zeroes what is written anyway.
            self._connection.execute("PRAGMA secure_delete = FAST")
            # Only an empty file can be told; see the store's schema.
            self._connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._connection.execute("PRAGMA journal_mode = WAL")
            # A power cut may take back commits, never half of one: the cursor goes back with them.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                if not self._connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                    for statement in _TABLES:
                        self._connection.execute(statement)
                    self._set("origin", self._origin)
            if self._get("origin") != self._origin:
                raise sqlite3.DatabaseError("the index of something else")
        except BaseException:
            self._connection.close()
            raise

    def begin_anew(self) -> None:
        """Throw the index away and make an empty one. Raises StoreError."""
        self._connection.close()
        self._make()

    def _make(self) -> None:
        try:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._open()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"cannot make {self._path}: {error}") from error

    @property
    def cursor(self) -> Seq:
        """All events up to here are indexed."""
        return Seq(self._number("cursor"))

    @property
    def patrolled(self) -> int:
        """Entries up to this ts were last looked after; see `Indexer.patrol`."""
        return self._number("patrolled")

    def put(self, entries: Sequence[Filed], cursor: Seq, lag_seconds: float) -> None:
        """File events that are not filed yet, and move the cursor."""
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            # Ascending, or FTS5 writes out what it has gathered at every step back.
            ordered = sorted(entries)
            self._connection.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", ordered)
            self._connection.executemany(
                "INSERT INTO word(rowid, text) VALUES (?, ?)",
                ((entry.ts, entry.body + entry.marks) for entry in ordered),
            )
            self._count(len(ordered))
            self._set("cursor", cursor)
            self._set("lag_seconds", lag_seconds)

    @property
    def removals(self) -> int:
        """What was removed without a word in the log is taken out up to this number; see `Indexer.step`."""
        return self._number("removals")

    def remove(self, entries: Iterable[int], *, removals: int | None = None) -> None:
        """Take entries out, by ts; those that are not there do no harm. `removals`: see there."""
        chosen = orjson.dumps(list(entries)).decode()
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(
                "INSERT INTO word(word, rowid, text) SELECT 'delete', ts, body || marks FROM entry "
                "WHERE ts IN (SELECT value FROM json_each(?))",
                [chosen],
            )
            removed = self._connection.execute(
                "DELETE FROM entry WHERE ts IN (SELECT value FROM json_each(?))", [chosen]
            ).rowcount
            self._count(-removed)
            self._set("removed", self._number("removed") + removed)
            if removals is not None:
                self._set("removals", removals)

    def shrink(self) -> None:
        """Do a little to get rid of what is unused: of words of entries that are gone, then of pages.

        FTS5 only notes that an entry is gone; its words go when the parts of the index that hold both are
        merged. Once a quarter is gone all parts are, a little with each call.
        """
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            merging = self._number("merging")
            if not merging and self._number("removed") > max(_LEAST_REMOVED, self._number("entries") // 3):
                merging = 1
                # Negative: all parts are to become one.
                self._connection.execute(f"INSERT INTO word(word, rank) VALUES ('merge', -{_MERGED_PAGES})")
                self._set("merging", 1)
                self._set("removed", 0)
            elif merging:
                before = self._connection.total_changes
                self._connection.execute(f"INSERT INTO word(word, rank) VALUES ('merge', {_MERGED_PAGES})")
                # https://sqlite.org/fts5.html#the_merge_command: with nothing left to merge, it changes less.
                if self._connection.total_changes - before < 2:
                    self._set("merging", 0)
        ((free,), (pages,)) = (
            self._connection.execute(f"PRAGMA {pragma}").fetchone()
            for pragma in ("freelist_count", "page_count")
        )
        if free > max(_LEAST_FREE_PAGES, pages // 10):
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                # Python takes the first step of a statement without columns, and no further one.
                for _ in range(min(free - pages // 50, _GIVEN_BACK)):
                    self._connection.execute("PRAGMA incremental_vacuum(1)")
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def of_author(
        self, pubkey: str, kind: int | None, *, below: int, limit: int
    ) -> list[tuple[int, EventId]]:
        """Return an author's entries, of one kind or all, as (ts, id), the newest first."""
        question = f'"{author_mark(pubkey)}"' + (f' AND "{kind_mark(kind)}"' if kind is not None else "")
        return self._ids(
            "SELECT ts, id FROM (SELECT rowid FROM word WHERE word MATCH ? AND rowid < ? "
            "ORDER BY rowid DESC LIMIT ?) AS found CROSS JOIN entry ON ts = found.rowid",
            question,
            below,
            limit,
        )

    def after(self, ts: int, *, limit: int) -> list[tuple[int, EventId]]:
        """Return the entries behind ts, as (ts, id), the oldest first."""
        return self._ids("SELECT ts, id FROM entry WHERE ts > ? ORDER BY ts LIMIT ?", ts, limit)

    def set_patrolled(self, ts: int) -> None:
        """See `patrolled`."""
        with self._connection:
            self._set("patrolled", ts)

    def close(self) -> None:
        """Checkpoint and close the file."""
        # Closing alone does so only for the last of all who have it open, the workers among them. What
        # fails here is done at the next start.
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    def _ids(self, question: str, *values: int | str) -> list[tuple[int, EventId]]:
        rows = self._connection.execute(question, values)
        return [(ts, EventId(id_.hex())) for ts, id_ in rows]

    def _count(self, more: int) -> None:
        self._set("entries", self._number("entries") + more)

    def _number(self, name: str) -> int:
        number = self._get(name)
        return number if isinstance(number, int) else 0

    def _get(self, name: str) -> object:
        row = self._connection.execute("SELECT value FROM state WHERE name = ?", [name]).fetchone()
        return row[0] if row else None

    def _set(self, name: str, value: int | float | bytes) -> None:
        self._connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", [name, value])
