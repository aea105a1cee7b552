"""Looking into the index: the newest entries that match, the best of them first. Read only.

All work is bounded: of very many matches only the newest are ranked, and a look-up that has walked
through the index for too long ends with what it found.
"""

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from relay.nostr.filter import Filter
from relay.search.index_file import MAX_TS, SEQ_BITS
from relay.search.marks import MAX_PREFIX, NAMED, conditions, prefix_mark
from relay.search.words import Words
from relay.store.api import StoreError

POOL = 1_000
"""The newest matches are ranked among each other, so many at a time."""
FIND_SECONDS = 0.5
"""After so long no further window is looked through."""

_FIRST_WINDOW = 65_536
"""About how many of the newest entries are looked through first: a match of two frequent words that
seldom meet is found by walking through both lists."""
_GROWTH = 4
_CACHE_KIB = 8_192
_MAPPED_BYTES = 2**31
_BUSY_SECONDS = 5.0
_MONTH = 30 * 86_400


class Hit(NamedTuple):
    """A proposal; the store knows whether it is there and may be seen."""

    score: float
    ts: int
    id: bytes


@dataclass(frozen=True, slots=True)
class Pool:
    """Some of the matches, the best first; no other match is newer than the oldest of them."""

    hits: list[Hit]
    below: int | None
    """Where to look for more, as ts; None: there is no more, or it would take too long."""


@dataclass(frozen=True, slots=True)
class Question:
    """A filter with words, as the index is asked."""

    match: str
    """For FTS5: only words in double quotes, AND, OR, NOT and brackets."""
    ranking: "_Ranking"
    low: int
    high: int
    """The range of ts, inclusive."""


def question_of(wanted: Filter, asked: Words, searched: frozenset[int]) -> Question | None:
    """Return what to ask the index; None where nothing can match. `searched` kinds are indexed."""
    marks = conditions(wanted, searched)
    if marks is None or not asked.units:
        return None
    by_name = wanted.kinds is not None and wanted.kinds & searched <= NAMED
    *units, last = (_quoted(unit) for unit in asked.units)
    # Names are looked up while they are typed: the last word may be the beginning of one.
    if by_name and " " not in asked.units[-1] and len(asked.units[-1]) <= MAX_PREFIX:
        last = f"({last} OR {_quoted(prefix_mark(asked.units[-1]))})"
    alternatives = (f"({' OR '.join(map(_quoted, group))})" for group in marks.groups)
    low = 0 if wanted.since is None else max(0, wanted.since) << SEQ_BITS
    high = MAX_TS if wanted.until is None else max(-1, wanted.until + 1) << SEQ_BITS
    match = " AND ".join((*units, last, *alternatives))
    if marks.none_of:
        match = f"({match}) NOT ({' OR '.join(map(_quoted, marks.none_of))})"
    ranking = _Ranking(asked, by_name=by_name)
    return Question(match, ranking, min(low, MAX_TS), min(high - 1, MAX_TS))


def _quoted(unit: str) -> str:
    # Words hold letters, digits and symbols only: there is nothing to escape.
    return f'"{unit}"'


class _Ranking:
    """How good a match is, after BM25: repetitions count less and less, and so do words of long texts.

    Every word is in every match, so how rare each is would only weigh repetitions: that part is left
    out. A word in the heading counts fourfold, the beginning of a name twofold; words side by side, and
    words spelled as asked, count more.
    """

    # Counting in Python beats SQL's replace() six times: 3 µs an entry and word.
    def __init__(self, asked: Words, *, by_name: bool) -> None:
        self._units = [f" {unit} " for unit in asked.units]
        self._together = f" {' '.join(asked.units)} " if len(asked.units) > 1 else None
        self._beginning = f" {asked.units[-1]}" if by_name else None
        self._accented = [f" {word} " for word in asked.accented]

    def score(self, heading: str, body: str, accented: str, age_seconds: int) -> float:
        """Return a number above 0 for what an entry says."""
        # BM25's k1 = 1.2 and b = 0.5, for texts of about 200 characters; below 80 none is better.
        slowness = 0.6 + 0.003 * max(len(body), 80)
        quality = 0.0
        for unit in self._units:
            times = body.count(unit)
            if heading:
                times += 3 * heading.count(unit)
                if self._beginning is not None and unit is self._units[-1]:
                    times += 2 * heading.count(self._beginning)
            quality += 2.2 * times / (times + slowness)
        if self._together is not None and self._together in body:
            quality += len(self._units) / 2
        for word in self._accented:
            quality += 0.3 * (word in accented)
        # Mild: what is a month old counts a tenth less, what is very old a fifth.
        return quality * (0.8 + 0.2 / (1 + max(0, age_seconds) / _MONTH))


class IndexReader:
    """The index file as a process that answers questions has it open; one thread at a time."""

    def __init__(self, path: Path) -> None:
        """The file may come later, and may be made anew by its writer; without one nothing is found."""
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def find(
        self, question: Question, *, below: int, now: int, clock: Callable[[], float] = monotonic
    ) -> Pool:
        """Return the next matches with ts < `below`. Raises StoreError."""
        until = clock() + FIND_SECONDS
        try:
            connection = self._current()
            span = None if connection is None else self._span(connection)
            if connection is None or span is None:
                return Pool([], None)
            oldest, newest, width = span
            low, high = max(question.low, oldest), min(question.high, newest, below - 1)
            hits: list[Hit] = []
            while high >= low and len(hits) < POOL and clock() < until:
                start = max(low, high - width)
                hits += self._window(connection, question, start, high, POOL - len(hits), now)
                width *= _GROWTH
                high = start - 1
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StoreError(f"cannot search {self._path}: {error}") from error
        full = len(hits) >= POOL
        below = min((hit.ts for hit in hits), default=0)
        hits.sort(reverse=True)
        return Pool(hits, below if full else None)

    def progress(self) -> tuple[int, float]:
        """Return the cursor, and how long the events of the last batch had waited. Raises StoreError."""
        try:
            connection = self._current()
            if connection is None:
                return 0, 0.0
            found = dict(connection.execute("SELECT name, value FROM state").fetchall())
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StoreError(f"cannot read {self._path}: {error}") from error
        return int(found.get("cursor", 0)), float(found.get("lag_seconds", 0.0))

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _current(self) -> sqlite3.Connection | None:
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            self.close()
            return None
        if inode != self._inode:
            self.close()
        if self._connection is None:
            connection = sqlite3.connect(
                f"file:{self._path}?mode=rw",
                uri=True,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
            connection.execute("PRAGMA query_only = ON")
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'state'").fetchone():
                # It is being made at this moment: all of its tables come in one transaction.
                connection.close()
                return None
            self._connection, self._inode = connection, inode
        return self._connection

    def _span(self, connection: sqlite3.Connection) -> tuple[int, int, int] | None:
        """Return the oldest and the newest ts, and how wide the first window is."""
        oldest, newest = connection.execute(
            "SELECT (SELECT min(ts) FROM entry), (SELECT max(ts) FROM entry)"
        ).fetchone()
        if oldest is None:
            return None
        (entries,) = connection.execute("SELECT value FROM state WHERE name = 'entries'").fetchone()
        return oldest, newest, (newest - oldest) * _FIRST_WINDOW // max(1, entries) + 1

    def _window(
        self, connection: sqlite3.Connection, question: Question, low: int, high: int, most: int, now: int
    ) -> Iterable[Hit]:
        rows = connection.execute(
            "SELECT ts, id, heading, body, accented FROM (SELECT rowid FROM word WHERE word MATCH ? "
            "AND rowid BETWEEN ? AND ? ORDER BY rowid DESC LIMIT ?) AS found "
            "CROSS JOIN entry ON ts = found.rowid",
            [question.match, low, high, most],
        ).fetchall()
        score = question.ranking.score
        return [
            Hit(score(heading, body, accented, now - (ts >> SEQ_BITS)), ts, id_)
            for ts, id_, heading, body, accented in rows
        ]
